"""A front door on a port of its own, what it stands on, and those who knock at it."""

import shutil
import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context
from pynetdicom.dsutils import encode

from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from dicom_node.intake.options import ReceiverOptions
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.registrar import Registrar, RegistrarOptions
from dicom_node.peers.association import at_rest
from dicom_node.spool import Spool, SpoolOptions

KEY = b"a key for tests"


@pytest.fixture(autouse=True)
def foreign_warnings_pass() -> Iterator[None]:
    """pydicom and pynetdicom warn of what hostile senders write, in threads where a warning must not raise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom|pynetdicom")
        yield


def ct(**changed: Any) -> Dataset:
    """A small CT instance of a study of its own; `None` takes an attribute away."""
    one = Dataset()
    one.SpecificCharacterSet = "ISO_IR 100"
    one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
    one.StudyDate, one.Modality, one.Manufacturer = "20240115", "CT", "Trabecula"
    one.PatientName, one.PatientID, one.PatientSex = "ZZMARK^PATIENT", "ZZMARKID", "F"
    one.SliceThickness, one.KVP = 3.0, 120.0
    one.StudyInstanceUID, one.SeriesInstanceUID = generate_uid(), generate_uid()
    one.InstanceNumber = 1
    one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    one.FrameOfReferenceUID = generate_uid()
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.Rows, one.Columns, one.PixelSpacing = 64, 64, [0.7, 0.7]
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
    one.RescaleIntercept, one.RescaleSlope = 0, 1
    one.PixelData = generate_uid().encode()[:32].ljust(32) * 256
    one["PixelData"].VR = "OW"
    for keyword, value in changed.items():
        if value is None:
            delattr(one, keyword)
        else:
            setattr(one, keyword, value)
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return one


def encoded(dataset: Dataset) -> bytes:
    """The data set alone, explicit VR little endian."""
    data = encode(dataset, is_implicit_vr=False, is_little_endian=True)
    assert data is not None
    return data


@dataclass
class Door:
    """A running receiver and what lies behind it."""

    options: ReceiverOptions
    spool: Spool
    database: Database
    registrar: Registrar
    receiver: Receiver
    peers: list["RawPeer"] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.receiver.port

    def kept(self, folder: str = "incoming") -> list[Path]:
        return sorted(path for path in (self.spool.folder / folder).rglob("*") if path.is_file())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.database.read() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def wait_for_rows(self, query: str, count: int, timeout_s: float = 10.0) -> list[tuple[Any, ...]]:
        until = time.monotonic() + timeout_s
        while len(rows := self.rows(query)) < count:
            assert time.monotonic() < until, f"{len(rows)} rows of {count}"
            time.sleep(0.02)
        return rows

    def raw(self) -> "RawPeer":
        """A peer that sends what it likes."""
        self.peers.append(RawPeer(self.port))
        return self.peers[-1]

    @contextmanager
    def association(self, *contexts: tuple[str, list[str]], ae_title: str = "SENDER") -> Iterator[Any]:
        """A well-behaved sender; CT in explicit little endian unless told otherwise."""
        ae = AE(ae_title=ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
        proposed = contexts or ((CTImageStorage, [ExplicitVRLittleEndian]),)
        made = ae.associate("127.0.0.1", self.port, contexts=[build_context(*context) for context in proposed])
        made.send_c_store = partial(_store, made, made.send_c_store)
        yield made
        if made.is_established:
            made.release()

    def send(self, *datasets: Dataset) -> list[Any]:
        """Store data sets over one association; the answers, which are all there."""
        with self.association() as association:
            answers = [association.send_c_store(dataset) for dataset in datasets]
            assert association.is_established
        return answers


def _store(association: Any, send_c_store: Callable[..., Dataset], dataset: Dataset) -> Dataset:
    with at_rest(association):
        return send_c_store(dataset)


class RawPeer:
    """A sender made of bytes: it can lie about everything."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.port = port

    def associate(self, sop_class: str = CTImageStorage, syntax: str = ExplicitVRLittleEndian) -> "RawPeer":
        kind, _ = self.propose(sop_class, syntax)
        assert kind == 2, f"the association was not accepted: PDU {kind}"
        return self

    def rejection(self, *, calling: str = "RAW", called: str = "TRABECULA") -> tuple[int, int, int] | None:
        """Result, source and reason (PS3.8 table 9-21) where an association is refused; None: it was accepted.

        pynetdicom 3.0 takes a rejection that comes at once for a connection that never was.
        """
        kind, body = self.propose(calling=calling, called=called)
        assert kind in (2, 3), f"neither accepted nor rejected: PDU {kind}"
        return None if kind == 2 else (body[1], body[2], body[3])

    def propose(
        self, sop_class: str = CTImageStorage, syntax: str = ExplicitVRLittleEndian, *, calling: str = "RAW",
        called: str = "TRABECULA",
    ) -> tuple[int, bytes]:  # fmt: skip
        """Ask for an association; kind and body of the PDU that answers."""

        def item(kind: int, body: bytes) -> bytes:
            return struct.pack(">BBH", kind, 0, len(body)) + body

        context = struct.pack(">BBBB", 1, 0, 0, 0) + item(0x30, sop_class.encode()) + item(0x40, syntax.encode())
        user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4")
        body = struct.pack(">HH", 1, 0) + called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
        body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
        self.send_pdu(1, body)
        return self.read_pdu()

    def send_pdu(self, kind: int, body: bytes) -> None:
        self.socket.sendall(struct.pack(">BBI", kind, 0, len(body)) + body)

    def send_command(self, sop_instance: str | None, sop_class: str = CTImageStorage, message: int = 1) -> None:
        def element(number: int, value: bytes) -> bytes:
            return struct.pack("<HHI", 0, number, len(value)) + value

        def uid(text: str) -> bytes:
            return text.encode() + b"\0" * (len(text) % 2)

        body = element(0x0002, uid(sop_class)) + element(0x0100, struct.pack("<H", 1))
        body += element(0x0110, struct.pack("<H", message)) + element(0x0700, b"\0\0") + element(0x0800, b"\1\0")
        if sop_instance is not None:
            body += element(0x1000, uid(sop_instance))
        self.send_fragment(element(0, struct.pack("<I", len(body))) + body, 3)

    def send_fragment(self, data: bytes, control: int) -> None:
        """Control: 1 of a command, 2 the last one."""
        self.send_pdu(4, struct.pack(">IBB", len(data) + 2, 1, control) + data)

    def send_data(self, data: bytes, last: bool = True) -> None:
        pieces = [data[at : at + 16000] for at in range(0, len(data), 16000)] or [b""]
        for n, piece in enumerate(pieces):
            self.send_fragment(piece, 2 if last and n == len(pieces) - 1 else 0)

    def store(self, data: bytes, sop_instance: str | None, sop_class: str = CTImageStorage) -> int:
        """Send one instance; the status of the answer."""
        self.send_command(sop_instance, sop_class)
        self.send_data(data)
        return self.read_status()

    def read_status(self) -> int:
        kind, body = self.read_pdu()
        assert kind == 4, f"no answer, but PDU {kind}"
        at = 6
        while at < len(body):
            _, number, length = struct.unpack_from("<HHI", body, at)
            if number == 0x0900:
                return int(struct.unpack_from("<H", body, at + 8)[0])
            at += 8 + length
        raise AssertionError("an answer without a status")

    def read_pdu(self) -> tuple[int, bytes]:
        kind, _, length = struct.unpack(">BBI", self._read(6))
        return kind, self._read(length)

    def is_closed_within(self, seconds: float) -> bool:
        """Whether the other side ends the connection in time; what it sends before is passed over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                if not self.socket.recv(4096):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError("the connection was closed")
            data += more
        return data


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with its tables; copied by each test."""
    path = tmp_path_factory.mktemp("database") / "trabecula.db"
    opened = open_database(DatabaseOptions(f"sqlite:///{path}"))
    upgrade(opened)
    opened.close()
    return path


@pytest.fixture
def database(tmp_path: Path, empty_database: Path) -> Iterator[Database]:
    shutil.copy(empty_database, tmp_path / "trabecula.db")
    opened = open_database(DatabaseOptions(f"sqlite:///{tmp_path / 'trabecula.db'}"))
    yield opened
    opened.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(SpoolOptions(folder=str(tmp_path / "spool"), reserve_mib=0)) as opened:
        yield opened


@pytest.fixture
def open_door(spool: Spool, database: Database) -> Iterator[Callable[..., Door]]:
    """Opens a front door with options of its own."""
    doors: list[Door] = []

    def open_(**changed: Any) -> Door:
        options = replace(ReceiverOptions(port=0, stop_grace_s=0.0), **changed)
        registrar = Registrar(database, spool, KEY, RegistrarOptions(gather_s=0.02, retry_s=0.1))
        registrar.start()
        receiver = Receiver(options, spool, registrar, KEY)
        receiver.start()
        doors.append(Door(options, spool, database, registrar, receiver))
        return doors[-1]

    yield open_
    for door in doors:
        for peer in door.peers:
            peer.socket.close()
        door.receiver.stop()
        door.registrar.stop()


@pytest.fixture
def door(open_door: Callable[..., Door]) -> Door:
    return open_door()


@pytest.fixture(scope="session")
def make_ct() -> Callable[..., Dataset]:
    return ct


@pytest.fixture(name="encode", scope="session")
def encode_() -> Callable[[Dataset], bytes]:
    return encoded


@pytest.fixture
def raw_peer() -> Iterator[Callable[[int], RawPeer]]:
    """Connects to a port as one that sends what it likes."""
    peers: list[RawPeer] = []

    def connect(port: int) -> RawPeer:
        peers.append(RawPeer(port))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.socket.close()
