"""
A DICOMweb server: searched by QIDO-RS, weighed by the metadata of whole series, read by WADO-RS.

Metadata are all headers without pixels, so the engine chooses as it does when the files are here.
"""

from collections.abc import Iterable, Iterator, Sequence

from db.backfill import FoundSeries
from dicom_node.backfill.answers import KEYS, SERIES_KEYS, header_of, headers_of, instances_told, ruled_out, uids_of
from dicom_node.backfill.calling import archive_server
from dicom_node.backfill.options import Archive, BackfillOptions
from dicom_node.backfill.order import Order
from dicom_node.backfill.source import Findings, Part, Take, chosen
from dicom_node.intake.taking import opened
from dicom_node.peers.dicomweb import DicomWeb
from dicom_node.peers.leaving import GoOn, always, left_when_told
from engine.errors import PeerError, UnreadableInstance
from engine.records import InstanceHeader
from engine.selection import SelectionOptions
from engine.series import series_of


class WebSource:
    """An archive that speaks DICOMweb."""

    comes_by_front_door = False

    def __init__(
        self,
        archive: Archive,
        order: Order,
        options: BackfillOptions,
        pseudonym_key: bytes,
        selection: SelectionOptions,
    ) -> None:
        """Nothing is asked yet."""
        self.name = archive.name
        self.lock = f"archive {archive.name}"
        self.said = order.said
        self.key = f"{archive.name}\n{order.key}"
        self._order = order
        self._pseudonym_key = pseudonym_key
        self._selection = selection
        self._web = DicomWeb(archive_server(archive, options))

    def parts(self) -> Iterable[Part]:
        """Each day, or each examination."""
        return self._order.parts()

    def search(self, part: Part, thoroughly: bool = True, go_on: GoOn = always) -> Findings:
        """Studies, series, and the metadata of those that may serve."""
        with left_when_told(go_on, self._web.leave):
            return self._search(part, thoroughly)

    def _search(self, part: Part, thoroughly: bool) -> Findings:
        keyword, _, value = part.key.partition("=")
        found: list[FoundSeries] = []
        asked = {keyword: value} | ({"ModalitiesInStudy": self._order.modality} if self._order.modality else {})
        studies = {
            uid: str(answer.get("StudyDescription") or "")
            for answer in self._web.search("studies", asked, ["StudyDescription"])
            for uid in uids_of([answer], "StudyInstanceUID")
        }
        for study, description in studies.items():
            found += self._of_study(study, description, thoroughly)
        return Findings(len(studies), tuple(found))

    def listing(
        self, part: Part, study_instance_uid: str, series_instance_uid: str, go_on: GoOn = always
    ) -> Sequence[str]:
        """SOP Instance UIDs at the instance level."""
        with left_when_told(go_on, self._web.leave):
            answers = self._web.search(f"studies/{study_instance_uid}/series/{series_instance_uid}/instances", {})
            return uids_of(answers, "SOPInstanceUID")

    def fetch(
        self,
        part: Part,
        study_instance_uid: str,
        series_instance_uid: str,
        uids: Sequence[str],
        whole: bool,
        take: Take,
        go_on: GoOn,
    ) -> None:
        """By WADO-RS: the whole series, or one by one what is missing of it."""
        try:
            with left_when_told(go_on, self._web.leave):
                for uid in [None] if whole else uids:
                    if not self._took(self._web.instances(study_instance_uid, series_instance_uid, uid), take):
                        return
        except PeerError:
            if go_on():
                raise

    @staticmethod
    def _took(contents: Iterator[bytes], take: Take) -> bool:
        """Whether all that came could be kept."""
        for content in contents:
            try:
                offered = opened(content)
            except UnreadableInstance:
                continue  # it is missed when counted
            if not take(offered):
                return False
        return True

    def _of_study(self, study: str, description: str, thoroughly: bool) -> list[FoundSeries]:
        found: list[FoundSeries] = []
        headers: list[InstanceHeader] = []
        for answer in list(self._web.search(f"studies/{study}/series", {}, SERIES_KEYS)):
            for uid in uids_of([answer], "SeriesInstanceUID"):
                descriptions = (description, str(answer.get("SeriesDescription") or ""))
                out = ruled_out(study, uid, answer, descriptions, self._order)
                answer.StudyInstanceUID = study
                if out is not None:
                    found.append(out)
                elif thoroughly:
                    headers += [
                        header
                        for each in self._web.metadata(study, uid)
                        if (header := header_of(each, answer, self._pseudonym_key, is_whole=True))
                    ]
                elif instances_told(answer) < self._selection.min_slices:  # perhaps of many frames
                    images = list(self._web.search(f"studies/{study}/series/{uid}/instances", {}, KEYS))
                    headers += headers_of(images, answer, self._pseudonym_key, self._selection)
                else:
                    found.append(FoundSeries(study, uid, True, expected=instances_told(answer)))
        refs = series_of((header, "") for header in headers)
        return found + list(chosen(refs, self._selection))
