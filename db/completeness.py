"""Whether studies that are open have all of their instances: what came, when, and what headers say should come."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from db.columns import utc_now, word
from db.live import is_being_fetched
from db.schema import StudyState, header, instance, series, study
from db.statements import rows_where_in


@dataclass(frozen=True, slots=True)
class OpenSeries:
    """What came of a series."""

    series_instance_uid: str
    instances: int
    quiet_s: float  # since the latest one
    related_instances: int | None  # how many it has, as a header says (NumberOfSeriesRelatedInstances)
    images_in_acquisition: int | None  # how many its acquisition has; it may have made other series too


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """What came of a study since it was last closed, and before."""

    study_instance_uid: str
    revision: int
    open_s: float
    quiet_s: float
    is_being_fetched: bool  # by a backfill, just now
    series: tuple[OpenSeries, ...]


def open_studies(connection: sa.Connection, settle_s: float, force_s: float) -> tuple[OpenStudy, ...]:
    """Open studies that got nothing new for `settle_s`, or have been open for `force_s`; longest waiting first."""
    settled = study.c.last_received_at <= utc_now(-settle_s)
    forced = study.c.opened_at <= utc_now(-force_s)
    rows = connection.execute(
        sa.select(
            study.c.id,
            study.c.study_instance_uid,
            study.c.revision,
            study.c.opened_at,
            study.c.last_received_at,
            utc_now().label("now"),
            is_being_fetched(study.c.study_instance_uid).label("is_being_fetched"),
        )
        .where(study.c.state == word(StudyState.RECEIVING), settled | forced)
        .order_by(study.c.last_received_at, study.c.id)
    ).all()
    members = _series_of(connection, [row.id for row in rows])
    return tuple(
        OpenStudy(
            row.study_instance_uid,
            row.revision,
            (row.now - row.opened_at).total_seconds(),
            (row.now - row.last_received_at).total_seconds(),
            bool(row.is_being_fetched),
            tuple(members.get(row.id, ())),
        )
        for row in rows
    )


def _series_of(connection: sa.Connection, study_ids: Iterable[int]) -> dict[int, list[OpenSeries]]:
    latest = sa.func.max(instance.c.received_at, type_=instance.c.received_at.type).label("latest")
    query = (
        sa.select(series.c.study_id, series.c.id, series.c.series_instance_uid, sa.func.count(), latest, utc_now())
        .join_from(series, instance)
        .group_by(series.c.study_id, series.c.id, series.c.series_instance_uid)
    )
    rows = rows_where_in(connection, query, series.c.study_id, study_ids)
    told = rows_where_in(
        connection,
        sa.select(header.c.series_id, header.c.attributes),
        header.c.series_id,
        [row_id for _, row_id, *_ in rows],
    )
    related, acquired = dict[int, int](), dict[int, int]()
    for row_id, attributes in told:
        try:
            said = json.loads(attributes)
        except ValueError:
            continue  # whoever closes the study says so
        for counts, keyword in ((related, "number_of_series_related_instances"), (acquired, "images_in_acquisition")):
            if said.get(keyword):
                counts[row_id] = max(counts.get(row_id, 0), said[keyword])
    found: dict[int, list[OpenSeries]] = {}
    for study_id, row_id, uid, count, last, now in rows:
        quiet_s = (now - last).total_seconds()
        found.setdefault(study_id, []).append(
            OpenSeries(uid, count, quiet_s, related.get(row_id), acquired.get(row_id))
        )
    return found
