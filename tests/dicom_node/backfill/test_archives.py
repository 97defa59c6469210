"""Real archives are read: DCMTK's by C-GET and C-MOVE, Orthanc's by those and by DICOMweb."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from pydicom.uid import MRImageStorage

from db.progress import BackfillLine, backfills, measured_rate
from db.schema import BackfillState
from dicom_node.backfill.estimate import estimate
from dicom_node.backfill.options import Archive, BackfillOptions, Retrieve
from dicom_node.backfill.order import Order, archive_source, read_csv
from dicom_node.backfill.runner import Backfill
from dicom_node.backfill.source import Part, Source
from dicom_node.intake.receiver import Receiver, ReceiverOptions
from dicom_node.intake.registrar import Registrar, RegistrarOptions
from engine.errors import BadOption, PeerAway
from engine.records import Reason

from ..foreign import Dcmqrscp, Namespace, Orthanc, free_port, need
from .conftest import KEY, QUICK, SELECTION, SLICES, MadeArchive, Memory, uid

WANTED = [uid(study, 1) for study in (1, 2, 3)]
MARCH = Order(date(2026, 3, 1), date(2026, 3, 4), None)
OPTIONS = replace(QUICK, arrival_timeout_s=10.0)


def source(archive: Archive, order: Order = MARCH, options: BackfillOptions = OPTIONS) -> Source:
    return archive_source(archive, order, options, KEY, SELECTION)


def read(memory: Memory, where: Source, options: BackfillOptions = OPTIONS) -> BackfillState:
    return Backfill(memory.database, memory.spool, KEY, where, options).run()


@contextmanager
def front_door(memory: Memory) -> Iterator[int]:
    """Our receiver, to which C-MOVE sends."""
    options = ReceiverOptions(port=0, stop_grace_s=0.5)
    with (
        Registrar(memory.database, memory.spool, KEY, RegistrarOptions(gather_s=0.02)) as registrar,
        Receiver(options, memory.spool, registrar, KEY) as receiver,
    ):
        yield receiver.port


@pytest.fixture(scope="module")
def every_file(three_studies: MadeArchive) -> list[Path]:
    return [path for paths in three_studies.files.values() for path in paths]


@pytest.fixture
def full_orthanc(orthanc: Orthanc, every_file: list[Path]) -> Orthanc:
    orthanc.add(every_file)
    return orthanc


def of(orthanc: Orthanc, retrieve: Retrieve | None = Retrieve.GET) -> Archive:
    if retrieve is None:
        return Archive("orthanc", url=orthanc.url)
    return Archive("orthanc", "ORTHANC", "127.0.0.1", orthanc.dicom_port, retrieve)


def whole(memory: Memory) -> None:
    """Everything that serves is here, whole, and nothing else."""
    assert memory.registered() == dict.fromkeys(WANTED, SLICES)
    states = memory.series()
    assert {states[name][:3] for name in WANTED} == {("done", None, SLICES)}
    assert {states[uid(n, 2)][:2] for n in (1, 2, 3)} == {("skipped", Reason.BETTER_SERIES)}
    assert {states[uid(n, 3)][:2] for n in (1, 2, 3)} == {("skipped", Reason.NOT_CT)}


def test_orthanc_by_c_get(memory: Memory, full_orthanc: Orthanc):
    assert read(memory, source(of(full_orthanc))) is BackfillState.DONE
    whole(memory)


def test_orthanc_by_c_move_to_our_front_door(memory: Memory, full_orthanc: Orthanc):
    with front_door(memory) as port:
        full_orthanc.knows("TRABECULA", port)
        assert read(memory, source(of(full_orthanc, Retrieve.MOVE))) is BackfillState.DONE
    whole(memory)
    with memory.database.read() as connection:  # what came to the front door counts as what comes to us
        (line,) = backfills(connection)
        assert line.size_bytes > 3 * SLICES * 512
        assert measured_rate(connection, "orthanc") is not None


def test_orthanc_by_dicomweb(memory: Memory, full_orthanc: Orthanc):
    assert read(memory, source(of(full_orthanc, None))) is BackfillState.DONE
    whole(memory)


def test_by_every_way_an_instance_makes_the_same_file(memory: Memory, full_orthanc: Orthanc):
    """C-GET first; then each of the others is asked for all of it again, and finds that it has it."""
    read(memory, source(of(full_orthanc)))
    before = {path: path.read_bytes() for path in memory.spool.incoming()}
    taken = []
    from dicom_node.intake.taking import take

    for archive in (of(full_orthanc), of(full_orthanc, None)):
        where = source(archive)
        uids = where.listing(Part(""), uid(1), WANTED[0])
        where.fetch(
            Part(""),
            uid(1),
            WANTED[0],
            uids,
            True,
            lambda each: bool(taken.append(take(each, memory.spool, KEY))) or True,
            lambda: True,
        )
    assert len(taken) == 2 * SLICES
    assert {path: path.read_bytes() for path in memory.spool.incoming()} == before


@pytest.mark.parametrize("retrieve", [Retrieve.GET, None])
def test_only_what_is_missing_of_a_series_is_asked_for(
    memory: Memory, full_orthanc: Orthanc, retrieve: Retrieve | None
):
    where = source(of(full_orthanc, retrieve))
    uids = list(where.listing(Part(""), uid(1), WANTED[0]))
    came: list[str] = []
    where.fetch(
        Part(""),
        uid(1),
        WANTED[0],
        uids[3:5],
        False,
        lambda each: came.append(each.command.sop_instance_uid) or True,
        lambda: True,
    )
    assert sorted(came) == sorted(uids[3:5])


def test_by_a_table_of_accession_numbers_and_none_is_written_down(
    memory: Memory, full_orthanc: Orthanc, tmp_path: Path
):
    table = tmp_path / "examinations.csv"
    table.write_text("Patient;Accession Number\nsomebody;ACC2\nsomebody;ACC2\nother;ACC77\n")
    order = Order(None, None, read_csv(table))
    assert read(memory, source(of(full_orthanc), order)) is BackfillState.DONE
    assert memory.registered() == {WANTED[1]: SLICES}
    assert "ACC2" not in memory.texts()
    assert "a list of 2 by AccessionNumber, CT" in memory.texts()


@pytest.fixture
def with_mr(orthanc: Orthanc, three_studies: MadeArchive, tmp_path: Path) -> Orthanc:
    """The second and third study, and a fourth that is MR."""
    mr = MadeArchive(tmp_path / "mr")
    mr.add(4, 1, slices=1, Modality="MR", SOPClassUID=MRImageStorage)
    orthanc.add([path for study in (2, 3) for n in (1, 2) for path in three_studies.files[uid(study, n)]])
    orthanc.add(mr.files[uid(4, 1)])
    return orthanc


@pytest.mark.parametrize("retrieve", [Retrieve.GET, None])
def test_a_listed_study_of_another_modality_is_set_aside_with_a_reason(
    memory: Memory, with_mr: Orthanc, tmp_path: Path, retrieve: Retrieve | None
):
    table = tmp_path / "studies.csv"
    table.write_text(f"StudyInstanceUID,Remark\n{uid(2)},spine\n{uid(4)},MR\n{uid(77)},unknown there\n")
    order = Order(None, None, read_csv(table), modality="")
    assert read(memory, source(of(with_mr, retrieve), order)) is BackfillState.DONE
    assert memory.registered() == {WANTED[1]: SLICES}
    states = memory.series()
    assert set(states) == {uid(2, 1), uid(2, 2), uid(4, 1)}  # the third study is not on the list
    assert states[uid(4, 1)][:3] == ("skipped", Reason.NOT_CT, 0)
    assert "a list of 3 by StudyInstanceUID, any modality" in memory.texts()


@pytest.mark.parametrize("retrieve", [Retrieve.GET, None])
def test_days_of_another_modality_find_its_studies_and_fetch_none(
    memory: Memory, with_mr: Orthanc, retrieve: Retrieve | None
):
    assert read(memory, source(of(with_mr, retrieve), replace(MARCH, modality="MR"))) is BackfillState.DONE
    assert {name: state[:3] for name, state in memory.series().items()} == {uid(4, 1): ("skipped", Reason.NOT_CT, 0)}
    assert memory.registered() == {}


def test_by_description(memory: Memory, full_orthanc: Orthanc):
    order = replace(MARCH, description="series 2")
    assert read(memory, source(of(full_orthanc, None), order)) is BackfillState.DONE
    assert memory.registered() == {uid(n, 2): SLICES for n in (1, 2, 3)}


@pytest.mark.parametrize("retrieve", [Retrieve.GET, None])
def test_a_dry_run_counts_without_fetching(memory: Memory, full_orthanc: Orthanc, retrieve: Retrieve | None):
    found = estimate(source(of(full_orthanc, retrieve)), OPTIONS)
    assert (found.parts, found.studies) == (4, 3)
    assert found.wanted >= 3
    assert list(memory.spool.incoming()) == []


def test_dcmtks_archive_by_c_get_and_c_move(
    memory: Memory, namespace: Namespace, inside: None, every_file: list[Path], tmp_path: Path
):
    need("dcmqrscp", "storescu")
    with front_door(memory) as port:
        archive = Dcmqrscp(tmp_path, {"TRABECULA": port})
        try:
            archive.add(every_file)
            there = Archive("dcmtk", "ARCHIVE", "127.0.0.1", archive.port)
            day = replace(MARCH, until=date(2026, 3, 1))
            assert read(memory, source(there, day)) is BackfillState.DONE
            assert memory.registered() == {WANTED[0]: SLICES}
            assert read(memory, source(replace(there, retrieve=Retrieve.MOVE))) is BackfillState.DONE
        finally:
            archive.stop()
    whole(memory)


def test_an_archive_that_can_not_reach_our_front_door_is_waited_for_and_a_person_told_where_to_look(
    memory: Memory, namespace: Namespace, inside: None, every_file: list[Path], tmp_path: Path
):
    need("dcmqrscp", "storescu")
    archive = Dcmqrscp(tmp_path, {"TRABECULA": free_port()})
    said: list[str] = []

    def told(line: BackfillLine) -> None:
        if line.detail.startswith("the archive is away or slow"):
            said.append(line.detail)
            order.stop()

    try:
        archive.add(every_file)
        there = Archive("dcmtk", "ARCHIVE", "127.0.0.1", archive.port, Retrieve.MOVE)
        patient = replace(OPTIONS, immediate_retries=0, longest_pause_s=5.0)
        order = Backfill(memory.database, memory.spool, KEY, source(there), patient, told)
        assert order.run() is BackfillState.OPEN
    finally:
        archive.stop()
    assert "can't send what C-MOVE asked for, or has no room (0xa702): does our front door run" in said[0]
    assert memory.registered() == {}


def test_an_archive_that_is_away_is_waited_for_and_nothing_is_given_up(memory: Memory, full_orthanc: Orthanc):
    away = Archive("orthanc", "ORTHANC", "127.0.0.1", free_port())
    with pytest.raises(PeerAway):
        estimate(source(away, replace(MARCH, until=date(2026, 3, 1))), OPTIONS)
    where = source(of(full_orthanc))
    order = Backfill(memory.database, memory.spool, KEY, where, OPTIONS)
    calls = 0
    listing = where.listing

    def away_at_first(*words: object) -> object:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise PeerAway("away")
        return listing(*words)  # type: ignore[arg-type]

    where.listing = away_at_first  # type: ignore[method-assign]
    assert order.run() is BackfillState.DONE
    whole(memory)
    assert {memory.series()[name][3] for name in WANTED} == {1}  # it was no attempt of theirs


def test_two_processes_do_not_read_from_one_archive(memory: Memory, full_orthanc: Orthanc):
    seen: list[BaseException] = []
    where = source(of(full_orthanc))

    def second(_: object) -> None:
        if not seen:
            try:
                read(memory, where)
            except BadOption as refused:
                seen.append(refused)

    Backfill(memory.database, memory.spool, KEY, where, OPTIONS, second).run()
    assert "another process" in str(seen[0])
    whole(memory)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Number\n1\n", "no column"),
        ("AccessionNumber\n\n", "names nothing"),
        ("AccessionNumber\nACC*\n", "too long, or with"),
    ],
)
def test_a_table_that_asks_for_nothing_or_all_is_refused(tmp_path: Path, text: str, says: str):
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(BadOption, match=says):
        read_csv(table)


@pytest.mark.parametrize("days", [(None, None), (date(2026, 3, 2), date(2026, 3, 1))])
def test_an_order_of_everything_or_of_no_day_is_refused(days: tuple[date | None, date | None]):
    with pytest.raises(BadOption):
        Order(days[0], days[1], None)
