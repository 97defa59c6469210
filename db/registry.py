"""
What arrived: studies, series, instances; and what was turned away.

Registering is idempotent: what is known already changes nothing, so a sender may repeat itself and a spool may be
read again after a crash. An instance that contradicts what is known is refused, and nothing is overwritten.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from db.columns import utc_now
from db.connection import Purpose, exclusive
from db.events import tell
from db.known import Arrival as Arrival
from db.known import Known
from db.schema import Change, StudyState, header, instance, refusal, screening, series, study
from db.series import lock_series, obsolete_jobs, withdraw_results, wording
from db.statements import insert_into, insert_many, rows_where_in
from engine.digest import is_same_file
from engine.records import Reason


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of one arrival."""

    sop_instance_uid: str
    is_new: bool
    reason: Reason | None = None  # why it was refused; it is then neither new nor known
    detail: str = ""


def register_instances(connection: sa.Connection, arrivals: Sequence[Arrival]) -> tuple[Registration, ...]:
    """Remember instances; each was, or is now, known, or is refused with a reason.

    A new instance of a closed study reopens it: the study's revision grows, and so does that of each series that
    already served in it and now has more; their jobs become obsolete, their results are no longer current and what
    was not sent of them stays unsent. A refusal is written down here; the caller need not record it again.

    Args:
        arrivals: (header, path, size_bytes, digest) each; plain tuples in this order do as well.

    Returns:
        In the order of `arrivals`. Reason INSTANCE_CONFLICT: the study belongs to another patient, the series to
        another study, the instance to another series, or the same instance came before with another content.
    """
    given = [Arrival(*arrival) for arrival in arrivals]
    exclusive(connection, Purpose.REGISTER)
    known = Known(connection, [arrival.header for arrival in given])
    registrations = []
    new = []
    back = _came_back(connection, given)
    for arrival in given:
        conflict = known.conflict(arrival)
        is_new = not conflict and arrival.header.sop_instance_uid not in known.instances
        if is_new:
            known.add(arrival)
            new.append(arrival)
        reason = Reason.INSTANCE_CONFLICT if conflict else None
        registrations.append(Registration(arrival.header.sop_instance_uid, is_new, reason, conflict))
        if reason:
            record_refusal(connection, reason, conflict, subject=arrival.header.sop_instance_uid)
    touched = [*new, *(arrival for arrival in given if arrival.header.sop_instance_uid in back)]
    if touched:
        series_ids = _touch_series(connection, touched, _touch_studies(connection, touched))
        if new:
            _add_instances(connection, new, series_ids)
    return tuple(registrations)


def _came_back(connection: sa.Connection, given: Sequence[Arrival]) -> frozenset[str]:
    """Files that had been cleared are here again: the same bytes. Returns those for which their series waits."""
    query = sa.select(instance.c.id, instance.c.sop_instance_uid, instance.c.digest, instance.c.series_id).where(
        instance.c.cleared_at.is_not(None)
    )
    offered = {arrival.header.sop_instance_uid: arrival for arrival in given}
    gone = rows_where_in(connection, query, instance.c.sop_instance_uid, offered)
    here = [row for row in gone if _is_here(offered[row.sop_instance_uid], row.digest)]
    if not here:
        return frozenset()
    connection.execute(sa.update(instance).where(instance.c.id.in_([row.id for row in here])).values(cleared_at=None))
    waits = sa.select(screening.c.series_id).where(
        screening.c.series_id.in_({row.series_id for row in here}), screening.c.reason == Reason.PIXELS_CLEARED
    )
    waiting = set(connection.execute(waits).scalars())
    return frozenset(row.sop_instance_uid for row in here if row.series_id in waiting)


def _is_here(arrival: Arrival, digest: str) -> bool:
    """A file may have been cleared since it was offered; now, in the transaction, that can't happen."""
    return Path(arrival.path).exists() and is_same_file(digest, arrival.digest, arrival.path)


def known_instances(connection: sa.Connection, sop_instance_uids: Iterable[str]) -> frozenset[str]:
    """Those of the UIDs that are registered."""
    return _those_in(connection, instance.c.sop_instance_uid, sop_instance_uids)


def here_or_finished(connection: sa.Connection, sop_instance_uids: Iterable[str]) -> frozenset[str]:
    """Those of the UIDs that need not be fetched: registered, and not cleared from a series that waits for them."""
    missed = sa.exists().where(
        instance.c.cleared_at.is_not(None),
        screening.c.series_id == instance.c.series_id,
        screening.c.reason == Reason.PIXELS_CLEARED,
    )
    query = sa.select(instance.c.sop_instance_uid).where(~missed)
    return frozenset(row[0] for row in rows_where_in(connection, query, instance.c.sop_instance_uid, sop_instance_uids))


def known_paths(connection: sa.Connection, paths: Iterable[str]) -> frozenset[str]:
    """Those of the paths that are registered."""
    return _those_in(connection, instance.c.path, paths)


def record_refusal(
    connection: sa.Connection, reason: Reason, detail: str = "", *, subject: str = "", peer: str = ""
) -> None:
    """Write down that an instance was turned away or set aside. Repeats of the same are counted, not added.

    Args:
        detail: what was found; never patient data, never a path.
        subject: the SOP Instance UID if it is one, else the SHA-256 of the bytes; may be empty.
        peer: AE title of who sent it.
    """
    new = insert_into(connection, refusal).values(
        subject=subject,
        reason=reason,
        detail=detail,
        peer=peer,
        times=1,
        first_refused_at=utc_now(),
        last_refused_at=utc_now(),
    )
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[refusal.c.subject, refusal.c.reason],
            set_={
                "times": refusal.c.times + 1,
                "last_refused_at": utc_now(),
                "detail": new.excluded.detail,
                "peer": new.excluded.peer,
            },
        )
    )


def _touch_studies(connection: sa.Connection, new: Sequence[Arrival]) -> dict[str, int]:
    """Make or reopen the studies of new instances; row ids by UID."""
    patients = {arrival.header.study_instance_uid: arrival.header.patient_key for arrival in new}
    query = sa.select(study.c.id, study.c.study_instance_uid, study.c.state)
    before = rows_where_in(connection, query.with_for_update(key_share=True), study.c.study_instance_uid, patients)
    ids = {row.study_instance_uid: row.id for row in before}
    closed = [row for row in before if row.state is StudyState.CLOSED]
    connection.execute(
        sa.update(study)
        .where(study.c.id.in_(list(ids.values())))
        .values(
            state=StudyState.RECEIVING,
            revision=study.c.revision + 1,
            last_received_at=utc_now(),
            opened_at=sa.case((study.c.state == StudyState.CLOSED, utc_now()), else_=study.c.opened_at),
        )
    )
    tell(connection, "study", [row.study_instance_uid for row in closed], Change.REOPENED)
    unknown = [uid for uid in patients if uid not in ids]
    if unknown:
        made = connection.execute(
            sa.insert(study)
            .values(state=StudyState.RECEIVING, revision=1, opened_at=utc_now(), last_received_at=utc_now())
            .returning(study.c.study_instance_uid, study.c.id),
            [{"study_instance_uid": uid, "patient_key": patients[uid]} for uid in unknown],
        )
        ids.update((uid, row_id) for uid, row_id in made)
        tell(connection, "study", unknown, Change.RECEIVED)
    return ids


def _touch_series(connection: sa.Connection, new: Sequence[Arrival], study_ids: dict[str, int]) -> dict[str, int]:
    """Make or reopen the series of new instances; row ids by UID."""
    studies = {arrival.header.series_instance_uid: study_ids[arrival.header.study_instance_uid] for arrival in new}
    before = lock_series(connection, series.c.series_instance_uid.in_(list(studies)))
    ids = {row.series_instance_uid: row.id for row in before}
    if before:
        row_ids = list(ids.values())
        connection.execute(sa.update(series).where(series.c.id.in_(row_ids)).values(revision=series.c.revision + 1))
        obsolete_jobs(connection, row_ids)
        withdraw_results(connection, row_ids)
        undecided = sa.delete(screening).where(screening.c.series_id.in_(row_ids)).returning(screening.c.series_id)
        reopened = set(connection.execute(undecided).scalars())
        uids = [row.series_instance_uid for row in before if row.id in reopened]
        tell(connection, "series", uids, Change.REOPENED)
    unknown = [uid for uid in studies if uid not in ids]
    if unknown:
        made = connection.execute(
            sa.insert(series).values(revision=1).returning(series.c.series_instance_uid, series.c.id),
            [{"series_instance_uid": uid, "study_id": studies[uid]} for uid in unknown],
        )
        ids.update((uid, row_id) for uid, row_id in made)
    return ids


def _add_instances(connection: sa.Connection, new: Sequence[Arrival], series_ids: dict[str, int]) -> None:
    said = [(series_ids[arrival.header.series_instance_uid], *wording(arrival.header)) for arrival in new]
    connection.execute(
        insert_into(connection, header).on_conflict_do_nothing(index_elements=[header.c.series_id, header.c.sha256]),
        [{"series_id": row_id, "sha256": sha256, "attributes": text} for row_id, sha256, text in sorted(set(said))],
    )
    query = sa.select(header.c.id, header.c.series_id, header.c.sha256)
    known = rows_where_in(connection, query, header.c.series_id, set(series_ids.values()))
    header_ids = {(row.series_id, row.sha256): row.id for row in known}
    insert_many(
        connection,
        instance,
        [
            {
                "series_id": row_id,
                "header_id": header_ids[row_id, sha256],
                "sop_instance_uid": arrival.header.sop_instance_uid,
                "instance_number": arrival.header.instance_number,
                "image_position_patient": arrival.header.image_position_patient,
                "path": arrival.path,
                "size_bytes": arrival.size_bytes,
                "digest": arrival.digest,
            }
            for arrival, (row_id, sha256, _) in zip(new, said, strict=True)
        ],
        received_at=utc_now(),
    )


def _those_in(connection: sa.Connection, column: sa.ColumnElement[str], values: Iterable[str]) -> frozenset[str]:
    return frozenset(row[0] for row in rows_where_in(connection, sa.select(column), column, values))
