"""Studies as a whole: all their series, and their end, in which each series gets a job or a reason."""

from collections.abc import Sequence

import sqlalchemy as sa

from db.columns import utc_now
from db.events import tell
from db.queue import enqueue
from db.schema import Change, StudyState, selection, series, study
from db.series import SeriesRow, describe, lock_series, obsolete_jobs, read_series, set_aside
from engine.records import Program, Selection, SeriesRef


def series_of_study(connection: sa.Connection, study_instance_uid: str) -> tuple[SeriesRef, ...]:
    """All series of a study with all their instances, ordered by Series Instance UID; none if it is unknown."""
    series_ids = connection.execute(
        sa.select(series.c.id).join(study).where(study.c.study_instance_uid == study_instance_uid)
    )
    found = read_series(connection, series_ids.scalars().all())
    return tuple(sorted(found.values(), key=lambda ref: ref.series_instance_uid))


def close_study(
    connection: sa.Connection,
    study_instance_uid: str,
    revision: int,
    selections: Sequence[Selection],
    *programs: Program,
) -> bool:
    """Close a study for all programs that run here: jobs for the selected series, a reason for every other.

    A series whose job of the same revision ended before keeps that end: it is not analysed twice. A series that was
    selected before and now is not (a better one came) is set aside: its result is kept, but is no longer current,
    and what was not sent of it stays unsent. If it is selected again later, it is analysed again.

    Args:
        revision: of the study, as `open_studies` gave it.
        selections: one for each program and series of the study.

    Returns:
        False, and nothing is changed, if the study is unknown, closed, or got new instances since.
    """
    closed = connection.execute(
        sa.update(study)
        .where(
            study.c.study_instance_uid == study_instance_uid,
            study.c.revision == revision,
            study.c.state == StudyState.RECEIVING,
        )
        .values(state=StudyState.CLOSED, closed_at=utc_now())
        .returning(study.c.id)
    ).scalar_one_or_none()
    if closed is None:
        return False
    tell(connection, "study", [study_instance_uid], Change.CLOSED)
    members = lock_series(connection, series.c.study_id == closed)
    chosen = {
        program: {each.series_instance_uid: each for each in selections if each.program is program}
        for program in programs
    }
    uids = {member.series_instance_uid for member in members}
    if not programs or any(set(named) != uids for named in chosen.values()):
        raise ValueError("a selection must name every series of the study, and no other")
    describe(connection, [member.id for member in members])
    for program, choices in chosen.items():
        _decide(connection, {member: choices[member.series_instance_uid] for member in members}, program, revision)
    return True


def _decide(
    connection: sa.Connection, chosen: dict[SeriesRow, Selection], program: Program, study_revision: int
) -> None:
    _keep_selections(connection, {member.id: choice for member, choice in chosen.items()}, study_revision)
    for member, choice in chosen.items():
        if choice.reason is None:
            enqueue(connection, member, program)
        else:
            obsolete_jobs(connection, [member.id], program)
            set_aside(connection, member, program, choice.reason, choice.detail, selected=False)


def _keep_selections(connection: sa.Connection, chosen: dict[int, Selection], revision: int) -> None:
    connection.execute(
        sa.insert(selection).values(study_revision=revision, selected_at=utc_now()),
        [
            {
                "series_id": row_id,
                "program": choice.program,
                "reason": choice.reason,
                "detail": choice.detail,
                "score": choice.score,
            }
            for row_id, choice in chosen.items()
        ],
    )
