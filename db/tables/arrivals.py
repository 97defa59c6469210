"""
What arrived, and what was turned away. Paths live in `instance` alone; no patient identity is anywhere.
"""

import sqlalchemy as sa

from db.columns import MultiValue, Numbers, SafeText, UtcTime, Word, word
from db.tables.base import ID, KEY, UID, belongs_to, metadata, row_id, where
from db.tables.states import StudyState
from engine.records import Reason

study = sa.Table(
    "study",
    metadata,
    row_id(),
    sa.Column("study_instance_uid", UID, nullable=False, unique=True),
    sa.Column("patient_key", KEY, nullable=False, index=True),
    sa.Column("state", Word(StudyState), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every batch that brings it new instances
    sa.Column("opened_at", UtcTime, nullable=False),  # its first new instance since it was last closed
    sa.Column("last_received_at", UtcTime, nullable=False),
    sa.Column("closed_at", UtcTime),
)
sa.Index("ix_study_receiving", study.c.last_received_at, **where(study.c.state == word(StudyState.RECEIVING)))

scanner = sa.Table(  # a machine with what else decides what its HU mean: kernel and tube voltage
    "scanner",
    metadata,
    row_id(),
    sa.Column("label", sa.String(400), nullable=False, unique=True),  # what follows, in one text
    sa.Column("manufacturer", SafeText(64)),
    sa.Column("manufacturer_model_name", SafeText(64)),
    sa.Column("station_name", SafeText(64)),  # which of a site's scanners
    sa.Column("convolution_kernel", MultiValue(256)),
    sa.Column("kvp", sa.Double),
)

series = sa.Table(
    "series",
    metadata,
    row_id(),
    belongs_to("study"),
    sa.Column("series_instance_uid", UID, nullable=False, unique=True),
    sa.Column("revision", sa.Integer, nullable=False),  # grows with every batch that brings it new instances
    # what its headers say together; written when the study is closed, for people and population studies
    sa.Column("instance_count", sa.Integer),
    sa.Column("patient_sex", SafeText(16)),
    sa.Column("patient_age", sa.Integer),  # years
    sa.Column("study_date", SafeText(8)),
    sa.Column("study_day", sa.Integer),  # the same, as days since 1970-01-01: both databases subtract it alike
    sa.Column("acquisition_date", SafeText(8)),
    sa.Column("accession_key", KEY),  # keyed hash of the accession number
    sa.Column("scanner_id", ID, sa.ForeignKey("scanner.id")),
    sa.Column("modality", SafeText(16)),
    sa.Column("image_type", MultiValue(256)),
    sa.Column("body_part_examined", SafeText(64)),
    sa.Column("manufacturer", SafeText(64)),
    sa.Column("manufacturer_model_name", SafeText(64)),
    sa.Column("station_name", SafeText(64)),
    sa.Column("convolution_kernel", MultiValue(256)),
    sa.Column("slice_thickness", sa.Double),  # mm
    sa.Column("kvp", sa.Double),
    sa.Column("contrast_bolus_agent", sa.Boolean),
    sa.Column("gantry_detector_tilt", sa.Double),  # degrees
    sa.Column("lossy_image_compression", sa.Boolean),
    sa.Column("transfer_syntax_uid", UID),
    sa.Column("extent_mm", sa.Double),
)
sa.Index("ix_series_study_id", series.c.study_id)
sa.Index("ix_series_accession_key", series.c.accession_key)

header = sa.Table(  # what the headers of a series say, each wording once: most series have one
    "header",
    metadata,
    row_id(),
    belongs_to("series"),
    sa.Column("sha256", sa.String(64), nullable=False),  # of `attributes`
    sa.Column("attributes", sa.Text, nullable=False),  # JSON, keyed as engine.records.InstanceHeader
    sa.UniqueConstraint("series_id", "sha256"),
)

instance = sa.Table(
    "instance",
    metadata,
    row_id(),
    belongs_to("series"),
    belongs_to("header"),
    sa.Column("sop_instance_uid", UID, nullable=False, unique=True),
    sa.Column("instance_number", sa.BigInteger),
    sa.Column("image_position_patient", Numbers(160)),  # mm
    sa.Column("path", sa.Text, nullable=False, unique=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),  # engine.digest; of before revision 0011: a SHA-256
    sa.Column("received_at", UtcTime, nullable=False),
    sa.Column("cleared_at", UtcTime),  # its file is gone: its series is finished
)
sa.Index("ix_instance_series_id", instance.c.series_id)

pseudonym_key = sa.Table(  # one row: the key that every patient_key and accession_key is made under
    "pseudonym_key",
    metadata,
    row_id(),
    sa.Column("fingerprint", KEY, nullable=False),  # keyed hash of a constant
    sa.Column("first_used_at", UtcTime, nullable=False),
)

refusal = sa.Table(
    "refusal",
    metadata,
    row_id(),
    sa.Column("subject", SafeText(64), nullable=False),  # the SOP Instance UID where it is one, else a SHA-256
    sa.Column("reason", Word(Reason), nullable=False),
    sa.Column("detail", SafeText(400), nullable=False),
    sa.Column("peer", SafeText(64), nullable=False),  # AE title
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("first_refused_at", UtcTime, nullable=False),
    sa.Column("last_refused_at", UtcTime, nullable=False),
    sa.UniqueConstraint("subject", "reason"),
)
