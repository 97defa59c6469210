"""The node by night: front door, worker, reports, back door, console."""
