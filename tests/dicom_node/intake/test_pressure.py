"""The front door holds back while the disk or the queue is too full, says so, and takes in again by itself."""

import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

import dicom_node.intake.pressure as room
from dicom_node.intake.options import DataPath, ReceiverOptions
from dicom_node.intake.pressure import Pressure
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.registrar import Registrar
from dicom_node.spool import Spool, SpoolOptions


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "GOOD_FOR_S", 0.0)


@pytest.mark.parametrize("way", tuple(DataPath))
def test_under_pressure_storage_is_put_off_an_echo_is_answered_and_it_passes_by_itself(open_door, make_ct, encode, way):
    door = open_door(data_path=way)
    pressure = door.receiver.acceptance.pressure
    peer, image = door.raw().associate(), make_ct()
    pressure._options = replace(door.options, watermark_mib=2**40)
    assert peer.store(encode(image), image.SOPInstanceUID) == 0xA700
    assert door.raw().rejection() == (2, 3, 1)  # temporary congestion
    with door.association((Verification, ["1.2.840.10008.1.2"])) as echo:
        assert echo.send_c_echo().Status == 0
    assert door.kept() == door.kept("refused") == []
    pressure._options = door.options
    assert peer.store(encode(image), image.SOPInstanceUID) == 0


@pytest.mark.parametrize("way", tuple(DataPath))
def test_the_first_who_comes_after_there_is_room_again_is_taken_in(open_door, monkeypatch, way):
    """However long an answer is good for."""
    monkeypatch.setattr(room, "GOOD_FOR_S", float("inf"))
    door = open_door(data_path=way)
    pressure = door.receiver.acceptance.pressure
    pressure._options = replace(door.options, watermark_mib=2**40)
    assert door.raw().rejection() == (2, 3, 1)
    pressure._options = door.options
    with door.association() as peer:
        assert peer.is_established


def test_the_comment_says_what_is_full(open_door, make_ct):
    door = open_door()
    with door.association() as peer:
        pressure = door.receiver.acceptance.pressure
        pressure._options = replace(door.options, watermark_mib=2**40)
        answer = peer.send_c_store(make_ct())
        assert answer.Status == 0xA700
        assert "MiB free, watermark" in answer.ErrorComment


def test_a_queue_that_is_too_old_holds_back_and_one_that_cannot_be_asked_does_not(spool):
    age: list[float | None] = [None]

    def queue_age_s() -> float | None:
        if age[0] == -1.0:
            raise OSError("the database is away")
        return age[0]

    pressure = Pressure(ReceiverOptions(watermark_mib=0, max_queue_age_s=60.0), spool, queue_age_s)
    assert pressure() == ""
    age[0] = 61.0
    assert pressure() == "the analysis is 61 s behind; try again later"
    age[0] = -1.0
    assert pressure() == ""
    age[0] = 59.0
    assert pressure() == ""


def test_a_database_that_does_not_answer_holds_nobody_up(spool, monkeypatch):
    """It is waited for by one, for a moment; who comes meanwhile is answered by what is known."""
    monkeypatch.setattr(room, "GOOD_FOR_S", float("inf"))
    asked, answers = threading.Event(), threading.Event()

    def queue_age_s() -> float:
        asked.set()
        answers.wait(30.0)
        return 61.0

    pressure = Pressure(ReceiverOptions(watermark_mib=0, max_queue_age_s=60.0), spool, queue_age_s)
    monkeypatch.setattr(room, "LONGEST_ASKED_S", 30.0)
    first = threading.Thread(target=pressure, daemon=True)
    first.start()
    assert asked.wait(30.0)
    assert pressure() == ""
    assert first.is_alive()
    answers.set()
    first.join(30.0)
    assert pressure() == "the analysis is 61 s behind; try again later"

    answers.clear()
    monkeypatch.setattr(room, "GOOD_FOR_S", 0.0)
    monkeypatch.setattr(room, "LONGEST_ASKED_S", 0.01)
    assert pressure() == pressure() == ""
    assert sum(thread.name == "queue age" for thread in threading.enumerate()) == 1
    answers.set()


def test_a_disk_that_fills_in_the_middle_of_a_file_loses_nothing_acknowledged_and_leaves_nothing_half(
    tmp_path: Path, database, make_ct, encode, raw_peer: Callable
):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        with (
            Spool(SpoolOptions(folder=str(disk / "spool"), reserve_mib=0)) as spool,
            Receiver(
                ReceiverOptions(port=0, watermark_mib=0, stop_grace_s=0.0),
                spool,
                Registrar(database, spool, b"key"),
                b"key",
            ) as receiver,
        ):
            peer = raw_peer(receiver.port).associate()
            acknowledged, full = {}, 0
            while full < 3:
                image = make_ct(Rows=512, Columns=1280, PixelData=bytes(512 * 1280 * 2))  # larger than the buffer
                status = peer.store(encode(image), image.SOPInstanceUID)
                full += status == 0xA700
                if status == 0:
                    acknowledged[image.SOPInstanceUID] = encode(image)
                    assert full == 0
                    assert len(acknowledged) < 10
            assert len(acknowledged) >= 1
            for uid, data in acknowledged.items():
                assert spool.place_of(uid).read_bytes().endswith(data)
            assert len(list(spool.incoming())) == len(acknowledged)
            assert [path.name for path in (spool.folder / "partial").rglob("*") if path.is_file()] == [".lock"]
            spool.place_of(next(iter(acknowledged))).unlink()
            assert peer.store(encode(image), image.SOPInstanceUID) == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_echo_alone_needs_no_room(open_door):
    door = open_door(watermark_mib=2**40)
    ae = AE()
    ae.add_requested_context(Verification)
    peer = ae.associate("127.0.0.1", door.port)
    assert peer.send_c_echo().Status == 0
    peer.release()
