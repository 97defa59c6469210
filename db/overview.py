"""
How things stand, for people: counts, one study explained, the results as a table, what happened lately.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from db.schema import Change, JobState, SeriesState, StudyState
from engine.records import BoneFinding, Program, Reason, ScreeningResult, VertebralLevel


@dataclass(frozen=True, slots=True)
class Counts:
    """How many there are in each state; a state without any is not named."""

    studies: dict[str, int]
    series: dict[str, int]
    set_aside: dict[str, int]  # series set aside, by reason
    jobs: dict[str, int]
    outbox: dict[str, int]
    refusals: dict[str, int]  # instances, by reason
    instances: int
    oldest_job_s: float | None  # how long the oldest unfinished job has waited
    oldest_object_s: float | None  # how long the oldest unsent object has waited


@dataclass(frozen=True, slots=True)
class SeriesExplained:
    """What became of one series of a study, and why."""

    series_instance_uid: str
    modality: str | None  # None: not closed yet
    image_type: tuple[str, ...]
    slice_thickness: float | None  # mm
    convolution_kernel: tuple[str, ...]
    instances: int
    revision: int
    selected: bool | None  # None: not yet decided
    score: float | None
    state: SeriesState
    reason: Reason | None  # why it is set aside
    detail: str
    job: JobState | None
    attempts: int
    result: ScreeningResult | None
    objects: tuple[tuple[str, str, str], ...]  # kind, destination, state


@dataclass(frozen=True, slots=True)
class StudyExplained:
    """What became of a study."""

    study_instance_uid: str
    patient_key: str
    state: StudyState
    revision: int
    series: tuple[SeriesExplained, ...]


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One line of the table of results: a vertebra, the patient's value, or a series without a result."""

    patient_key: str
    study_instance_uid: str
    series_instance_uid: str
    study_date: str | None  # YYYYMMDD
    level: VertebralLevel | None  # None: the patient
    attenuation_mean: float | None  # HU
    volumetric_bmd: float | None  # mg/cm3
    finding: BoneFinding | None
    reason: Reason | None  # why a number is missing
    detail: str
    reference_only: bool  # a model was trained on phantoms: not for diagnosis


@dataclass(frozen=True, slots=True)
class EventLine:
    """Something that happened."""

    at: datetime
    subject: str  # "study", "series", "object", "instance"
    uid: str
    change: Change
    reason: Reason | None
    detail: str


def counts(connection: sa.Connection) -> Counts:
    """How many there are of everything, by state."""
    raise NotImplementedError


def explain(
    connection: sa.Connection, study_instance_uid: str, program: Program = Program.VERTEBRAL
) -> StudyExplained | None:
    """Each series of a study: chosen or why not, how it stands, what came out; None if the study is unknown."""
    raise NotImplementedError


def results_table(connection: sa.Connection, limit: int | None = None) -> tuple[ResultLine, ...]:
    """Current results and series set aside: by patient and series, the patient's line first, then head to foot."""
    raise NotImplementedError


def events(connection: sa.Connection, uid: str | None = None, limit: int = 100) -> Sequence[EventLine]:
    """What happened, latest first: to one study, series, instance or object, or to all."""
    raise NotImplementedError
