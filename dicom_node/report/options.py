"""How reports are written: what a site may choose."""

from dataclasses import dataclass
from enum import StrEnum

MANUFACTURER = "Trabecula"
RESEARCH_ONLY = "Reference weights trained on procedurally generated phantoms. Research only, not for diagnosis."


class SegmentationForm(StrEnum):
    """How segments are stored."""

    BINARY = "binary"  # one bit a voxel and segment: every viewer reads it
    LABELMAP = "labelmap"  # one label a voxel, RLE: a tenth of the size; of 2024, known to few


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What is written, and what it is called in the archive."""

    picture: bool = True  # write the overview picture too
    segmentation: SegmentationForm = SegmentationForm.BINARY
    bodies: bool = True  # segments for whole vertebral bodies beside those for the measured cores
    series_number: int = 9801  # of the SR; segmentation and picture have the next two. Ours: above any scanner's
    device_serial_number: str = ""  # "" is filled with a digest of program and models
    institution_name: str = ""  # of the machine that computes; "" leaves it out
    institutional_department_name: str = ""

    def __post_init__(self) -> None:
        """Refuse what DICOM can't hold.

        Raises:
            ValueError: a series number is below 1, or a text is longer than 64 characters.
        """
        if not 1 <= self.series_number <= 2**31 - 3:
            raise ValueError("series_number must be positive")
        for text in (self.device_serial_number, self.institution_name, self.institutional_department_name):
            if len(text) > 64 or "\\" in text:
                raise ValueError(f"'{text[:20]}...' is longer than 64 characters, or has a backslash")
