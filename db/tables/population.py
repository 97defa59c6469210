"""
What population studies ask: derived from results and series, kept up to date in the transaction that changes them.

`population` has one row for each current result, flat: patient, day, scanner, numbers, and how the patient stood
before. It can be made anew from the rest at any time (`db.population.summary`), and nothing else rests on it.
"""

import sqlalchemy as sa

from db.columns import SafeText, Word
from db.tables.base import ID, KEY, belongs_to, metadata, where
from engine.records import BoneFinding, Program, Reason

population = sa.Table(
    "population",
    metadata,
    belongs_to("result", primary_key=True),
    belongs_to("series"),
    sa.Column("program", Word(Program), nullable=False),
    sa.Column("patient_key", KEY, nullable=False),
    sa.Column("study_date", SafeText(8)),
    sa.Column("study_day", sa.Integer),  # days since 1970-01-01
    sa.Column("patient_sex", SafeText(16)),
    sa.Column("patient_age", sa.Integer),  # years
    sa.Column("age_decade", sa.Integer),  # 60: 60 to 69 years
    sa.Column("scanner_id", ID, sa.ForeignKey("scanner.id")),
    sa.Column("attenuation_mean", sa.Double),  # HU
    sa.Column("volumetric_bmd", sa.Double),  # mg/cm3
    sa.Column("calibrated_bmd", sa.Double),  # mg/cm3
    sa.Column("areal_bmd", sa.Double),  # g/cm2
    sa.Column("trabecular_bone_score", sa.Double),
    sa.Column("finding", Word(BoneFinding)),
    sa.Column("reason", Word(Reason)),  # why there is no density
    sa.Column("reference_only", sa.Boolean, nullable=False),  # a model was trained on phantoms
    sa.Column("eligible", sa.Boolean, nullable=False),  # it has a density
    sa.Column("is_latest", sa.Boolean, nullable=False),  # the patient's latest eligible one
    # the patient's eligible result before this one, and the very first; NULL where there is none
    sa.Column("previous_day", sa.Integer),
    sa.Column("previous_bmd", sa.Double),
    sa.Column("previous_scanner_id", ID),
    sa.Column("first_day", sa.Integer),
    sa.Column("first_bmd", sa.Double),
    sa.Column("first_scanner_id", ID),
)
sa.Index("ix_population_patient_key", population.c.patient_key)
sa.Index(
    "uq_population_latest",
    population.c.patient_key,
    population.c.program,
    unique=True,
    **where(population.c.is_latest),
)

LOW = sa.literal_column(f"is_latest AND finding = '{BoneFinding.OSTEOPOROSIS}'", sa.Boolean)

sa.Index(
    "ix_population_groups",
    population.c.program,
    population.c.patient_sex,
    population.c.age_decade,
    population.c.volumetric_bmd,
    population.c.finding,
    **where(population.c.is_latest),
)
sa.Index("ix_population_worklist", population.c.volumetric_bmd, **where(LOW))

# For who reads a view whole: SQLite would go by the indexes above, and so from row to row at random
sa.Index("ix_population_current", population.c.result_id, **where(population.c.is_latest))
sa.Index("ix_population_low", population.c.result_id, **where(LOW))

sa.Index(
    "ix_population_drift",
    population.c.scanner_id,
    population.c.program,
    population.c.study_date,
    population.c.patient_age,
    population.c.attenuation_mean,
    population.c.volumetric_bmd,
)

densitometry = sa.Table(  # bone densitometry that a patient had otherwise: DXA, QCT
    "densitometry",
    metadata,
    sa.Column("patient_key", KEY, primary_key=True),
    sa.Column("examination_day", sa.Integer, primary_key=True, autoincrement=False),  # days since 1970-01-01
    sa.Column("kind", SafeText(16), primary_key=True),  # such as "DXA"
    sa.Column("examination_date", SafeText(8), nullable=False),
    sa.Column("origin", SafeText(16), nullable=False),  # "archive" or "table"
    sqlite_with_rowid=False,
)
