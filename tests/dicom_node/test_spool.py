"""The spool takes a file whole or not at all, and keeps what it took."""

import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dicom_node.spool as room
from dicom_node.spool import MIB, Arrival, Refusal, Spool, SpoolOptions
from engine.digest import digest_of
from engine.errors import DeploymentError, StorageFull
from engine.records import Reason

UID = "1.2.840.99.1"


@pytest.fixture
def options(tmp_path: Path) -> SpoolOptions:
    return SpoolOptions(folder=str(tmp_path / "spool"), reserve_mib=0, most_refused=3, most_refused_mib=1)


@pytest.fixture(params=["unnamed", "named"])
def spool(options: SpoolOptions, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spool]:
    """On a file system that takes files without a name, and as on one that does not."""
    if request.param == "named":
        monkeypatch.setattr(room, "takes_unnamed", lambda _: False)
    with Spool(options) as opened:
        yield opened


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_what_was_stored_is_there_byte_for_byte_under_a_name_of_our_own(spool):
    stored = spool.store(UID, b"content")
    assert stored.arrival is Arrival.NEW
    assert stored.path.read_bytes() == b"content"
    assert (stored.digest, stored.size_bytes) == (digest_of(b"content"), 7)
    assert UID not in str(stored.path)
    assert files(spool.folder) == [stored.path] == list(spool.incoming())


def test_the_same_bytes_again_are_no_second_copy(spool):
    first = spool.store(UID, b"content")
    written = first.path.stat()
    again = spool.store(UID, b"content")
    assert again == replace(first, arrival=Arrival.REPEATED)
    assert first.path.stat().st_ino == written.st_ino
    assert files(spool.folder) == [first.path]


def test_other_bytes_under_a_known_uid_change_nothing(spool):
    first = spool.store(UID, b"content")
    assert spool.store(UID, b"CONTENT").arrival is Arrival.CONFLICTING
    assert first.path.read_bytes() == b"content"
    assert files(spool.folder) == [first.path]


def test_of_many_at_once_under_one_uid_one_is_kept_and_the_others_are_told(spool):
    contents = [bytes([n % 3]) * 5000 for n in range(24)]
    arrivals: list[tuple[bytes, Arrival]] = []
    start = threading.Barrier(len(contents))

    def store(content: bytes) -> None:
        start.wait()
        arrivals.append((content, spool.store(UID, content).arrival))

    threads = [threading.Thread(target=store, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (kept,) = files(spool.folder)
    winner = kept.read_bytes()
    assert [content for content, arrival in arrivals if arrival is Arrival.NEW] == [winner]
    assert all((content == winner) == (arrival is not Arrival.CONFLICTING) for content, arrival in arrivals)


@pytest.fixture(scope="module")
def any_spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spool]:
    with Spool(SpoolOptions(str(tmp_path_factory.mktemp("any")))) as opened:
        yield opened


@given(uid=st.text(max_size=80))
def test_no_uid_leads_out_of_the_spool(any_spool, uid):
    place = any_spool.place_of(uid.encode("utf-8", "replace").decode())
    assert place.parent.parent == any_spool.folder / "incoming"
    assert len(place.stem) == 64


def test_nobody_else_reads_what_lies_here(spool):
    stored = spool.store(UID, b"content")
    assert stored.path.stat().st_mode & 0o077 == 0
    assert spool.folder.stat().st_mode & 0o077 == 0


def test_below_the_reserve_nothing_is_taken_and_above_it_again(options):
    with Spool(options) as probe:
        free_mib = probe.free_bytes() // MIB
    with Spool(replace(options, reserve_mib=free_mib + 1024)) as full:
        with pytest.raises(StorageFull, match="reserve"):
            full.store(UID, b"content")
        assert files(full.folder) == []
    with Spool(options) as roomy:
        assert roomy.store(UID, b"content").arrival is Arrival.NEW


LIMITED = """
import resource, sys
from dicom_node.spool import Spool, SpoolOptions
from engine.errors import StorageFull
with Spool(SpoolOptions(folder=sys.argv[1], reserve_mib=0)) as spool:
    spool.store("1.1", bytes(1000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
    try:
        spool.store("1.2", bytes(9000))
    except StorageFull as full:
        print(full)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(spool.store("1.2", bytes(9000)).arrival)
"""


def test_a_write_that_breaks_off_leaves_nothing_and_passes(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "spool"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == ["the disk of the spool does not take more (EFBIG)", "new"]
    assert sorted(path.stat().st_size for path in files(tmp_path / "spool")) == [1000, 9000]


def fill(spool: Spool) -> int:
    for n in range(1000):
        try:
            spool.store(f"1.{n}", bytes([n]) * 100_000)
        except StorageFull:
            return n
    raise AssertionError("the disk never filled")


def test_a_full_disk_refuses_and_recovers(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False
    ).returncode
    if mounted:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        with Spool(SpoolOptions(folder=str(disk / "spool"), reserve_mib=0)) as spool:
            stored = fill(spool)
            assert stored > 5
            kept = files(spool.folder)
            assert [path.stat().st_size for path in kept] == [100_000] * stored
            kept[0].unlink()
            kept[1].unlink()
            assert spool.store("2.1", bytes(100_000)).arrival is Arrival.NEW
    finally:
        subprocess.run(["umount", disk], check=True)


HALF_WAY = """
import os, sys, threading
import dicom_node.spool as room
real = os.write
def stall(descriptor, data):
    wrote = real(descriptor, data[:10])
    print("half way", flush=True)
    threading.Event().wait()
if sys.argv[2] == "named":
    room.takes_unnamed = lambda _: False  # as on a file system that does not
with room.Spool(room.SpoolOptions(folder=sys.argv[1], reserve_mib=0)) as spool:
    spool.store("1.1", bytes(1000))
    os.write = stall  # the operating system is slow
    spool.store("1.2", bytes(1000))
"""


@pytest.mark.parametrize("way", ["named", "unnamed"])
def test_what_a_killed_process_left_half_written_is_swept_but_not_that_of_a_living_one(options, way):
    def begin() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HALF_WAY, options.folder, way]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "half way"
        return child

    killed = begin()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    living = begin()
    try:
        with Spool(options) as spool:
            halves = [path for path in files(spool.folder) if path.stat().st_size == 10]
            assert len(halves) == (1 if way == "named" else 0)  # what has no name goes with its process
            assert all(path.parent.name.startswith(f"{living.pid}-") for path in halves)
            assert [path.stat().st_size for path in spool.incoming()] == [1000]
    finally:
        living.kill()
        living.communicate()


def turn_away(spool: Spool, content: bytes, refusal: Refusal) -> None:
    with closing(spool.begin()) as aside:
        spool.write(aside, [content])
        spool.turn_away(aside, refusal)


def test_refused_objects_are_kept_within_bounds_and_the_oldest_go_first(spool, options):
    garbage = Refusal(UID, Reason.HEADER_UNREADABLE, "garbage", "SENDER")

    def refuse(content: bytes) -> None:
        turn_away(spool, content, garbage)
        time.sleep(0.002)

    for n in range(5):
        refuse(bytes([n]) * 100)
    kept = files(spool.folder / "refused")
    assert sorted(path.read_bytes()[0] for path in kept) == [2, 3, 4]
    refuse(bytes(2 * MIB))
    assert sorted(files(spool.folder / "refused")) == kept
    refuse(bytes(MIB - 150))
    assert len(files(spool.folder / "refused")) == 2
    with Spool(options) as again:
        turn_away(again, b"after a restart", garbage)
        assert sum(path.stat().st_size for path in files(again.folder / "refused")) <= MIB


def test_a_refusal_waits_as_a_note_until_it_is_removed(spool, options):
    told = Refusal(UID, Reason.INSTANCE_CONFLICT, "known with other content", "SENDER")
    turn_away(spool, b"other", told)
    assert [path.read_bytes() for path in files(spool.folder / "conflict")] == [b"other"]
    (spool.folder / "refusals" / "0-torn.json").write_text('{"subject": ')
    with Spool(options) as again:
        ((note, read),) = again.refusals()
        assert read == told
        note.unlink()
        assert list(again.refusals()) == []


def test_a_refusal_on_a_full_disk_is_no_error(options):
    with Spool(replace(options, reserve_mib=2**40)) as full:
        full.turn_away(None, Refusal(UID, Reason.HEADER_UNREADABLE, "garbage", "SENDER"))
        assert files(full.folder / "refused") == []
        assert len(list(full.refusals())) == 1


def test_quarantine_takes_an_instance_away_and_keeps_it(spool):
    path = spool.store(UID, b"content").path
    spool.quarantine(path)
    assert list(spool.incoming()) == []
    assert [kept.read_bytes() for kept in files(spool.folder / "quarantine")] == [b"content"]
    for content in (b"content", b"other"):
        assert spool.store(UID, content).arrival is Arrival.NEW
        spool.quarantine(path)
    assert sorted(kept.read_bytes() for kept in files(spool.folder / "quarantine")) == [b"content", b"other"]


def test_report_objects_have_a_folder_a_series(spool):
    folder = spool.outgoing_folder("1.2.3")
    assert folder == spool.outgoing_folder("1.2.3") != spool.outgoing_folder("1.2.4")
    assert "1.2.3" not in str(folder)
    (folder / "sr.dcm").write_bytes(b"report")
    spool.settle([folder / "sr.dcm"])
    with pytest.raises(StorageFull, match="ENOENT"):
        spool.settle([folder / "gone.dcm"])


def test_a_spool_that_cannot_be_written_says_so_without_a_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeploymentError, match=r"ENOTDIR.*spool\.folder") as caught:
        Spool(SpoolOptions(folder=str(tmp_path / "file" / "spool")))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"reserve_mib": -1}, {"most_refused": -1}, {"folder": ""}])
def test_options_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=r"folder|negative"):
        SpoolOptions(**wrong)


def syscalls(code: str, folder: Path) -> list[str]:
    traced = folder / "trace"
    calls = "openat,write,fdatasync,fsync,link,linkat,rename,close"
    ran = subprocess.run(
        ["strace", "-f", "-y", "-s", "0", "-e", f"trace={calls}", "-o", traced, sys.executable, "-c", code],
        capture_output=True,
        check=False,
    )
    if ran.returncode:
        pytest.skip("strace is not there or may not trace")
    return traced.read_text().splitlines()


def test_bytes_are_flushed_before_the_name_and_the_name_before_the_answer(tmp_path):
    code = f"""
import os
from dicom_node.spool import Spool, SpoolOptions
with Spool(SpoolOptions(folder={str(tmp_path / "spool")!r}, reserve_mib=0)) as spool:
    os.write(1, b"begin")
    spool.store("1.2.3", b"content")
    os.write(1, b"answer")
"""
    lines = syscalls(code, tmp_path)
    told = [n for n, line in enumerate(lines) if " write(1<" in line]
    between = [line.split(None, 1)[1] for line in lines[told[0] + 1 : told[1]]]
    order = [
        "fdatasync" if line.startswith("fdatasync") and "/partial/" in line
        else "link" if line.startswith("link")
        else "fsync" if line.startswith("fsync") and "/incoming/" in line
        else ""
        for line in between
    ]  # fmt: skip
    assert [step for step in order if step] == ["fdatasync", "link", "fsync"]


def test_a_process_without_file_descriptors_left_refuses_and_recovers(spool):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(StorageFull, match="EMFILE"):
            spool.store(UID, b"content")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert spool.store(UID, b"content").arrival is Arrival.NEW
