"""A small archive of phantoms' headers: many series, few and tiny slices."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
)

from db import schema
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from dicom_node.backfill.options import BackfillOptions
from dicom_node.spool import Spool, SpoolOptions
from engine.selection import SelectionOptions

ROOT = "1.2.826.0.1.3680043.8.498.88"
KEY = bytes(range(32))
SLICES = 12
SELECTION = SelectionOptions(min_extent_mm=10.0)
QUICK = BackfillOptions(
    keep_free_mib=0,
    live_pause_s=0.0,
    poll_s=0.02,
    retry_after_s=0.0,
    attempts=2,
    immediate_retries=1,
    longest_pause_s=0.01,
)


def uid(*numbers: int) -> str:
    return ".".join([ROOT, *map(str, numbers)])


@dataclass
class MadeArchive:
    """Series as files; each is a folder `study/series`."""

    folder: Path
    files: dict[str, list[Path]] = field(default_factory=dict)  # by Series Instance UID

    def add_multiframe(self, study: int, series: int, frames: int = SLICES, legacy: bool = False) -> str:
        """A series of one enhanced image."""
        made = multiframe_of(study, series, frames, legacy)
        place = self.folder / f"study{study}" / f"series{series}"
        place.mkdir(parents=True)
        made.save_as(place / "all.dcm", enforce_file_format=True)
        self.files[uid(study, series)] = [place / "all.dcm"]
        return uid(study, series)

    def add(self, study: int, series: int, slices: int = SLICES, **changes: object) -> str:
        series_uid = uid(study, series)
        place = self.folder / f"study{study}" / f"series{series}"
        place.mkdir(parents=True)
        for n in range(1, slices + 1):
            dataset = slice_of(study, series, n, **changes)
            path = place / f"{n}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            self.files.setdefault(series_uid, []).append(path)
        return series_uid


def slice_of(study: int, series: int, number: int, **changes: object) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = uid(study, series, number)
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = uid(study, series, number)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(study), uid(study, series)
    dataset.PatientID, dataset.PatientName = f"ID{study}", "Marked^Patient"
    dataset.PatientBirthDate, dataset.PatientSex = "19500101", "F"
    dataset.StudyID, dataset.StudyTime, dataset.ReferringPhysicianName = str(study), "101010", ""
    dataset.StudyDate, dataset.AccessionNumber = f"202603{(study - 1) % 31 + 1:02d}", f"ACC{study}"
    dataset.Modality, dataset.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyDescription, dataset.SeriesDescription = "ABDOMEN", f"series {series}"
    dataset.SeriesNumber, dataset.InstanceNumber = series, number
    dataset.Manufacturer, dataset.ConvolutionKernel = "SIEMENS", "B30f"
    dataset.SliceThickness, dataset.KVP = 1.25, 120
    dataset.FrameOfReferenceUID = uid(study, 99)
    dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], [0.8, 0.8]
    dataset.ImagePositionPatient = [-100.0, -100.0, 1.25 * number]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = bytes([study, series, number, 0]) * 128
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def multiframe_of(study: int, series: int, frames: int, legacy: bool) -> Dataset:
    """The same slices in one enhanced image; what stands in functional groups stands nowhere else (PS3.3 A.38)."""
    made = slice_of(study, series, 1)
    made.SOPClassUID = LegacyConvertedEnhancedCTImageStorage if legacy else EnhancedCTImageStorage
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    shared = Dataset()
    shared.PlaneOrientationSequence = [moved(made, "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [moved(made, "PixelSpacing", "SliceThickness")]
    shared.CTReconstructionSequence = [moved(made, "ConvolutionKernel")]
    shared.CTXRayDetailsSequence = [moved(made, "KVP")]
    shared.PixelValueTransformationSequence = [moved(made, "RescaleSlope", "RescaleIntercept")]
    made.SharedFunctionalGroupsSequence = [shared]
    made.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    made.PerFrameFunctionalGroupsSequence = []
    for n in range(frames):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [-100.0, -100.0, 1.25 * n]
        group.PlanePositionSequence = [position]
        made.PerFrameFunctionalGroupsSequence.append(group)
    del made.ImagePositionPatient
    made.NumberOfFrames, made.PixelData = frames, made.PixelData * frames
    return made


def moved(source: Dataset, *keywords: str) -> Dataset:
    """Elements that stood in a data set, and stand in it no longer."""
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, source[keyword].value)
        delattr(source, keyword)
    return item


@dataclass
class Memory:
    """A node's database and spool."""

    database: Database
    spool: Spool

    def series(self) -> dict[str, tuple[str, str | None, int, int]]:
        """By UID: state, reason, received, attempts."""
        table = schema.backfill_series
        with self.database.read() as connection:
            rows = connection.execute(sa.select(table)).all()
        return {row.series_instance_uid: (row.state, row.reason, row.received, row.attempts) for row in rows}

    def registered(self) -> dict[str, int]:
        """Instances by Series Instance UID."""
        query = sa.select(schema.series.c.series_instance_uid, sa.func.count()).join(schema.instance)
        with self.database.read() as connection:
            return dict(connection.execute(query.group_by(schema.series.c.id)).all())

    def texts(self) -> str:
        """Everything that is written down, in one text."""
        with self.database.read() as connection:
            rows = [connection.execute(sa.select(table)).all() for table in schema.metadata.sorted_tables]
        return repr(rows)


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    """A command listens to signals; called in a test, they are the tests' own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    database = open_database(DatabaseOptions(f"sqlite:///{tmp_path / 'memory.db'}"))
    upgrade(database)
    with Spool(SpoolOptions(folder=str(tmp_path / "spool"), reserve_mib=0)) as spool:
        yield Memory(database, spool)
    database.close()


@pytest.fixture
def made(tmp_path: Path) -> MadeArchive:
    return MadeArchive(tmp_path / "archive")


@pytest.fixture(scope="session")
def three_studies(tmp_path_factory: pytest.TempPathFactory) -> MadeArchive:
    """Three studies on three days; in each one series that serves, one that is too sharp, one that is no CT."""
    made = MadeArchive(tmp_path_factory.mktemp("three"))
    for study in (1, 2, 3):
        made.add(study, 1)
        made.add(study, 2, ConvolutionKernel="B70f")
        made.add(study, 3, slices=2, Modality="PR")
    return made


@pytest.fixture
def copy(three_studies: MadeArchive, tmp_path: Path) -> MadeArchive:
    """The same, to be changed."""
    folder = tmp_path / "copied"
    shutil.copytree(three_studies.folder, folder)
    moved = {
        name: [folder / path.relative_to(three_studies.folder) for path in paths]
        for name, paths in three_studies.files.items()
    }
    return MadeArchive(folder, moved)
