"""A peer may stall, lie and shout: memory stays bounded, and others are served."""

import importlib.metadata
import struct
import threading
import time

import psutil
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

MIB = 1024 * 1024


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


def sent_until_cut_off(peer, control: int) -> int:
    """Bytes of fragments that are never the last, until the other side has enough."""
    for n in range(64 * MIB // 16000):
        try:
            peer.send_fragment(bytes(16000), control)
        except OSError:
            return n * 16000
    return 64 * MIB


def test_the_guarded_version_is_the_installed_one():
    assert importlib.metadata.version("pynetdicom").startswith("3.0.")


def test_a_pdu_that_claims_gigabytes_is_cut_off_before_memory_is_taken(door, make_ct):
    before = memory()
    for kind in (1, 4):
        peer = door.raw() if kind == 1 else door.raw().associate()
        peer.socket.sendall(struct.pack(">BBI", kind, 0, 2**31 - 1))
        sent = 0
        try:
            while sent < 64 * MIB:
                sent += peer.socket.send(bytes(MIB))
        except OSError:
            pass
        assert peer.is_closed_within(3)
        assert sent < 32 * MIB
    assert memory() - before < 40 * MIB
    assert [answer.Status for answer in door.send(make_ct())] == [0]


def test_a_data_set_without_end_is_cut_off(open_door, make_ct):
    door = open_door(max_instance_mib=2)
    peer = door.raw().associate()
    peer.send_command("1.2.3.4")
    assert sent_until_cut_off(peer, control=0) < 16 * MIB
    assert door.kept() == []
    assert [answer.Status for answer in door.send(make_ct())] == [0]


def test_a_command_without_end_is_cut_off(door):
    assert sent_until_cut_off(door.raw().associate(), control=1) < 16 * MIB


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
@pytest.mark.parametrize("stage", ["before", "within"])
def test_a_peer_that_stalls_within_a_pdu_is_dropped_and_others_are_served(open_door, make_ct, stage, drip):
    door = open_door(pdu_timeout_s=0.5)
    peers = [door.raw() if stage == "before" else door.raw().associate() for _ in range(12)]
    for peer in peers:
        peer.socket.sendall(struct.pack(">BBI", 1 if stage == "before" else 4, 0, 10000) + b"half")
    assert [answer.Status for answer in door.send(make_ct())] == [0]
    until = time.monotonic() + 1.5
    while drip and time.monotonic() < until:
        for peer in peers:
            try:
                peer.socket.send(b"x")
            except OSError:
                until = 0.0
        time.sleep(0.05)
    assert all(peer.is_closed_within(3) for peer in peers)


def test_silent_connections_are_dropped_and_keep_nobody_out(open_door, make_ct):
    door = open_door(association_timeout_s=1.0, max_associations=2)
    silent = [door.raw() for _ in range(10)]
    assert [answer.Status for answer in door.send(make_ct())] == [0]
    assert all(peer.is_closed_within(4) for peer in silent)


def test_an_idle_association_is_ended(open_door):
    peer = open_door(idle_timeout_s=0.5).raw().associate()
    assert peer.is_closed_within(4)


def test_more_associations_than_allowed_are_told_to_come_later(open_door, make_ct):
    door = open_door(max_associations=2)
    with door.association() as first, door.association() as second:
        assert first.is_established
        assert second.is_established
        assert door.raw().rejection() == (2, 3, 2)  # local limit exceeded
        assert first.send_c_store(make_ct()).Status == 0
    until = time.monotonic() + 5
    while True:
        with door.association() as later:
            if later.is_established:
                break
        assert time.monotonic() < until


def test_far_more_connections_than_allowed_are_not_even_taken(open_door):
    door = open_door(max_associations=1)
    before = threading.active_count()
    peers = [door.raw() for _ in range(40)]
    assert sum(peer.is_closed_within(0.3) for peer in peers[-20:]) == 20
    assert threading.active_count() - before <= 2 * 8


def test_a_sender_that_does_not_wait_for_answers_gets_them_all_and_fills_no_memory(door, make_ct, encode):
    datasets = [make_ct() for _ in range(40)]
    peer = door.raw().associate()

    def send() -> None:
        for n, dataset in enumerate(datasets):
            peer.send_command(dataset.SOPInstanceUID, message=n + 1)
            peer.send_data(encode(dataset))

    sending = threading.Thread(target=send)
    sending.start()
    for _ in datasets:
        assert peer.read_status() == 0
    sending.join()
    assert len(door.kept()) == 40


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
        struct.pack(">BBI", 1, 0, 68) + bytes(68),
        struct.pack(">BBI", 1, 0, 4) + b"\xff" * 4,
        struct.pack(">BBI", 4, 0, 20) + bytes(20),
        struct.pack(">BBI", 7, 0, 4) + bytes(4),
        b"",
    ],
)
def test_whoever_speaks_no_dicom_is_dropped_and_others_are_served(open_door, make_ct, nonsense):
    door = open_door(pdu_timeout_s=0.5, association_timeout_s=0.5)
    peer = door.raw()
    peer.socket.sendall(nonsense)
    assert peer.is_closed_within(5)
    assert [answer.Status for answer in door.send(make_ct())] == [0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        struct.pack(">IBB", 2**31, 1, 2),
        struct.pack(">IBB", 3, 99, 3) + b"x",
        struct.pack(">IBB", 102, 1, 3) + b"\xff" * 100,
        struct.pack(">IBB", 16, 1, 3) + struct.pack("<HHIH", 0, 0x0100, 2, 0x7777) + bytes(4),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nonsense_within_an_association_ends_that_one_alone(open_door, make_ct, encode, data):
    door = open_door(pdu_timeout_s=0.5, idle_timeout_s=2.0)
    good, bad, dataset = door.raw().associate(), door.raw().associate(), make_ct()
    bad.send_pdu(4, data)
    until = time.monotonic() + 8
    while not bad.is_closed_within(0.1):
        assert good.store(encode(dataset), dataset.SOPInstanceUID) == 0
        assert time.monotonic() < until
    assert good.store(encode(dataset), dataset.SOPInstanceUID) == 0


def test_an_abort_within_an_image_leaves_nothing(door, make_ct, encode):
    for end in ("abort", "close", "reset"):
        peer = door.raw().associate(CTImageStorage, ExplicitVRLittleEndian)
        dataset = make_ct()
        peer.send_command(dataset.SOPInstanceUID)
        peer.send_data(encode(dataset)[:5000], last=False)
        if end == "abort":
            peer.send_pdu(7, bytes(4))
        elif end == "reset":
            peer.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: a TCP reset
        peer.socket.close()
    assert [answer.Status for answer in door.send(make_ct())] == [0]
    assert len(door.kept()) == 1
    assert [path.name for path in door.kept("partial")] == [".lock"]
    assert len(door.wait_for_rows("SELECT 1 FROM instance", 1)) == 1
