"""A database in which analysed series have objects to send."""

from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from db import queue, registry, results, schema, studies
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from engine.records import InstanceHeader, ModelRef, Program, ReportObject, ScreeningResult, Selection

ROOT = "1.2.826.0.1.3680043.8.498.77"


def header(number: int) -> InstanceHeader:
    return InstanceHeader(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"{ROOT}.{number}.3",
        study_instance_uid=f"{ROOT}.{number}.1",
        series_instance_uid=f"{ROOT}.{number}.2",
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        patient_key="0" * 32,
        patient_sex=None,
        patient_age=None,
        study_date=None,
        acquisition_date=None,
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY"),
        body_part_examined=None,
        manufacturer=None,
        manufacturer_model_name=None,
        convolution_kernel=(),
        slice_thickness=1.0,
        kvp=120.0,
        contrast_bolus_agent=False,
        gantry_detector_tilt=None,
        lossy_image_compression=False,
        has_rescale=True,
        rows=4,
        columns=4,
        number_of_frames=1,
        instance_number=1,
        frame_of_reference_uid=None,
        image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        image_position_patient=(0.0, 0.0, 0.0),
    )


class Reports:
    """A database in which analysed series have objects to send."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database: Database = open_database(DatabaseOptions(f"sqlite:///{folder / 'memory.db'}"))
        upgrade(self.database)
        self._series = 0

    def add(self, *destinations: str, kinds: tuple[str, ...] = ("sr", "picture")) -> list[ReportObject]:
        """One more series is analysed; its report waits for the destinations."""
        self._series += 1
        first = header(self._series)
        path = self.folder / f"{self._series}.dcm"
        with self.database.begin() as connection:
            registry.register_instances(connection, [registry.Arrival(first, str(path), 1, "0" * 64)])
            chosen = Selection(first.series_instance_uid, Program.VERTEBRAL, None)
            assert studies.close_study(connection, first.study_instance_uid, 1, [chosen], Program.VERTEBRAL)
            (claim,) = queue.claim(connection, "test", 1, 60.0)
            result = ScreeningResult(
                study_instance_uid=first.study_instance_uid,
                series_instance_uid=first.series_instance_uid,
                program=Program.VERTEBRAL,
                levels=(),
                aggregated_levels=(),
                measurements=(),
                evaluations=(),
                quality_flags=(),
                reason=None,
                models=(ModelRef("spine", "1", "0" * 64, True, "f32", "test"),),
                policy="policy@1",
                engine_version="0",
                analysed_at=datetime.now(UTC),
            )
            objects = [self.write(kind, n) for n, kind in enumerate(kinds)]
            assert results.complete(connection, claim, result, objects, destinations)
        return objects

    def write(self, kind: str, number: int, syntax: str = str(ExplicitVRLittleEndian)) -> ReportObject:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.SOPClassUID = ComprehensiveSRStorage if kind == "sr" else SecondaryCaptureImageStorage
        dataset.SOPInstanceUID = f"{ROOT}.{self._series}.9.{number}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT}.{self._series}.1", f"{ROOT}.{self._series}.8"
        dataset.PatientID, dataset.PatientName = "ID", "Marked^Patient"
        path = self.folder / f"{kind}-{self._series}-{number}.dcm"
        dataset.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)
        return ReportObject(kind, str(dataset.SOPClassUID), "1.2.3", str(dataset.SOPInstanceUID), str(path))

    def states(self, destination: str) -> list[str]:
        """States of all objects for a destination, in the order in which they were written."""
        table = schema.outbox
        with self.database.read() as connection:
            wanted = sa.select(table.c.state).where(table.c.destination == destination).order_by(table.c.id)
            return [str(state) for state in connection.execute(wanted).scalars()]
