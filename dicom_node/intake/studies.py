"""
When a study is complete. Then its series are chosen, and jobs wait for the workers.

A study is complete when each of its series is. A series is complete when as many instances came as it has, where its
headers or an archive tell how many that are, or else when nothing came for a while; one that is known to lack some is
waited for longer. What comes later reopens the study, and it is closed again; a study to which something is added
without end is closed all the same.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from db.completeness import OpenSeries, OpenStudy, open_studies
from db.connection import Database
from db.studies import close_study, series_of_study
from dicom_node.peers.leaving import GoOn, always
from engine.errors import PeerError, ScreeningError
from engine.records import Program
from engine.selection import SelectionOptions, select

log = logging.getLogger(__name__)

Counts = Mapping[str, int]
"""Series Instance UID -> how many instances an archive has of it."""


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """When a study counts as complete."""

    quiet_s: float = 60.0  # a series: nothing new for so long
    settle_s: float = 5.0  # likewise, where as many came as it has
    missing_s: float = 600.0  # likewise, where some are known to be missing
    force_s: float = 3600.0  # a study: open for so long, even if more comes
    poll_s: float = 1.0  # how often it is asked
    count_at: str = ""  # an archive of [backfill] that is asked by C-FIND how many there are; empty: none

    def __post_init__(self) -> None:
        """Refuse times without meaning."""
        if min(self.quiet_s, self.settle_s, self.missing_s) < 0 or self.poll_s <= 0:
            raise ValueError("quiet_s, settle_s and missing_s can't be negative, and poll_s must be above 0")
        if self.force_s < self.quiet_s:
            raise ValueError("force_s can't be less than quiet_s")


class Closer:
    """Closes studies that are due; one for a node."""

    def __init__(
        self,
        database: Database,
        options: StudyOptions,
        selection: SelectionOptions,
        count: Callable[[str], Counts] | None = None,
        program: Program = Program.VERTEBRAL,
        go_on: GoOn = always,
    ) -> None:
        """Hold what is needed.

        Args:
            count: asks an archive for the CT series of a study; may raise PeerError. Asked once for each revision.
            go_on: where it is False no more studies are closed: what could not be counted now is counted another time.
        """
        self._database = database
        self._options = options
        self._selection = selection
        self._count = count
        self._program = program
        self._go_on = go_on
        self._counted: dict[str, tuple[int, Counts]] = {}  # of open studies: revision, and what was told

    def close_due(self) -> int:
        """Close every study that is due: selection, jobs and reasons of each in one transaction.

        A study that can't be closed for a bug of ours holds up none of the others, and stays due.

        Returns:
            How many were closed.

        Raises:
            DatabaseUnavailable: and others of `Database.begin`; what was closed before stays closed.
        """
        options = self._options
        with self._database.read() as connection:
            studies = open_studies(connection, min(options.settle_s, options.quiet_s), options.force_s)
        names = {study.study_instance_uid for study in studies}
        self._counted = {uid: known for uid, known in self._counted.items() if uid in names}
        return sum(self._close(study) for study in studies if self._go_on() and self._is_due(study))

    def _is_due(self, study: OpenStudy) -> bool:
        if study.open_s >= self._options.force_s:
            return True
        if study.is_being_fetched:
            return False
        counts = self._counts(study)
        if not self._go_on():
            return False
        arrived = {series.series_instance_uid for series in study.series}
        if study.quiet_s < self._options.quiet_s and set(counts) - arrived:
            return False  # a series that the archive has did not even begin to come
        return all(
            is_complete(series, counts.get(series.series_instance_uid), self._options) for series in study.series
        )

    def _counts(self, study: OpenStudy) -> Counts:
        if self._count is None:
            return {}
        revision, counts = self._counted.get(study.study_instance_uid, (-1, {}))
        if revision != study.revision:
            try:
                counts = self._count(study.study_instance_uid)
            except PeerError as away:
                log.warning("the archive can't be asked how many there are: %s", away)
                counts = {}
            self._counted[study.study_instance_uid] = study.revision, counts
        return counts

    def _close(self, study: OpenStudy) -> bool:
        uid = study.study_instance_uid
        try:
            with self._database.begin() as connection:
                series = series_of_study(connection, uid)
                selections = select(series, self._program, self._selection)
                closed = close_study(connection, uid, study.revision, selections, self._program)
        except ScreeningError:
            raise
        except Exception:
            log.exception("study %s can't be closed", uid)
            return False
        if closed:
            selected = sum(choice.reason is None for choice in selections)
            log.info("study %s closed: %d of %d series selected", uid, selected, len(selections))
        return closed


def is_complete(series: OpenSeries, in_archive: int | None, options: StudyOptions) -> bool:
    """Whether no more is to be expected of a series.

    Args:
        in_archive: how many instances of it an archive has; None: nobody asked, or it has none.
    """
    known = [count for count in (in_archive, series.related_instances) if count is not None]
    if known and series.instances < max(known):
        return series.quiet_s >= max(options.missing_s, options.quiet_s)
    if known or series.instances == series.images_in_acquisition:
        return series.quiet_s >= min(options.settle_s, options.quiet_s)
    return series.quiet_s >= options.quiet_s
