"""Whatever kills the receiver, and whenever: what it acknowledged is there, whole, and becomes rows."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from db.connection import DatabaseOptions, open_database
from dicom_node.intake.registrar import Registrar, RegistrarOptions
from dicom_node.spool import Spool, SpoolOptions

NODE = """
import resource, sys, time
from db.connection import DatabaseOptions, open_database
from dicom_node.intake.options import ReceiverOptions
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.registrar import Registrar, RegistrarOptions
from dicom_node.logs import LogOptions, configure_logs
from dicom_node.spool import Spool, SpoolOptions

folder, port, longest_file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
configure_logs(LogOptions(file=f"{folder}/node.log"))
spool = Spool(SpoolOptions(folder=f"{folder}/spool", reserve_mib=0))
registrar = Registrar(open_database(DatabaseOptions(f"sqlite:///{folder}/trabecula.db")), spool, b"key",
                      RegistrarOptions(gather_s=0.01))
receiver = Receiver(ReceiverOptions(port=port), spool, registrar, b"key")
if longest_file:
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest_file, resource.RLIM_INFINITY))
else:
    registrar.start()
receiver.start()
print(receiver.port, flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("roomy", flush=True)
sys.stdin.readline()
"""


@contextmanager
def node(folder: Path, port: int = 0, longest_file: int = 0) -> "Iterator[tuple[subprocess.Popen[str], int]]":
    child = subprocess.Popen(
        [sys.executable, "-c", NODE, folder, str(port), str(longest_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        yield child, int(child.stdout.readline())
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    (tmp_path / "trabecula.db").write_bytes(empty_database.read_bytes())
    return tmp_path


@pytest.mark.parametrize("seed", range(3))
def test_a_receiver_killed_in_traffic_loses_nothing_that_it_acknowledged(folder, make_ct, encode, raw_peer, seed):
    rng = random.Random(seed)
    acknowledged: dict[str, bytes] = {}
    sent: dict[str, bytes] = {}

    def send(port: int) -> None:
        peer = raw_peer(port).associate()
        try:
            while True:
                dataset = make_ct(Rows=256, Columns=256, PixelData=rng.randbytes(256 * 256 * 2))
                uid, data = str(dataset.SOPInstanceUID), encode(dataset)
                sent[uid] = data
                if peer.store(data, uid) == 0:
                    acknowledged[uid] = data
        except (OSError, AssertionError):
            return  # the receiver is dead

    for _ in range(2):
        with node(folder) as (child, port):
            before = len(acknowledged)
            threads = [threading.Thread(target=send, args=(port,)) for _ in range(3)]
            for thread in threads:
                thread.start()
            until = time.monotonic() + 20
            while len(acknowledged) - before < 20 and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(rng.random() / 20)
            child.kill()
            for thread in threads:
                thread.join()
    assert len(acknowledged) >= 40
    with Spool(SpoolOptions(folder=str(folder / "spool"), reserve_mib=0)) as spool:
        for uid, data in acknowledged.items():
            assert spool.place_of(uid).read_bytes().endswith(data)
        names = {spool.place_of(uid): data for uid, data in sent.items()}
        for path in spool.incoming():  # not acknowledged, perhaps, but whole
            assert path.read_bytes().endswith(names[path])
        assert [path.name for path in (spool.folder / "partial").iterdir() if path.is_dir()] == [spool._partial.name]
        database = open_database(DatabaseOptions(f"sqlite:///{folder / 'trabecula.db'}"))
        with Registrar(database, spool, b"key", RegistrarOptions(gather_s=0.01)) as registrar:
            assert registrar.caught_up.wait(20)
        with database.read() as connection:
            rows = {row[0] for row in connection.exec_driver_sql("SELECT path FROM instance")}
        database.close()
        assert rows == {str(path) for path in spool.incoming()}
        assert rows >= {str(spool.place_of(uid)) for uid in acknowledged}


def test_a_disk_that_takes_no_more_is_told_and_passes_by_itself(folder, make_ct, encode, raw_peer):
    small, large = make_ct(), make_ct(Rows=256, Columns=256, PixelData=bytes(256 * 256 * 2))
    with node(folder, longest_file=50_000) as (child, port):
        peer = raw_peer(port).associate()
        assert peer.store(encode(small), small.SOPInstanceUID) == 0
        assert peer.store(encode(large), large.SOPInstanceUID) == 0xA700
        assert peer.store(encode(large), large.SOPInstanceUID) == 0xA700
        kept = [path for path in (folder / "spool").rglob("*") if path.is_file() and path.name != ".lock"]
        assert [path.read_bytes().endswith(encode(small)) for path in kept] == [True]
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "roomy\n"
        assert peer.store(encode(large), large.SOPInstanceUID) == 0
        assert peer.store(encode(small), small.SOPInstanceUID) == 0
        told = (folder / "node.log").read_text()
        assert "EFBIG" in told
        assert "ZZMARK" not in told
