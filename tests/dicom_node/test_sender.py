"""Reports reach every destination that is there, in the end; none is lost on one that is not."""

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

from db import outbox, queue, registry, results, schema
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from dicom_node.config import NodeConfig
from dicom_node.doctor import examine
from dicom_node.sender.answers import Outcome
from dicom_node.sender.lines import Sender
from dicom_node.sender.options import Destination, SenderOptions
from dicom_node.sender.store import echo, store
from dicom_node.spool import SpoolOptions
from engine.errors import BadOption, PeerError
from engine.options import read_options
from engine.records import InstanceHeader, ModelRef, Program, ReportObject, ScreeningResult, Selection

from .papers import Papers

pytestmark = pytest.mark.filterwarnings(  # pynetdicom leaves the socket of a refused connection to the collector
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

ROOT = "1.2.826.0.1.3680043.8.498.77"
QUICK = {"retry_after_s": 0.1, "longest_retry_s": 0.3, "poll_s": 0.05, "association_timeout_s": 2.0}


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
            assert registry.close_study(connection, first.study_instance_uid, 1, [chosen], Program.VERTEBRAL)
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


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Reports]:
    made = Reports(tmp_path)
    yield made
    made.database.close()


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@contextmanager
def peer(answer: Callable[[evt.Event], int] | int = 0x0000, port: int = 0, **settings: bool) -> Iterator["Peer"]:
    """A storage SCP that keeps the UIDs of what it said it stored."""
    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.add_supported_context(ComprehensiveSRStorage)
    if not settings.pop("only_sr", False):
        ae.add_supported_context(SecondaryCaptureImageStorage, [ExplicitVRLittleEndian, RLELossless])
    for name, value in settings.items():
        setattr(ae, name, value)
    found = Peer()

    def keep(event: evt.Event) -> int:
        status = answer if isinstance(answer, int) else answer(event)
        found.asked.append(str(event.request.AffectedSOPInstanceUID))
        if status < 0xA000:
            found.stored.append(str(event.request.AffectedSOPInstanceUID))
        return status

    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    found.port = server.server_address[1]
    try:
        yield found
    finally:
        server.shutdown()


class Peer:
    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.stored: list[str] = []


def options(*destinations: Destination, **more: float) -> SenderOptions:
    return SenderOptions(destinations=destinations, **(QUICK | more))  # type: ignore[arg-type]


def pacs(port: int, name: str = "pacs", ae_title: str = "PACS") -> Destination:
    return Destination(name, ae_title, "127.0.0.1", port)


@contextmanager
def running(sender: Sender) -> Iterator[None]:
    thread = threading.Thread(target=sender.run)
    thread.start()
    try:
        yield
    finally:
        sender.stop()
        thread.join(20)
        assert not thread.is_alive()


def until(true: Callable[[], bool], patience_s: float = 15.0) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def test_what_waits_is_sent_once(reports: Reports):
    objects = [each for _ in range(3) for each in reports.add("pacs")]
    with peer() as there:
        sender = Sender(reports.database, options(pacs(there.port)))
        assert sender.run(until_idle=True) == 6
        assert there.asked == [each.sop_instance_uid for each in objects]
        assert Sender(reports.database, options(pacs(there.port))).run(until_idle=True) == 0
    assert reports.states("pacs") == ["sent"] * 6
    assert all(Path(each.path).is_file() for each in objects)


def test_a_peer_that_is_down_loses_nothing_and_gets_all_once_it_is_up(reports: Reports):
    reports.add("pacs")
    port = free_port()
    with running(Sender(reports.database, options(pacs(port), max_refusals=1))):
        time.sleep(1.0)
        assert set(reports.states("pacs")) <= {"ready", "leased"}  # leased for as long as an attempt takes
        with peer(port=port) as there:
            until(lambda: len(there.stored) == 2)
            until(lambda: reports.states("pacs") == ["sent"] * 2)


def test_a_peer_that_is_down_holds_up_no_other(reports: Reports):
    reports.add("away", "pacs")
    with peer() as there, running(Sender(reports.database, options(pacs(free_port(), "away"), pacs(there.port)))):
        until(lambda: reports.states("pacs") == ["sent"] * 2)
        assert set(reports.states("away")) <= {"ready", "leased"}


def test_an_object_that_is_refused_again_and_again_becomes_a_dead_letter_and_bars_no_other(reports: Reports):
    bad, good = reports.add("pacs")

    def answer(event: evt.Event) -> int:
        return 0xA900 if event.request.AffectedSOPInstanceUID == bad.sop_instance_uid else 0x0000

    with peer(answer) as there, running(Sender(reports.database, options(pacs(there.port), max_refusals=3))):
        until(lambda: reports.states("pacs") == ["dead", "sent"])
        assert there.asked.count(bad.sop_instance_uid) == 3
        assert there.stored == [good.sop_instance_uid]
        with reports.database.begin() as connection:
            assert outbox.retry(connection, "pacs") == 1
        until(lambda: there.asked.count(bad.sop_instance_uid) > 3)


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_of_the_storage_service_means_stored(reports: Reports, status: int):
    reports.add("pacs")
    with peer(status) as there:
        assert Sender(reports.database, options(pacs(there.port))).run(until_idle=True) == 2
    assert reports.states("pacs") == ["sent"] * 2


def test_another_warning_does_not(reports: Reports):
    reports.add("pacs")
    with peer(0xB123) as there:
        assert Sender(reports.database, options(pacs(there.port), max_refusals=1)).run(until_idle=True) == 0
    assert reports.states("pacs") == ["dead"] * 2


def test_a_peer_without_room_is_waited_for(reports: Reports):
    reports.add("pacs")
    full = threading.Event()
    full.set()
    with (
        peer(lambda _: 0xA700 if full.is_set() else 0x0000) as there,
        running(Sender(reports.database, options(pacs(there.port), max_refusals=1))),
    ):
        until(lambda: len(there.asked) > 1)
        assert set(reports.states("pacs")) <= {"ready", "leased"}
        full.clear()
        until(lambda: reports.states("pacs") == ["sent"] * 2)


def test_no_answer_is_no_success(reports: Reports):
    reports.add("pacs")
    release = threading.Event()

    def never(_: evt.Event) -> int:
        release.wait(10)
        return 0x0000

    with peer(never) as there:
        sender = Sender(reports.database, options(pacs(there.port), store_timeout_s=0.5))
        assert sender.run(until_idle=True) == 0
        release.set()
    assert reports.states("pacs") == ["ready"] * 2


def test_a_peer_that_aborts_over_an_object_is_counted_against_that_object_alone(reports: Reports):
    bad, _ = reports.add("pacs")

    def answer(event: evt.Event) -> int:
        if event.request.AffectedSOPInstanceUID == bad.sop_instance_uid:
            event.assoc.abort()
        return 0x0000

    with peer(answer) as there, running(Sender(reports.database, options(pacs(there.port), max_refusals=2))):
        until(lambda: reports.states("pacs") == ["dead", "sent"])


def test_a_peer_that_takes_only_some_classes_refuses_the_others(reports: Reports):
    reports.add("pacs")
    reports.add("pacs", kinds=("picture",))
    with peer(only_sr=True) as there:
        assert Sender(reports.database, options(pacs(there.port), max_refusals=1)).run(until_idle=True) == 1
    assert reports.states("pacs") == ["sent", "dead", "dead"]


def test_a_file_that_is_gone_bars_no_other(reports: Reports):
    lost, _ = reports.add("pacs")
    Path(lost.path).unlink()
    with peer() as there:
        assert Sender(reports.database, options(pacs(there.port), max_refusals=1)).run(until_idle=True) == 1
    assert reports.states("pacs") == ["dead", "sent"]


def test_a_compressed_file_is_sent_as_it_is(reports: Reports):
    item = reports.write("picture", 5, str(RLELossless))
    claimed = outbox.ClaimedObject(1, 1, 1, "pacs", item.kind, item.sop_class_uid, item.sop_instance_uid, item.path)
    with peer() as there:
        (answer,) = store(pacs(there.port), [claimed], options())
    assert answer.outcome is Outcome.STORED


def test_a_peer_that_does_not_know_us_says_why(reports: Reports):
    reports.add("pacs")
    with peer(require_called_aet=True) as there:
        with pytest.raises(PeerError, match="Called AE title not recognised"):
            echo(pacs(there.port, ae_title="WRONG"), options())
        assert Sender(reports.database, options(pacs(there.port, ae_title="WRONG"))).run(until_idle=True) == 0
    assert reports.states("pacs") == ["ready"] * 2


HANGS = """
import sys
from db.connection import DatabaseOptions, open_database
from dicom_node.sender.lines import Sender
from dicom_node.sender.options import Destination, SenderOptions

peer = Destination("pacs", "PACS", "127.0.0.1", int(sys.argv[2]))
database = open_database(DatabaseOptions(f"sqlite:///{sys.argv[1]}/memory.db"))
sender = Sender(database, SenderOptions(destinations=(peer,)))
sender._stall_s = 1.0  # instead of minutes
sender.run()
"""


def test_a_sender_that_hangs_ends_its_process_and_loses_nothing(reports: Reports):
    reports.add("pacs")
    released = threading.Event()

    def never(_: evt.Event) -> int:
        released.wait(20)
        return 0x0000

    with peer(never) as there:
        command = [sys.executable, "-c", HANGS, str(reports.folder), str(there.port)]
        ran = subprocess.run(command, timeout=30, check=False)
        released.set()
    assert ran.returncode == os.EX_TEMPFAIL
    assert reports.states("pacs") == ["leased"] * 2


def test_echo_tells_whether_a_peer_is_there():
    with peer() as there:
        echo(pacs(there.port), options())
    with pytest.raises(PeerError, match="'pacs' can't be reached: nobody listens there"):
        echo(pacs(free_port()), options())
    with pytest.raises(PeerError, match="can't be reached: its host name is not known here"):
        echo(Destination("nowhere", "PACS", "no-such-host.invalid", 104), options())
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(PeerError, match="takes a connection, but answers no request"):
            echo(pacs(mute.getsockname()[1]), options(association_timeout_s=0.2))


def test_of_tls_it_is_told_what_is_wrong(papers: Papers):
    with peer() as there, pytest.raises(PeerError, match="there, but TLS fails"):
        echo(replace(pacs(there.port), tls_authorities=papers.authority), options())


def test_a_mute_peer_is_given_up_after_its_time(reports: Reports):
    reports.add("pacs")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        sender = Sender(reports.database, options(pacs(mute.getsockname()[1]), association_timeout_s=0.5))
        assert sender.run(until_idle=True) == 0
        assert time.monotonic() - began < 10
    assert reports.states("pacs") == ["ready"] * 2


def test_objects_of_a_sender_that_died_are_sent_after_its_lease(reports: Reports):
    reports.add("pacs")
    with reports.database.begin() as connection:
        assert len(outbox.claim_objects(connection, "pacs", "died", 10, 0.3)) == 2
    time.sleep(0.4)
    with peer() as there:
        assert Sender(reports.database, options(pacs(there.port))).run(until_idle=True) == 2


def test_what_peers_and_files_say_is_not_logged(reports: Reports, caplog: pytest.LogCaptureFixture):
    reports.add("pacs")

    def answer(event: evt.Event) -> int:
        event.assoc.abort()
        return 0xC000

    with caplog.at_level(logging.DEBUG, "dicom_node"), peer(answer) as there:
        Sender(reports.database, options(pacs(there.port))).run(until_idle=True)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("dicom_node")]
    assert told
    assert not any("Marked" in line or str(reports.folder) in line for line in told)


def test_without_a_destination_the_sender_waits_to_be_stopped(reports: Reports):
    with running(Sender(reports.database, options())):
        time.sleep(0.1)


def test_the_doctor_tells_of_objects_for_a_destination_that_is_gone(reports: Reports):
    reports.add("gone")
    config = NodeConfig(
        pseudonym_key_file=str(reports.folder / "key"),
        database=DatabaseOptions(f"sqlite:///{reports.folder / 'memory.db'}"),
        spool=SpoolOptions(str(reports.folder / "spool")),
    )
    (told,) = [check.detail for check in examine(config) if check.subject == "outbox"]
    assert told == "2 objects wait for 'gone', which is no destination any more"


def test_a_destination_that_refuses_one_object_after_the_other_is_left_alone_for_a_while(reports: Reports):
    for _ in range(4):
        reports.add("pacs")
    with peer(0xA900) as there:
        sender = Sender(reports.database, options(pacs(there.port), refusals_in_a_row=3, retry_after_s=60.0))
        assert sender.run(until_idle=True) == 0
    assert len(there.asked) == 3  # of eight
    assert reports.states("pacs") == ["ready"] * 8


@pytest.mark.parametrize("answered", [False, True])
def test_killed_in_the_middle_of_an_object_it_is_sent_again_under_the_same_uid(reports: Reports, answered: bool):
    """The sender dies while the peer stores the second object; once before, and once after it was answered."""
    objects = [each for _ in range(2) for each in reports.add("pacs")]
    began = threading.Event()

    def answer(event: evt.Event) -> int:
        if len(there.asked) == 1 and not began.is_set():
            began.set()
            if not answered:
                os.kill(child.pid, signal.SIGKILL)
        return 0x0000

    with peer(answer) as there:
        quick = options(pacs(there.port), store_timeout_s=0.4, lease_s=0.8)
        child = multiprocessing.get_context("fork").Process(
            target=_send_and_die, args=(reports.folder, quick, answered)
        )
        child.start()
        child.join(30)
        assert child.exitcode == -signal.SIGKILL
        assert "sent" in reports.states("pacs")
        assert "leased" in reports.states("pacs")
        time.sleep(1.0)  # its lease runs out
        Sender(reports.database, quick).run(until_idle=True)
    assert reports.states("pacs") == ["sent"] * 4
    assert set(there.stored) == {each.sop_instance_uid for each in objects}
    assert len(there.stored) <= len(objects) + 1  # at most the one that was on its way comes twice


def _send_and_die(folder: Path, quick: SenderOptions, answered: bool) -> None:
    database = open_database(DatabaseOptions(f"sqlite:///{folder / 'memory.db'}"))
    if answered:
        sent, count = outbox.sent, 0

        def dies(connection: sa.Connection, claimed: outbox.ClaimedObject) -> bool:
            nonlocal count
            count += 1
            if count == 2:
                os.kill(os.getpid(), signal.SIGKILL)  # answered, and not yet written down
            return sent(connection, claimed)

        outbox.sent = dies
    Sender(database, quick).run(until_idle=True)


def test_dcmtk_takes_what_is_sent(reports: Reports, tmp_path: Path):
    storescp = shutil.which("storescp")
    if storescp is None:
        pytest.skip("DCMTK's storescp is not installed")
    objects = reports.add("pacs")
    port, folder = free_port(), tmp_path / "pacs"
    folder.mkdir()
    with ExitStack() as ends:
        scp = subprocess.Popen([storescp, "-od", str(folder), "-aet", "PACS", str(port)])
        ends.callback(scp.wait)
        ends.callback(scp.terminate)
        with running(Sender(reports.database, options(pacs(port)))):
            until(lambda: reports.states("pacs") == ["sent"] * 2)
    assert len(list(folder.iterdir())) == len(objects)


def test_dcmtk_takes_what_is_sent_over_tls_and_only_if_it_is_who_it_says(reports: Reports, tmp_path: Path):
    storescp, openssl = shutil.which("storescp"), shutil.which("openssl")
    if storescp is None or openssl is None:
        pytest.skip("DCMTK's storescp or openssl is not installed")
    for name in ("theirs", "another"):
        made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    reports.add("pacs")
    port = free_port()
    with ExitStack() as ends:
        tls = ["+tls", "theirs.key", "theirs.pem", "-ic"]
        scp = subprocess.Popen([storescp, *tls, "-aet", "PACS", "--ignore", str(port)], cwd=tmp_path)
        ends.callback(scp.wait)
        ends.callback(scp.terminate)
        trusted = replace(pacs(port), tls_authorities=str(tmp_path / "theirs.pem"))
        doubted = replace(pacs(port), tls_authorities=str(tmp_path / "another.pem"))
        until(lambda: _answers(trusted))
        with pytest.raises(PeerError, match="its certificate is not taken"):
            echo(doubted, options())
        with pytest.raises(PeerError, match="takes a connection, but"):
            echo(pacs(port), options())  # without TLS
        assert Sender(reports.database, options(trusted)).run(until_idle=True) == 2


def _answers(destination: Destination) -> bool:
    try:
        echo(destination, options())
    except PeerError:
        return False
    return True


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"destinations": [{"name": "a", "ae_title": "X", "host": "h", "port": 0}]}, "port of destination 'a'"),
        ({"destinations": [{"name": "a", "ae_title": "seventeen letters", "host": "h", "port": 1}]}, "ae_title"),
        ({"destinations": [{"name": "a", "ae_title": "X", "host": "h", "port": 1}] * 2}, "the same name"),
        ({"destinations": [{"name": "a", "ae_title": "X", "hots": "h", "port": 1}]}, "destinations.0..host"),
        ({"destinations": [{"name": "a", "ae_title": "X", "port": 1}]}, "needs a host"),
        ({"lease_s": 10.0}, "lease_s must be at least twice"),
        ({"batch": 0}, "batch"),
        ({"poll_s": 0.0}, "must be above 0"),
    ],
)
def test_options_without_meaning_are_refused(table: dict[str, object], said: str):
    with pytest.raises(BadOption, match=said):
        read_options(SenderOptions, table, "sender")
