"""How many images an archive has of each series of a study: what tells the front door that all of them came."""

from collections.abc import Callable, Mapping

from dicom_node.backfill.calling import archive_peer
from dicom_node.backfill.options import BackfillOptions
from dicom_node.peers.leaving import GoOn, always
from dicom_node.peers.query import finder
from engine.errors import BadOption, PeerError

ANSWER_TIMEOUT_S = 20.0
"""Our choice: studies wait for the answer, so an archive that is slow at night counts as away."""


def series_counter(
    options: BackfillOptions, name: str, go_on: GoOn = always
) -> Callable[[str], Mapping[str, int]] | None:
    """Asks one of the archives for the CT series of a study; None: no archive is named.

    Args:
        go_on: where it is False, the archive is left.

    Raises:
        BadOption: there is no archive of that name, or it does not speak C-FIND.
    """
    if not name:
        return None
    archive = next((each for each in options.archives if each.name == name), None)
    if archive is None or not archive.ae_title:
        raise BadOption(
            f"option 'studies.count_at' must name one of 'backfill.archives' with an ae_title, not {name!r}"
        )
    peer = archive_peer(archive, options, ANSWER_TIMEOUT_S)

    def count(study_instance_uid: str) -> Mapping[str, int]:
        with finder(peer, go_on) as opened:
            answers = opened.find(
                "SERIES",
                StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID="",
                Modality="CT",
                NumberOfSeriesRelatedInstances="",
            )
        counts = {}
        for answer in answers:
            try:
                uid, number = str(answer.SeriesInstanceUID), int(answer.NumberOfSeriesRelatedInstances)
            except (AttributeError, TypeError, ValueError):
                continue  # it does not tell
            if number > 0 and str(answer.get("Modality") or "CT") == "CT":
                counts[uid] = number
        return counts

    def count_or_refuse(study_instance_uid: str) -> Mapping[str, int]:
        try:
            return count(study_instance_uid)
        except PeerError:
            raise
        except Exception as bad:  # a data set that can't be read; its cause may quote it
            raise PeerError(f"'{archive.name}' told what can't be read ({type(bad).__name__})") from None

    return count_or_refuse
