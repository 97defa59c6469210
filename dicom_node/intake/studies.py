"""
When a study is complete: nothing new came for a while. Then its series are chosen, and jobs wait for the workers.

What comes later reopens the study, and it is closed again; a study to which something is added without end is closed
all the same after a longer while.
"""

import logging
from dataclasses import dataclass

from db.connection import Database
from db.registry import DueStudy, close_study, series_of_study, studies_due
from engine.errors import ScreeningError
from engine.records import Program
from engine.selection import SelectionOptions, select

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """When a study counts as complete."""

    quiet_s: float = 60.0  # nothing new for so long
    force_s: float = 3600.0  # open for so long, even if more comes
    poll_s: float = 1.0  # how often it is asked

    def __post_init__(self) -> None:
        """Refuse times without meaning."""
        if self.quiet_s < 0 or self.poll_s <= 0:
            raise ValueError("quiet_s can't be negative, and poll_s must be above 0")
        if self.force_s < self.quiet_s:
            raise ValueError("force_s can't be less than quiet_s")


def close_due_studies(
    database: Database, options: StudyOptions, selection: SelectionOptions, program: Program = Program.VERTEBRAL
) -> int:
    """Close every study that is due: selection, jobs and reasons of each in one transaction.

    A study that can't be closed for a bug of ours holds up none of the others, and stays due.

    Returns:
        How many were closed.

    Raises:
        DatabaseUnavailable: and others of `Database.begin`; what was closed before stays closed.
    """
    with database.read() as connection:
        due = studies_due(connection, options.quiet_s, options.force_s)
    return sum(_close(database, study, selection, program) for study in due)


def _close(database: Database, study: DueStudy, selection: SelectionOptions, program: Program) -> bool:
    try:
        with database.begin() as connection:
            series = series_of_study(connection, study.study_instance_uid)
            selections = select(series, program, selection)
            closed = close_study(connection, study.study_instance_uid, study.revision, selections, program)
    except ScreeningError:
        raise
    except Exception:
        log.exception("study %s can't be closed", study.study_instance_uid)
        return False
    if closed:
        selected = sum(choice.reason is None for choice in selections)
        log.info("study %s closed: %d of %d series selected", study.study_instance_uid, selected, len(selections))
    return closed
