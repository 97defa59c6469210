"""CT series written for a test: valid ones by pydicom, hostile ones byte by byte."""

import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from engine.loading.headers import read_header
from engine.records import SeriesRef
from engine.series import series_of

KEY = b"a secret of the site"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def _slice(k: int, rows: int, columns: int) -> np.ndarray:
    """Values that name their place: k, j and i can be read back from each."""
    j, i = np.mgrid[:rows, :columns]
    return (1000 + 100 * k + 7 * j + i).astype(np.uint16)


def _dataset(k: int, values: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CT_IMAGE
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{k + 1}"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.1000.1"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.1000.2"
    dataset.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.1000.3"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientID = "P-1"
    dataset.PatientName = "Doe^Jane"
    dataset.Manufacturer = "SIEMENS"
    dataset.ConvolutionKernel = "Br40f"
    dataset.SliceThickness = 1.0
    dataset.KVP = 120
    dataset.InstanceNumber = k + 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-50, -60, 100 + 2 * k]
    dataset.PixelSpacing = [0.75, 0.5]
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = values.tobytes()
    return dataset


class CtSeries:
    """Writes a small series into a folder, one change at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self,
        count: int = 12,
        change: Callable[[Dataset, int], None] | None = None,
        rows: int = 10,
        columns: int = 9,
        transfer_syntax_uid: str | None = None,
        encode: Callable[[np.ndarray], bytes] | None = None,
        names: Iterable[str] | None = None,
    ) -> list[Path]:
        paths = []
        for k, name in zip(range(count), names or (f"{n:03}.dcm" for n in range(count)), strict=True):
            values = _slice(k, rows, columns)
            dataset = _dataset(k, values)
            if encode is not None:
                dataset.PixelData = encapsulate([encode(values)])
                dataset["PixelData"].is_undefined_length = True
            if transfer_syntax_uid is not None:
                dataset.file_meta.TransferSyntaxUID = transfer_syntax_uid
            if change is not None:
                change(dataset, k)
            dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            path = self.folder / name
            dataset.save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    def series(self) -> SeriesRef:
        """What the folder holds, as one series."""
        (series,) = series_of((read_header(path, KEY), str(path)) for path in self.folder.glob("*.dcm"))
        return series


@pytest.fixture
def ct(tmp_path: Path) -> CtSeries:
    return CtSeries(tmp_path)


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One element, explicit little endian; `length` may lie."""
    said = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHI", group, number, vr, 0, said) + value
    return struct.pack("<HH2sH", group, number, vr, said) + value


def item(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value) if length is None else length) + value


END_OF_ITEM = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
END_OF_SEQUENCE = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
UNDEFINED = 0xFFFFFFFF

IDENTITY = {
    (0x0008, 0x0016): (b"UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
    (0x0008, 0x0018): (b"UI", b"1.2.3.4\0"),
    (0x0008, 0x0060): (b"CS", b"CT"),
    (0x0010, 0x0020): (b"LO", b"P-1 "),
    (0x0020, 0x000D): (b"UI", b"1.2.3.1\0"),
    (0x0020, 0x000E): (b"UI", b"1.2.3.2\0"),
}


def part10(body: bytes, transfer_syntax_uid: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    """A DICOM file around an encoded data set."""
    meta = element(0x0002, 0x0010, b"UI", transfer_syntax_uid)
    return b"\0" * 128 + b"DICM" + element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta))) + meta + body


def body_of(values: dict[tuple[int, int], tuple[bytes, bytes]]) -> bytes:
    return b"".join(element(*tag, *values[tag]) for tag in sorted(values))


class Bytes:
    """Byte by byte; the parts are here so that tests need not import this file."""

    element = staticmethod(element)
    item = staticmethod(item)
    part10 = staticmethod(part10)
    body_of = staticmethod(body_of)
    END_OF_ITEM = END_OF_ITEM
    END_OF_SEQUENCE = END_OF_SEQUENCE
    UNDEFINED = UNDEFINED
    IDENTITY = IDENTITY
    KEY = KEY

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, values: dict[tuple[int, int], tuple[bytes, bytes]] | None = None, extra: bytes = b"") -> Path:
        """A file whose identity is complete, with some values put in or changed, and bytes behind them."""
        path = self.folder / "one.dcm"
        path.write_bytes(part10(body_of(IDENTITY | (values or {})) + extra))
        return path


@pytest.fixture
def raw(tmp_path: Path) -> Bytes:
    return Bytes(tmp_path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    import os

    folder = Path(os.environ.get("TRABECULA_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (folder / "ct_thorax_contrast").is_dir():
        pytest.skip("the real CT is not beside the project")
    return folder
