"""
What an archive answers about images, as headers that the engine's selection can weigh.

An answer is encoded as a data set without pixels and read by the very code that reads files, so one rule makes headers
everywhere. What an archive does not tell is filled with what speaks for an image: only what was said may set a series
aside, and the node decides once more when the whole series is there.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from db.backfill import FoundSeries
from dicom_node.backfill.order import Order
from dicom_node.intake.file_format import dicom_file
from dicom_node.intake.inspection import read_content
from dicom_node.peers.association import EXPLICIT
from engine.errors import UnreadableInstance
from engine.loading.headers import check_uid
from engine.records import InstanceHeader, Reason
from engine.selection import CT_IMAGE, MULTIFRAME_CT, SelectionOptions

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KEYS = (
    *("SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ImageType", "ImagePositionPatient"),
    *("ImageOrientationPatient", "SliceThickness", "ConvolutionKernel", "KVP", "ContrastBolusAgent"),
    *("GantryDetectorTilt", "LossyImageCompression", "Rows", "Columns", "FrameOfReferenceUID", "NumberOfFrames"),
)
"""What is asked for of each image; many archives tell but the first three."""

SERIES_KEYS = ("Modality", "SeriesDescription", "BodyPartExamined", "Manufacturer", "NumberOfSeriesRelatedInstances")

log = logging.getLogger(__name__)

LAST_GROUP_OF_COMMANDS = 0x0006  # commands, file meta information, directories
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def header_of(
    answer: "Dataset", series: "Dataset", pseudonym_key: bytes, is_whole: bool = False
) -> InstanceHeader | None:
    """An image as an archive describes it; None: it does not even name it.

    Args:
        series: what was answered of its series.
        is_whole: the answer is the image's whole header, and what it lacks is lacking.
    """
    from pydicom.dataset import Dataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    said = Dataset()
    written = DicomBytesIO()
    written.is_little_endian, written.is_implicit_VR = True, False
    try:
        for element in (*series, *answer):
            if element.tag.group > LAST_GROUP_OF_COMMANDS and not element.is_empty and element.keyword not in PIXELS:
                said[element.tag] = element
        if "SOPClassUID" not in said:
            said.SOPClassUID = CT_IMAGE
        if not is_whole:
            said.RescaleSlope, said.RescaleIntercept = 1, 0
        write_dataset(written, said)
        content = dicom_file(str(said.SOPClassUID), str(said.SOPInstanceUID), EXPLICIT, written.getvalue())
        return read_content(content, pseudonym_key)[1]
    except Exception as bad:  # whatever an odd answer brings about; its words may quote it
        log.warning("an answer about an image can't be read: %s", bad)
        return None


def headers_of(
    answers: Sequence["Dataset"], series: "Dataset", pseudonym_key: bytes, selection: SelectionOptions
) -> list[InstanceHeader]:
    """Images of a series as an archive describes them, those that it names.

    An image of several frames of which the archive does not tell how many, or one of a few whose SOP class it does not
    tell, has as many as nobody would set aside: whether they are, the image itself will say.
    """
    enough = max(selection.min_slices, selection.enough_slices)
    found = []
    for answer in answers:
        sop_class = str(answer.get("SOPClassUID") or "")
        may_have_more = sop_class in MULTIFRAME_CT or (not sop_class and len(answers) < selection.min_slices)
        if may_have_more and not answer.get("NumberOfFrames"):
            answer.NumberOfFrames = enough
        header = header_of(answer, series, pseudonym_key)
        if header is not None:
            found.append(header)
    return found


def uids_of(answers: Iterable["Dataset"], keyword: str) -> list[str]:
    """Unique identifiers that are some, in the order given."""
    found: dict[str, None] = {}
    for answer in answers:
        try:
            found[check_uid(str(answer.get(keyword) or ""))] = None
        except UnreadableInstance:
            continue
    return list(found)


def ruled_out(study: str, uid: str, answer: "Dataset", descriptions: Sequence[str], order: Order) -> FoundSeries | None:
    """What an answer about a series alone speaks against; None: nothing.

    Not the number of its images: one image may hold all slices.
    """
    count = instances_told(answer) or None
    modality = str(answer.get("Modality") or "")
    if modality and modality != "CT":
        return FoundSeries(study, uid, False, Reason.NOT_CT, "the modality is not CT", count)
    if not order.describes(*descriptions):
        return FoundSeries(study, uid, False, None, "not described as asked for", count)
    return None


def instances_told(answer: "Dataset") -> int:
    """How many images a series has, as an answer about it says; 0: it does not."""
    return int(answer.get("NumberOfSeriesRelatedInstances") or 0)
