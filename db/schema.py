"""
The tables: what is remembered, in the words of the house.

    study < series < header, instance what arrived; paths live in `instance` alone
    scanner                           the machines of the series, with kernel and tube voltage
    pseudonym_key                     a fingerprint of the key that patients are known by
    refusal                           what was turned away at the door, and why
    selection                         which series serves a program, and why not the others; a history by study revision
    screening                         where a series stands towards a program
    job                               work to do, with a lease and a fencing token
    result < vertebra, quality_flag   what an analysis said; result_model, model: by which weights; policy, run: by
      < extra_measurement             which rule, in which process; quantities without a column of their own
    outbox, destination               report objects that wait for a peer; how one gets on with it
    backfill < backfill_part          an order to fetch from an archive, and the days, folders or lines it consists of
    backfill_series                   each series that was found by it, and how far it is
    population, densitometry          what population studies ask, derived; examinations done elsewhere
    event                             what changed and when, for people

Every change that belongs together is one transaction. A screening is "done" exactly while one current result of the
series' own revision stands; every other end is "set_aside" with a reason; while a study is open, its changed series
have no screening. Locks are taken in the order study, series, job, result, outbox, patient, so that no two
transactions wait for each other.
"""

import sqlalchemy as sa

from db.columns import SafeText, UtcTime, Word
from db.tables.arrivals import header, instance, pseudonym_key, refusal, scanner, series, study
from db.tables.backfill import backfill, backfill_part, backfill_series
from db.tables.base import metadata, row_id
from db.tables.outcomes import (
    calibration,
    destination,
    extra_measurement,
    model,
    numbering,
    outbox,
    policy,
    quality_flag,
    result,
    result_model,
    run,
    vertebra,
)
from db.tables.population import densitometry, population
from db.tables.states import (
    BackfillState,
    Change,
    FetchState,
    JobState,
    ObjectState,
    PartState,
    SeriesState,
    StudyState,
)
from db.tables.work import job, screening, selection
from engine.records import Reason

event = sa.Table(
    "event",
    metadata,
    row_id(),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("subject", SafeText(16), nullable=False),  # "study", "series", "object"
    sa.Column("uid", SafeText(64), nullable=False),
    sa.Column("change", Word(Change), nullable=False),
    sa.Column("reason", Word(Reason)),
    sa.Column("detail", SafeText(400), nullable=False),
)
sa.Index("ix_event_uid", event.c.uid)

__all__ = [
    "BackfillState",
    "Change",
    "FetchState",
    "JobState",
    "ObjectState",
    "PartState",
    "SeriesState",
    "StudyState",
    "backfill",
    "backfill_part",
    "backfill_series",
    "calibration",
    "densitometry",
    "destination",
    "event",
    "extra_measurement",
    "header",
    "instance",
    "job",
    "metadata",
    "model",
    "numbering",
    "outbox",
    "policy",
    "population",
    "pseudonym_key",
    "quality_flag",
    "refusal",
    "result",
    "result_model",
    "run",
    "scanner",
    "screening",
    "selection",
    "series",
    "study",
    "vertebra",
]
