"""Both ways in, ours and pynetdicom's, take the same bytes for the same instances, however they are cut up."""

import hashlib
import itertools
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, EnhancedSRStorage, ExplicitVRLittleEndian, SegmentationStorage, generate_uid

from dicom_node.intake.options import DataPath, ReceiverOptions
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.registrar import Registrar
from dicom_node.spool import Spool, SpoolOptions

WAYS = tuple(DataPath)


@pytest.fixture
def ways(tmp_path: Path, database) -> Iterator[dict[DataPath, tuple[Spool, Receiver]]]:
    """Each way in, with a spool of its own; nothing is registered."""
    opened = {}
    for way in WAYS:
        spool = Spool(SpoolOptions(folder=str(tmp_path / way), reserve_mib=0))
        registrar = Registrar(database, spool, b"key")
        options = ReceiverOptions(port=0, data_path=way, watermark_mib=0, stop_grace_s=0.0)
        opened[way] = spool, Receiver(options, spool, registrar, b"key")
        opened[way][1].start()
    yield opened
    for spool, receiver in opened.values():
        receiver.stop()
        spool.close()


def kept(spool: Spool) -> dict[str, str]:
    """Name -> digest of everything that lies in a spool."""
    folders = [spool.folder / name for name in ("incoming", "conflict", "refused")]
    files = [path for folder in folders for path in folder.rglob("*.dcm")]
    return {
        str(path.relative_to(spool.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)
    }


def items_of(data: bytes, control: int, cuts: list[int]) -> list[bytes]:
    """Presentation data values that carry some bytes, cut where asked."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    return [
        struct.pack(">IBB", len(piece) + 2, 1, control | 2 * (n == len(pieces) - 1)) + piece
        for n, piece in enumerate(pieces)
    ]


def pdus_of(items: list[bytes], together: list[int]) -> bytes:
    """The same in PDUs of so many items each."""
    stream, at, turn = b"", 0, 0
    while at < len(items):
        count = 1 + together[turn % len(together)] % 4
        body = b"".join(items[at : at + count])
        stream += struct.pack(">BxI", 4, len(body)) + body
        at, turn = at + count, turn + 1
    return stream


def command_of(uid: str, number: int) -> bytes:
    def element(tag: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0, tag, len(value)) + value

    padded = uid.encode() + b"\0" * (len(uid) % 2)
    body = element(0x0002, CTImageStorage.encode() + b"\0") + element(0x0100, b"\1\0")
    body += element(0x0110, struct.pack("<H", number)) + element(0x0800, b"\1\0") + element(0x1000, padded)
    return element(0, struct.pack("<I", len(body))) + body


cuts = st.lists(st.integers(0, 2**20), max_size=6)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    shapes=st.lists(
        st.tuples(cuts, cuts, st.sampled_from(["good", "repeated", "cut", "foreign"])), min_size=1, max_size=3
    ),
    together=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    step=st.sampled_from([1, 7, 1448, 1 << 20]),
)
def test_the_same_bytes_make_the_same_answers_and_the_same_files(
    ways, raw_peer, make_ct, encode, shapes, together, step
):
    streams, before = [], None
    for number, (command_cuts, data_cuts, kind) in enumerate(shapes, 1):
        image = (
            before if kind == "repeated" and before is not None else make_ct(Rows=8, Columns=8, PixelData=bytes(128))
        )
        before = image
        uid = generate_uid() if kind == "foreign" else str(image.SOPInstanceUID)
        data = encode(image)[:-20] if kind == "cut" else encode(image)
        items = items_of(command_of(uid, number), 1, command_cuts[:3])
        streams.append(pdus_of(items, together) + pdus_of(items_of(data, 0, data_cuts), together))
    answers = {}
    for way, (_, receiver) in ways.items():
        peer = raw_peer(receiver.port).associate()
        answers[way] = []
        for stream in streams:
            for at in range(0, len(stream), step if step > 1 or len(stream) < 400 else 97):
                peer.socket.sendall(stream[at : at + (step if step > 1 or len(stream) < 400 else 97)])
            answers[way].append(peer.read_status())
        peer.socket.close()
    assert answers[DataPath.DIRECT] == answers[DataPath.PYNETDICOM]
    assert kept(ways[DataPath.DIRECT][0]) == kept(ways[DataPath.PYNETDICOM][0])


@pytest.mark.parametrize("way", WAYS)
def test_an_instance_larger_than_the_buffer_is_streamed_to_the_spool_whole(ways, raw_peer, make_ct, encode, way):
    spool, receiver = ways[way]
    pixels = bytes(range(256)) * 6 * 4096  # 6 MiB
    image = make_ct(Rows=1024, Columns=3072, PixelData=pixels)
    data = encode(image)
    peer = raw_peer(receiver.port).associate()
    for _ in range(2):
        assert peer.store(data, image.SOPInstanceUID) == 0
    assert spool.place_of(image.SOPInstanceUID).read_bytes().endswith(data)
    assert peer.store(data[:-2], image.SOPInstanceUID) == 0xC105
    assert peer.store(data[:-2] + b"no", image.SOPInstanceUID) == 0xC104
    assert len(kept(spool)) == 3


@pytest.mark.parametrize("way", WAYS)
def test_a_report_is_taken_though_it_has_no_pixels_and_a_segmentation_is_not_without(
    ways, raw_peer, make_ct, encode, way
):
    _, receiver = ways[way]
    for sop_class, status in ((EnhancedSRStorage, 0), (SegmentationStorage, 0xC105)):
        document = make_ct(SOPClassUID=sop_class, Modality="SR", PixelData=None)
        peer = raw_peer(receiver.port).associate(sop_class, ExplicitVRLittleEndian)
        assert peer.store(encode(document), document.SOPInstanceUID, sop_class) == status


@pytest.mark.parametrize("way", WAYS)
def test_two_senders_of_one_uid_at_once_leave_one_instance(ways, raw_peer, make_ct, encode, way):
    spool, receiver = ways[way]
    first = make_ct()
    other = make_ct(SOPInstanceUID=first.SOPInstanceUID)
    peers = [raw_peer(receiver.port).associate() for _ in range(2)]
    for peer, image in zip(peers, (first, other), strict=True):
        peer.send_command(str(first.SOPInstanceUID))
        peer.send_data(encode(image))
    assert sorted(peer.read_status() for peer in peers) == [0, 0xC104]
    assert len(list(spool.incoming())) == 1


def test_a_deflated_instance_is_taken_only_where_that_is_asked_for_and_within_bounds(ways, raw_peer, make_ct, encode):
    import zlib

    deflated = "1.2.840.10008.1.2.1.99"

    def packed(data: bytes) -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(data) + packer.flush()

    spool, receiver = ways[DataPath.DIRECT]
    receiver.stop()
    asking = Receiver(replace(receiver.options, accept_deflated=True), spool, receiver.acceptance.registrar, b"key")
    asking.start()
    try:
        image = make_ct()
        peer = raw_peer(asking.port).associate(syntax=deflated)
        assert peer.store(packed(encode(image)), image.SOPInstanceUID) == 0
        cut = make_ct()
        assert peer.store(packed(encode(cut)[:-100]), cut.SOPInstanceUID) == 0xC105
        bomb = packed(bytes(8) + b"\x10\0\x10\0UN\0\0\xff\xff\xff\x7f" + bytes(80 * 1024 * 1024))
        assert peer.store(bomb, generate_uid()) == 0xC103
    finally:
        asking.stop()
