"""
A PACS: searched by C-FIND day by day, read by C-GET or C-MOVE series by series.

What the series level tells rules out what is no CT or not asked for; the image level tells which images there are,
and from some PACSs what they are; by C-GET one slice is fetched where that is too little. Then the engine chooses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from db.backfill import FoundSeries
from dicom_node.backfill.answers import KEYS, SERIES_KEYS, headers_of, ruled_out, uids_of
from dicom_node.backfill.calling import archive_peer
from dicom_node.backfill.options import Archive, BackfillOptions, Retrieve
from dicom_node.backfill.order import Order
from dicom_node.backfill.source import Findings, Part, Take, chosen
from dicom_node.intake.file_format import dicom_file
from dicom_node.intake.inspection import Command, read_content
from dicom_node.intake.taking import Offered
from dicom_node.peers import query
from dicom_node.peers.leaving import GoOn, always
from engine.errors import PeerError, UnreadableInstance
from engine.records import InstanceHeader
from engine.selection import CT_IMAGE, MULTIFRAME_CT, READABLE_TRANSFER_SYNTAXES, SelectionOptions
from engine.series import series_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from dicom_node.peers.query import Finder

SOP_CLASSES = (CT_IMAGE, *sorted(MULTIFRAME_CT))
"""What is asked for by C-GET, each in every transfer syntax that is read."""


class PacsSource:
    """An archive that speaks DICOM's own protocol."""

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
        self.comes_by_front_door = archive.retrieve is Retrieve.MOVE
        self._archive = archive
        self._order = order
        self._options = options
        self._pseudonym_key = pseudonym_key
        self._selection = selection
        self._peer = archive_peer(archive, options, options.answer_timeout_s)

    def parts(self) -> Iterable[Part]:
        """Each day, or each examination."""
        return self._order.parts()

    def search(self, part: Part, thoroughly: bool = True, go_on: GoOn = always) -> Findings:
        """Ask for studies, then series, then images of those that may serve."""
        found: list[FoundSeries] = []
        keyword, _, value = part.key.partition("=")
        with query.finder(self._peer, go_on) as finder:
            studies = self._studies(finder, keyword, value)
            for study, description in studies.items():
                found += self._of_study(finder, study, description, thoroughly, go_on)
        return Findings(len(studies), tuple(found))

    def listing(
        self, part: Part, study_instance_uid: str, series_instance_uid: str, go_on: GoOn = always
    ) -> Sequence[str]:
        """SOP Instance UIDs at the image level."""
        with query.finder(self._peer, go_on) as finder:
            images = finder.find(
                "IMAGE",
                StudyInstanceUID=study_instance_uid,
                SeriesInstanceUID=series_instance_uid,
                SOPInstanceUID="",
            )
        return uids_of(images, "SOPInstanceUID")

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
        """By C-GET or C-MOVE."""
        asked = query.requests(study_instance_uid, series_instance_uid, uids, whole)
        if self._archive.retrieve is Retrieve.MOVE:
            query.move(self._peer, asked, self._options.ae_title, go_on)
            return

        def received(abstract: str, sop_class: str, uid: str, syntax: str, data_set: bytes) -> bool:
            return take(Offered(Command(abstract, sop_class, uid), syntax, data_set))

        query.get(self._peer, asked, SOP_CLASSES, sorted(READABLE_TRANSFER_SYNTAXES), received, go_on)

    def _studies(self, finder: "Finder", keyword: str, value: str) -> dict[str, str]:
        """Study Instance UIDs with their descriptions. Some archives do not match the modality: then we do."""
        modality = self._order.modality
        keys = {"StudyInstanceUID": "", "StudyDescription": "", "ModalitiesInStudy": modality}
        found: dict[str, str] = {}
        for answer in finder.find("STUDY", **(keys | {keyword: value})):
            if not modality or modality in _values(answer, "ModalitiesInStudy", otherwise={modality}):
                found |= dict.fromkeys(uids_of([answer], "StudyInstanceUID"), str(answer.get("StudyDescription") or ""))
        return found

    def _of_study(
        self, finder: "Finder", study: str, description: str, thoroughly: bool, go_on: GoOn
    ) -> list[FoundSeries]:
        keys = dict.fromkeys(("SeriesInstanceUID", *SERIES_KEYS), "")
        answers = finder.find("SERIES", StudyInstanceUID=study, **keys)
        found: list[FoundSeries] = []
        candidates: list[InstanceHeader] = []
        expected: dict[str, int] = {}
        for answer in answers:
            uid = next(iter(uids_of([answer], "SeriesInstanceUID")), None)
            if uid is None:
                continue
            descriptions = (description, str(answer.get("SeriesDescription") or ""))
            out = ruled_out(study, uid, answer, descriptions, self._order)
            if out is not None:
                found.append(out)
                continue
            answer.StudyInstanceUID = study
            headers = self._headers(finder, study, uid, answer, thoroughly, go_on)
            expected[uid] = len(headers)
            candidates += headers
        refs = series_of((header, "") for header in candidates)
        return found + [
            replace(each, expected=expected[each.series_instance_uid]) for each in chosen(refs, self._selection)
        ]

    def _headers(
        self, finder: "Finder", study: str, uid: str, series: "Dataset", thoroughly: bool, go_on: GoOn
    ) -> list[InstanceHeader]:
        """Of all images, as far as the archive tells; from one whole slice, where it tells too little."""
        answers = finder.find("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=uid, **dict.fromkeys(KEYS, ""))
        headers = headers_of(answers, series, self._pseudonym_key, self._selection)
        if not self._is_worth_a_sample(headers, thoroughly):
            return headers
        middle = sorted(headers, key=lambda header: (header.instance_number or 0, header.sop_instance_uid))
        sample = self._sample(study, uid, middle[len(middle) // 2].sop_instance_uid, go_on)
        if sample is None:
            return headers
        if len(headers) == 1:
            return [sample]
        return [
            replace(
                sample,
                sop_instance_uid=header.sop_instance_uid,
                instance_number=header.instance_number,
                image_position_patient=header.image_position_patient,
                last_position_patient=None,
            )
            for header in headers
        ]

    def _is_worth_a_sample(self, headers: Sequence[InstanceHeader], thoroughly: bool) -> bool:
        """Where answers tell too little, and one image is little of the series: not of an image of many frames."""
        samples = self._archive.retrieve is Retrieve.GET and self._options.sample and thoroughly
        tells = any(header.image_type and header.slice_thickness for header in headers)
        slices = sum(header.number_of_frames for header in headers)
        whole = any(header.sop_class_uid in MULTIFRAME_CT for header in headers)
        return samples and bool(headers) and not tells and not whole and slices >= self._selection.min_slices

    def _sample(self, study: str, series: str, uid: str, go_on: GoOn) -> InstanceHeader | None:
        """The header of one image, fetched for it; it is not kept."""
        seen: list[InstanceHeader] = []

        def received(abstract: str, sop_class: str, uid: str, syntax: str, data_set: bytes) -> bool:
            try:
                _, header = read_content(dicom_file(sop_class, uid, syntax, data_set), self._pseudonym_key)
                seen.append(header)
            except UnreadableInstance:
                pass  # fetching the series will say so
            return True

        asked = query.requests(study, series, [uid], whole=False)
        try:
            query.get(self._peer, asked, SOP_CLASSES, sorted(READABLE_TRANSFER_SYNTAXES), received, go_on)
        except PeerError:
            return None  # some retrieve no single image: the answers must do
        return seen[0] if seen else None


def _values(answer: "Dataset", keyword: str, otherwise: set[str]) -> set[str]:
    """Values of a key; where the archive does not return it, it is trusted to have matched it."""
    value = answer.get(keyword)
    if not value:
        return otherwise
    return {str(value)} if isinstance(value, str) else {str(each) for each in value}
