"""The spool forgets what is finished and nothing else, whatever ends the process on the way."""

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db import outbox, queue, registry, results, schema, studies
from db.completeness import open_studies
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from dicom_node.clearing import Clearer, ClearingOptions
from dicom_node.config import read_config
from dicom_node.node import clearer_of
from dicom_node.spool import Spool, SpoolOptions
from engine.records import ModelRef, Program, Reason, ReportObject, ScreeningResult, Selection, SeriesFailure

from .sender.reports import ROOT, header

AT_ONCE = ClearingOptions(done_after_h=0.0, set_aside_after_h=0.0, reports_after_h=0.0)
KEPT = replace(AT_ONCE, done_after_h=1.0, set_aside_after_h=1.0, reports_after_h=1.0, low_mib=0)


class Node:
    """A database and a spool with real files in it; each series has two instances."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database: Database = open_database(DatabaseOptions(f"sqlite:///{folder / 'memory.db'}"))
        upgrade(self.database)
        self.spool = Spool(SpoolOptions(str(folder / "spool"), reserve_mib=0))

    def close(self) -> None:
        self.spool.close()
        self.database.close()

    def arrive(self, number: int, *instances: int) -> list[registry.Arrival]:
        """Instances of series `number` come, as by C-STORE."""
        arrivals = []
        for n in instances:
            said = replace(header(number), sop_instance_uid=f"{ROOT}.{number}.3.{n}", instance_number=n)
            stored = self.spool.store(said.sop_instance_uid, f"{number} {n}".encode() * 100)
            arrivals.append(registry.Arrival(said, str(stored.path), stored.size_bytes, stored.digest))
        with self.database.begin() as connection:
            registry.register_instances(connection, arrivals)
        return arrivals

    def close_study(self, number: int, reason: Reason | None = None) -> None:
        uid = f"{ROOT}.{number}.1"
        with self.database.begin() as connection:
            (due,) = [each for each in open_studies(connection, 0.0, 1e9) if each.study_instance_uid == uid]
            chosen = [Selection(f"{ROOT}.{number}.2", Program.VERTEBRAL, reason)]
            assert studies.close_study(connection, uid, due.revision, chosen, Program.VERTEBRAL)

    def analyse(self, number: int, *destinations: str, failure: Reason | None = None) -> list[ReportObject]:
        with self.database.begin() as connection:
            (claim,) = queue.claim(connection, "test", 1, 60.0)
            study, series = claim.series.study_instance_uid, claim.series.series_instance_uid
            if failure is not None:
                assert results.complete(connection, claim, SeriesFailure(study, series, Program.VERTEBRAL, failure, ""))
                return []
            objects = [self.report(series, kind) for kind in ("sr", "picture")]
            assert results.complete(connection, claim, result_of(study, series), objects, destinations)
        return objects

    def report(self, series: str, kind: str) -> ReportObject:
        folder = self.spool.outgoing_folder(series)
        path = folder / f"{kind}.dcm"
        path.write_bytes(kind.encode())
        (folder / f"{kind}.png").write_bytes(b"picture")
        uid = f"2.25.{int(hashlib.sha256(f'{series}{kind}'.encode()).hexdigest()[:20], 16)}"
        return ReportObject(kind, "1.2.840.10008.5.1.4.1.1.88.34", f"{uid}.0", uid, str(path))

    def done(self, number: int, *destinations: str) -> list[ReportObject]:
        """A series comes, is analysed, and its reports wait."""
        self.arrive(number, 1, 2)
        self.close_study(number)
        return self.analyse(number, *destinations)

    def send(self, destination: str) -> None:
        with self.database.begin() as connection:
            for claimed in outbox.claim_objects(connection, destination, "test", 100, 60.0):
                assert outbox.sent(connection, claimed)

    def clear(self, options: ClearingOptions = AT_ONCE, committing: tuple[str, ...] = ()) -> tuple[int, int]:
        cleared = Clearer(self.database, self.spool, options, committing).clear()
        return cleared.series, cleared.reports

    def files(self) -> int:
        return sum(1 for _ in self.spool.incoming())

    def reports(self) -> int:
        return sum(1 for path in (self.spool.folder / "outgoing").rglob("*") if path.is_file())

    def standing(self, number: int) -> tuple[str, Reason | None] | None:
        table = schema.screening
        query = sa.select(table.c.state, table.c.reason).join(schema.series)
        with self.database.read() as connection:
            row = connection.execute(query.where(schema.series.c.series_instance_uid == f"{ROOT}.{number}.2")).first()
        return None if row is None else tuple(row)


def result_of(study: str, series: str) -> ScreeningResult:
    nothing: dict[str, Any] = dict.fromkeys(
        ("levels", "aggregated_levels", "measurements", "evaluations", "quality_flags"), ()
    )
    return ScreeningResult(
        study_instance_uid=study,
        series_instance_uid=series,
        program=Program.VERTEBRAL,
        reason=None,
        models=(ModelRef("spine", "1", "0" * 64, True, "f32", "test"),),
        policy="policy@1",
        engine_version="0",
        analysed_at=datetime.now(UTC),
        **nothing,
    )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


def test_what_reached_every_destination_goes_and_the_rows_know_it(node: Node):
    node.done(1, "pacs", "ris")
    node.send("pacs")
    assert node.clear() == (0, 0)  # one destination still waits
    node.send("ris")
    assert node.clear() == (1, 1)
    assert (node.files(), node.reports()) == (0, 0)
    assert not any((node.spool.folder / "outgoing").glob("*/*"))
    with node.database.read() as connection:
        assert all(connection.execute(sa.select(schema.instance.c.cleared_at)).scalars())
        assert len(registry.known_instances(connection, [f"{ROOT}.1.3.1", f"{ROOT}.1.3.2"])) == 2
    assert node.clear() == (0, 0)


def test_not_before_its_time_unless_the_disk_becomes_low(node: Node):
    node.done(1, "pacs")
    node.send("pacs")
    assert node.clear(KEPT) == (0, 0)
    assert node.clear(replace(KEPT, low_mib=2**40, urgent_after_h=0.5)) == (0, 0)
    assert node.clear(replace(KEPT, low_mib=2**40, urgent_after_h=0.0)) == (1, 0)


def test_where_commitment_is_asked_for_sent_is_not_enough(node: Node):
    objects = node.done(1, "pacs")
    node.send("pacs")
    assert node.clear(committing=("pacs",)) == (0, 0)
    with node.database.begin() as connection:
        outbox.to_commit(connection, "pacs", "2.25.7", 10, 60.0)
        assert outbox.committed(connection, "2.25.7", [each.sop_instance_uid for each in objects]) == 2
    assert node.clear(committing=("pacs",)) == (1, 1)


def test_the_configuration_says_where_commitment_is_waited_for(node: Node, tmp_path: Path):
    """Two destinations, of which one commits: what that one has not committed to stays, whatever the other says."""
    (tmp_path / "node.toml").write_text(
        "[clearing]\ndone_after_h = 0.0\nreports_after_h = 0.0\n"
        "[[sender.destinations]]\nname = 'pacs'\nae_title = 'PACS'\nhost = 'pacs'\ncommitment = true\n"
        "[[sender.destinations]]\nname = 'ris'\nae_title = 'RIS'\nhost = 'ris'\n"
    )
    clearer = clearer_of(node.database, node.spool, read_config(tmp_path / "node.toml"))
    objects = node.done(1, "pacs", "ris")
    node.send("pacs")
    node.send("ris")
    assert clearer.clear().series == 0
    with node.database.begin() as connection:
        outbox.to_commit(connection, "pacs", "2.25.7", 10, 60.0)
        assert outbox.committed(connection, "2.25.7", [each.sop_instance_uid for each in objects]) == 2
    assert clearer.clear().series == 1


def test_without_a_destination_reports_stay(node: Node):
    node.done(1)
    assert node.clear() == (1, 0)
    assert node.reports() == 4


def test_what_is_not_finished_stays(node: Node):
    node.arrive(1, 1)  # its study is open
    node.arrive(2, 1, 2)
    node.close_study(2)  # waits for a worker
    with node.database.begin() as connection:
        (claim,) = queue.claim(connection, "test", 1, 60.0)
        for _ in range(3):
            queue.fail(connection, replace(claim, attempts=3), "a fault", max_attempts=3)
    node.done(3, "pacs")  # a dead letter
    with node.database.begin() as connection:
        for claimed in outbox.claim_objects(connection, "pacs", "test", 10, 60.0):
            outbox.refused(connection, claimed, "no", max_attempts=1)
    assert node.standing(2) == ("set_aside", Reason.ANALYSIS_FAILED)
    assert node.clear() == (0, 0)
    assert node.files() == 5


def test_what_no_program_reads_goes_in_its_time(node: Node):
    node.arrive(1, 1, 2)
    node.close_study(1, Reason.NOT_AXIAL)
    assert node.clear(KEPT) == (0, 0)
    assert node.clear() == (1, 0)
    assert node.standing(1) == ("set_aside", Reason.NOT_AXIAL)


def test_a_late_slice_of_a_cleared_series_ends_with_a_reason_and_the_old_result_is_kept(node: Node):
    node.done(1, "pacs")
    node.send("pacs")
    node.clear()
    node.arrive(1, 3)
    node.close_study(1)
    assert node.standing(1) == ("set_aside", Reason.PIXELS_CLEARED)
    with node.database.begin() as connection:
        assert queue.claim(connection, "test", 1, 60.0) == ()
        assert queue.retry(connection, f"{ROOT}.1.2") == 0
        assert connection.execute(sa.select(schema.result.c.is_current)).scalars().all() == [False]


def test_sent_again_as_a_whole_it_is_analysed_by_itself(node: Node):
    node.done(1, "pacs")
    node.send("pacs")
    node.clear()
    node.arrive(1, 3)
    node.close_study(1)
    with node.database.read() as connection:  # what a backfill would fetch
        uids = [f"{ROOT}.1.3.{n}" for n in (1, 2, 3)]
        assert registry.here_or_finished(connection, uids) == {uids[2]}
    node.arrive(1, 1)
    node.close_study(1)
    assert node.standing(1) == ("set_aside", Reason.PIXELS_CLEARED)  # one is still missing
    node.arrive(1, 2)
    node.close_study(1)
    assert node.standing(1) == ("waiting", None)
    node.analyse(1, "pacs")
    assert node.standing(1) == ("done", None)


def test_a_finished_series_that_is_merely_sent_again_stays_finished(node: Node):
    node.done(1, "pacs")
    node.send("pacs")
    node.clear()
    node.arrive(1, 1, 2)
    assert node.standing(1) == ("done", None)
    assert node.files() == 2
    assert node.clear() == (1, 0)  # and goes again
    assert node.files() == 0


def test_names_that_a_power_cut_brought_back_are_swept_and_what_just_came_is_not(node: Node):
    node.done(1, "pacs")
    node.send("pacs")
    kept = {path: path.read_bytes() for path in node.spool.incoming()}
    node.clear()
    old, new = kept
    for path in kept:
        path.write_bytes(kept[path])
    os.utime(old, (1.0, 1.0))
    assert Clearer(node.database, node.spool, AT_ONCE, ()).sweep()
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("deleted", [0, 1, 3])
def test_killed_while_clearing_it_loses_nothing_and_goes_on(node: Node, tmp_path: Path, deleted: int):
    node.done(1, "pacs")
    node.done(2, "pacs")
    node.send("pacs")
    node.arrive(3, 1, 2)
    child = get_context("fork").Process(target=_clear_and_die, args=(tmp_path, deleted))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert node.files() == 6 - deleted
    assert node.clear() == (2 - deleted // 2, 2)
    assert node.files() == 2  # of the series that is not finished
    with node.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count(schema.instance.c.cleared_at))).scalar_one() == 4


def _clear_and_die(folder: Path, after: int) -> None:
    database = open_database(DatabaseOptions(f"sqlite:///{folder / 'memory.db'}"))
    unlink, count = Path.unlink, 0

    def dies(path: Path, missing_ok: bool = False) -> None:
        nonlocal count
        if count == after:
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(path, missing_ok)
        count += 1

    spool = Spool(SpoolOptions(str(folder / "spool"), reserve_mib=0))
    Path.unlink = dies  # type: ignore[method-assign]
    Clearer(database, spool, AT_ONCE, ()).clear()
