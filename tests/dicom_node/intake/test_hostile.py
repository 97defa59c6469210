"""
What a hostile peer does to a stock receiver, and not to ours. Each claim is asked of both: the stock one, pynetdicom as
its documentation has it, must break it, or the claim would not be worth a test.
"""

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from dicom_node.intake.options import DataPath

MIB = 1024 * 1024


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[int]:
    """pynetdicom's receiver, four associations, impatient; it writes each data set under the name that came."""
    folder = tmp_path / "stock" / "inner"
    folder.mkdir(parents=True)

    def keep(event: evt.Event) -> int:
        (folder / str(event.request.AffectedSOPInstanceUID)).write_bytes(event.encoded_dataset())
        return 0

    ae = AE(ae_title="STOCK")
    ae.maximum_associations = 4
    ae.acse_timeout = ae.network_timeout = ae.dimse_timeout = 0.5
    ae.add_supported_context(CTImageStorage)
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    yield int(server.server_address[1])
    server.shutdown()


def too_long_a_pdu_is_cut_off(port: int, connect: Callable, image: Callable, encode: Callable) -> bool:
    peer = connect(port)
    peer.socket.settimeout(0.5)
    sent = 0
    try:
        peer.socket.sendall(struct.pack(">BxI", 1, 2**31 - 1))
        while sent < 24 * MIB:
            sent += peer.socket.send(bytes(MIB))
    except OSError:
        return sent < 16 * MIB
    return False


def a_stalled_pdu_is_given_up(port: int, connect: Callable, image: Callable, encode: Callable) -> bool:
    peer = connect(port).associate()
    peer.socket.sendall(struct.pack(">BxI", 4, 10000) + b"half")
    return bool(peer.is_closed_within(2.5))


def stalled_peers_keep_nobody_out(port: int, connect: Callable, image: Callable, encode: Callable) -> bool:
    for _ in range(6):
        connect(port).socket.sendall(struct.pack(">BxI", 1, 10000) + b"half")
    time.sleep(1.5)
    ae = AE()
    ae.acse_timeout = 2
    ae.add_requested_context(Verification)
    peer = ae.associate("127.0.0.1", port)
    if not peer.is_established:
        return False
    peer.release()
    return True


def a_deflated_data_set_is_not_agreed_on(port: int, connect: Callable, image: Callable, encode: Callable) -> bool:
    ae = AE()
    ae.add_requested_context(CTImageStorage, DeflatedExplicitVRLittleEndian)
    peer = ae.associate("127.0.0.1", port)
    agreed = peer.is_established
    if agreed:
        agreed = bool(peer.accepted_contexts)
        peer.release()
    return not agreed


def a_path_never_becomes_a_name(port: int, connect: Callable, image: Callable, encode: Callable) -> bool:
    bad = image(SOPInstanceUID="../escaped")
    return bool(connect(port).associate().store(encode(bad), "../escaped") != 0)


def another_instance_than_the_command_says_is_refused(
    port: int, connect: Callable, image: Callable, encode: Callable
) -> bool:
    return bool(connect(port).associate().store(encode(image()), str(generate_uid())) != 0)


def pixels_that_are_cut_are_refused(port: int, connect: Callable, image: Callable, encode: Callable) -> bool:
    cut = image()
    return bool(connect(port).associate().store(encode(cut)[:-100], str(cut.SOPInstanceUID)) != 0)


CLAIMS = [
    too_long_a_pdu_is_cut_off,
    a_stalled_pdu_is_given_up,
    stalled_peers_keep_nobody_out,
    a_deflated_data_set_is_not_agreed_on,
    a_path_never_becomes_a_name,
    another_instance_than_the_command_says_is_refused,
    pixels_that_are_cut_are_refused,
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the stock one's threads
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
def test_a_claim_holds_here_and_not_of_a_stock_receiver(open_door, stock, raw_peer, make_ct, encode, claim):
    impatient = {"pdu_timeout_s": 0.5, "association_timeout_s": 0.5, "idle_timeout_s": 2.0, "max_associations": 4}
    door = open_door(**impatient)
    assert claim(door.port, raw_peer, make_ct, encode)
    assert not claim(stock, raw_peer, make_ct, encode)


@pytest.mark.parametrize("claim", [too_long_a_pdu_is_cut_off, a_stalled_pdu_is_given_up])
def test_pynetdicoms_way_is_guarded_too(open_door, raw_peer, make_ct, encode, claim):
    door = open_door(data_path=DataPath.PYNETDICOM, pdu_timeout_s=0.5, association_timeout_s=0.5)
    assert claim(door.port, raw_peer, make_ct, encode)


def test_an_instance_that_drips_in_is_given_up_though_each_pdu_is_quick(open_door, make_ct, encode):
    peer = open_door(instance_timeout_s=0.5).raw().associate()
    image = make_ct()
    peer.send_command(image.SOPInstanceUID)
    until = time.monotonic() + 5
    with pytest.raises(OSError, match=r"reset|pipe|closed"):  # noqa: PT012
        while time.monotonic() < until:
            peer.send_data(b"xx", last=False)
            time.sleep(0.05)


def test_a_message_in_a_context_that_was_not_agreed_on_ends_the_association(door, make_ct):
    peer = door.raw().associate(CTImageStorage, ExplicitVRLittleEndian)
    peer.send_pdu(4, struct.pack(">IBB", 12, 3, 3) + bytes(10))
    assert peer.is_closed_within(3)
