"""
What is known about the identifiers of a batch of arrivals, and whether one contradicts it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from db.schema import instance, series, study
from db.statements import rows_where_in
from engine.digest import is_same_file
from engine.records import InstanceHeader


class Arrival(NamedTuple):
    """One instance that lies safely on disk."""

    header: InstanceHeader
    path: str
    size_bytes: int
    digest: str  # of the file (engine.digest)


def size_bytes(connection: sa.Connection, sop_instance_uids: Iterable[str]) -> int:
    """What the registered of some instances take."""
    query = sa.select(instance.c.size_bytes)
    return sum(
        row.size_bytes for row in rows_where_in(connection, query, instance.c.sop_instance_uid, sop_instance_uids)
    )


class Known:
    """What is known about the identifiers of a batch; grows as its instances are accepted."""

    def __init__(self, connection: sa.Connection, said: Sequence[InstanceHeader]) -> None:
        """Ask the database about all of them at once."""
        self.patients: dict[str, str] = {}  # study: patient key
        self.studies: dict[str, str] = {}  # series: study
        self.instances: dict[str, tuple[str, str]] = {}  # instance: series, digest
        by_study = sa.select(study.c.study_instance_uid, study.c.patient_key)
        for row in rows_where_in(
            connection, by_study, study.c.study_instance_uid, {h.study_instance_uid for h in said}
        ):
            self.patients[row.study_instance_uid] = row.patient_key
        by_series = sa.select(series.c.series_instance_uid, study.c.study_instance_uid).join(study)
        uids = {h.series_instance_uid for h in said}
        for row in rows_where_in(connection, by_series, series.c.series_instance_uid, uids):
            self.studies[row.series_instance_uid] = row.study_instance_uid
        by_instance = sa.select(instance.c.sop_instance_uid, series.c.series_instance_uid, instance.c.digest).join_from(
            instance, series
        )
        uids = {h.sop_instance_uid for h in said}
        for row in rows_where_in(connection, by_instance, instance.c.sop_instance_uid, uids):
            self.instances[row.sop_instance_uid] = (row.series_instance_uid, row.digest)

    def conflict(self, arrival: Arrival) -> str:
        """How an arrival contradicts what is known; empty if it doesn't."""
        said = arrival.header
        before = self.instances.get(said.sop_instance_uid)
        if (
            before is not None
            and before[0] == said.series_instance_uid
            and is_same_file(before[1], arrival.digest, arrival.path)
        ):
            return ""  # the very same bytes: nothing new can be wrong with them
        if self.patients.get(said.study_instance_uid, said.patient_key) != said.patient_key:
            return "its study belongs to another patient"
        if self.studies.get(said.series_instance_uid, said.study_instance_uid) != said.study_instance_uid:
            return "its series belongs to another study"
        if before is None:
            return ""
        if before[0] != said.series_instance_uid:
            return "the instance belongs to another series"
        return "the same instance came before with another content; the first is kept"

    def add(self, arrival: Arrival) -> None:
        """From now on it is known."""
        said = arrival.header
        self.patients[said.study_instance_uid] = said.patient_key
        self.studies[said.series_instance_uid] = said.study_instance_uid
        self.instances[said.sop_instance_uid] = (said.series_instance_uid, arrival.digest)
