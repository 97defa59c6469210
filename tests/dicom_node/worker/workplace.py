"""What a worker works in: a database, a spool with a series in it, and programs that do what a test wants."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from db import overview, registry, schema, studies
from db.completeness import open_studies
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from dicom_node.report.options import ReportOptions
from dicom_node.spool import Spool, SpoolOptions
from dicom_node.worker import Worker, WorkerOptions
from engine.loading.headers import read_header
from engine.programs.stages import Stage, each
from engine.records import Program, Selection, SeriesRef
from engine.volume import Analysis
from exporters.reference.phantom_series import SeriesTruth

KEY = b"a key of the tests, and no other"
QUICK: dict[str, Any] = {"poll_s": 0.05, "retry_after_s": 0.05, "lease_s": 30.0}


class Memory:
    """A node's database and spool, with one study of one selected series."""

    def __init__(self, folder: Path, series: SeriesTruth, slices: int | None = None) -> None:
        self.folder = folder
        self.database: Database = open_database(
            DatabaseOptions(f"sqlite:///{folder / 'memory.db'}", lock_timeout_s=0.5)
        )
        upgrade(self.database)
        self.spool = Spool(SpoolOptions(str(folder / "spool"), reserve_mib=1))
        self.paths = series.paths[:slices]
        self.series_instance_uid = series.series_instance_uid
        self.study_instance_uid = series.study_instance_uid
        self.take_in("")

    def take_in(self, suffix: str) -> str:
        """A study of one selected series, which a suffix to all its UIDs makes another; its series' UID."""
        arrivals = []
        for path in self.paths:
            header = read_header(path, KEY)
            header = replace(
                header,
                study_instance_uid=header.study_instance_uid + suffix,
                series_instance_uid=header.series_instance_uid + suffix,
                sop_instance_uid=header.sop_instance_uid + suffix,
            )
            stored = self.spool.store(header.sop_instance_uid, path.read_bytes() + suffix.encode())
            arrivals.append(registry.Arrival(header, str(stored.path), stored.size_bytes, stored.digest))
        with self.database.begin() as connection:
            registry.register_instances(connection, arrivals)
            (due,) = open_studies(connection, 0.0, 0.0)
            chosen = [Selection(header.series_instance_uid, Program.VERTEBRAL, None)]
            assert studies.close_study(connection, due.study_instance_uid, due.revision, chosen, Program.VERTEBRAL)
        return header.series_instance_uid

    def worker(self, analyst: Any, **options: Any) -> Worker:
        return Worker(
            self.database,
            self.spool,
            {Program.VERTEBRAL: analyst},
            ("pacs", "viewer"),
            WorkerOptions(**(QUICK | options)),
            ReportOptions(),
        )

    def explained(self) -> overview.SeriesExplained:
        with self.database.read() as connection:
            study = overview.explain(connection, self.study_instance_uid)
        assert study is not None
        return study.series[0]

    def jobs(self) -> dict[str, Any]:
        """Every job by its series."""
        joined = sa.join(schema.job, schema.series, schema.job.c.series_id == schema.series.c.id)
        with self.database.read() as connection:
            rows = connection.execute(sa.select(schema.job, schema.series.c.series_instance_uid).select_from(joined))
            return {row.series_instance_uid: row for row in rows}

    def job(self) -> Any:
        with self.database.read() as connection:
            return connection.execute(sa.select(schema.job)).one()

    def close(self) -> None:
        self.spool.close()
        self.database.close()


class Does:
    """A program that does what a test wants in the middle of an analysis."""

    program = Program.VERTEBRAL

    def __init__(self, act: Callable[[SeriesRef], Any]) -> None:
        self.act = act
        self.times = 0
        self.stages = (Stage("act", each(self._act)),)

    def begin(self, series: SeriesRef) -> Any:
        return SimpleNamespace(series=series, seconds=())

    def end(self, case: Any) -> Analysis:
        assert isinstance(case.done, Analysis)
        return case.done

    def _act(self, case: Any) -> None:
        self.times += 1
        case.done = self.act(case.series)


def repeat(analysis: Analysis) -> Callable[[SeriesRef], Any]:
    return lambda series: replace(analysis, series=series)


def fail_with(error: BaseException) -> Callable[[SeriesRef], Any]:
    def act(_: SeriesRef) -> Any:
        raise error

    return act


def sleep_s(seconds: float) -> None:
    """Not in one go, so that a signal is heeded as between two tiles."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
