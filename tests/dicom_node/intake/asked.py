"""What tests of the front door ask the database for."""

INSTANCES = "SELECT sop_instance_uid, path, size_bytes, digest FROM instance"
REFUSALS = "SELECT subject, reason, detail, peer, times FROM refusal"
