"""
How fast the front door takes slices, with full durability, beside other receivers.

    python -m bench.receive [--short]

512 x 512 slices go over 1, 2 and 4 associations, one association an image, and RLE, to a running node; interleaved with
it to Orthanc and storescp (both tuned: TCP_NODELAY=1, PDUs of 128 KiB), to pynetdicom's own receiver in its best
configuration (as durable as the node, and also without any flush), and to a receiver without DICOM that syncs the same
bytes: the floor that network and disk set. A ratio is that of one round, above 1 where the node is faster; what is
kept is the median of the rounds and its spread. Each receiver is started anew for each run, on an empty folder of one
disk, and so much is sent that what it does later for an image counts as well. Orthanc flushes its data and not the name
(its default); storescp flushes nothing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.lean_sender import associate
from bench.ports import free_port, wait_for_port
from bench.report import keep, show, spread

HERE = Path(__file__).parent.parent
OWN_NETWORK = "TRABECULA_BENCH_NETWORK"


@dataclass(frozen=True)
class Receiver:
    """How one is started on a port with a folder."""

    name: str
    command: Callable[[int, Path], list[str]]
    program: str = ""  # that must be there
    settle_s: float = 0.3


def node(port: int, folder: Path) -> list[str]:
    config = folder / "node.toml"
    config.write_text(f'[receiver]\nport = {port}\nwatermark_mib = 0\n[logs]\nlevel = "WARNING"\n')
    return [sys.executable, "-m", "dicom_node", "--config", str(config), "receive"]


def orthanc(port: int, folder: Path) -> list[str]:
    config = {
        "Name": "BENCH", "DicomAet": "TRABECULA", "DicomPort": port, "HttpServerEnabled": False,
        "RemoteAccessAllowed": False, "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True,
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "StoreMD5ForAttachments": False,
        "MaximumPduLength": 131072, "DicomThreadsCount": 8, "ConcurrentJobs": 1, "Plugins": [],
    }  # fmt: skip
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config))
    # its DICOM port listens on all interfaces: only inside a network namespace of its own, where `measure` sends from
    return ["Orthanc", str(path)]


RECEIVERS = (
    Receiver("node", node, settle_s=1.0),
    Receiver("raw_sync", lambda port, folder: [sys.executable, "-m", "bench.raw_receiver", str(port), str(folder)]),
    Receiver("orthanc", orthanc, "Orthanc", 1.0),
    Receiver(
        "storescp",
        lambda port, folder: [
            *("storescp", "--fork", "+B", "-pdu", "131072", "+xa", "-aet", "TRABECULA"),
            *("-od", str(folder), str(port)),
        ],
        "storescp",
    ),
    Receiver(
        "pynetdicom",
        lambda port, folder: [sys.executable, "-m", "bench.pynetdicom_receiver", str(port), str(folder)],
    ),
    Receiver(
        "pynetdicom_unsynced",
        lambda port, folder: [sys.executable, "-m", "bench.pynetdicom_receiver", str(port), str(folder), "--quick"],
    ),
)
SETTINGS = {
    "1": ["1"], "2": ["2"], "4": ["4"],
    "per_image_1": ["1", "--per-image"], "per_image_4": ["4", "--per-image"],
    "rle_1": ["1", "--rle"], "rle_4": ["4", "--rle"],
}  # fmt: skip
IMAGES = {"per_image_1": 0.4, "per_image_4": 0.4}  # of the number, where a run would last


@contextmanager
def running(receiver: Receiver, place: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A receiver on a port and an empty folder of its own; of its files only the names are left afterwards.

    A file that is removed costs those who make files after it: ext4 gives its inode to nobody for a minute or five,
    and looks at each such inode again for every new file in its group.
    """
    os.sync()  # the disk owes nothing to the one before: neither bytes that it left, nor the end of its files
    folder, port = Path(tempfile.mkdtemp(dir=place)), free_port()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        receiver.command(port, folder), env={**os.environ, "TCP_NODELAY": "1"}, cwd=HERE, stdout=quiet, stderr=quiet
    )
    try:
        wait_for_port(port, process)
        time.sleep(receiver.settle_s)
        yield process, port
    finally:
        process.kill()
        process.wait()
        for path in folder.rglob("*"):
            if path.is_file():
                os.truncate(path, 0)


def rate(receiver: Receiver, setting: str, images: int, place: Path) -> float:
    """Images a second of one run."""
    count = int(images * IMAGES.get(setting, 1))
    associations, *more = SETTINGS[setting]
    with running(receiver, place) as (_, port):
        raw = ["--raw"] if receiver.name == "raw_sync" else []
        command = [sys.executable, "-m", "bench.lean_sender", str(port), associations, str(count), *more, *raw]
        ran = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False, timeout=300)
        if ran.returncode:
            raise SystemExit(f"{receiver.name}, {setting}: {ran.stderr.strip()[-300:]}")
        return float(json.loads(ran.stdout)["images_per_s"])


def memory_of_32_associations(place: Path) -> dict[str, float]:
    """Peak resident memory of the node while 32 associations are open, and after each has stored images."""
    from psutil import Process

    (receiver,) = (one for one in RECEIVERS if one.name == "node")
    with running(receiver, place) as (process, port):
        before = Process(process.pid).memory_info().rss
        held = [associate(port, "1.2.840.10008.1.2.1", "TRABECULA") for _ in range(16)]
        command = [sys.executable, "-m", "bench.lean_sender", str(port), "16", "320"]
        subprocess.run(command, cwd=HERE, check=True, capture_output=True, timeout=300)
        status = Path(f"/proc/{process.pid}/status").read_text()
        (peak_kib,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        for connection in held:
            connection.close()
    return {"memory_mb_at_rest": before / 1e6, "memory_mb_32_associations": peak_kib * 1024 / 1e6}


def measure(place: Path, images: int, rounds: int, settings: tuple[str, ...], budget_s: float) -> dict[str, object]:
    """Interleaved rounds: every receiver once, forwards and backwards in turn; no round begins after the budget."""
    there = [one for one in RECEIVERS if not one.program or shutil.which(one.program)]
    if not os.environ.get(OWN_NETWORK):
        there = [one for one in there if one.name != "orthanc"]
    rates: dict[tuple[str, str], list[float]] = {}
    ratios: dict[tuple[str, str], list[float]] = {}
    until = time.monotonic() + budget_s
    for turn in range(rounds):
        for setting in settings:
            if time.monotonic() > until:
                break
            order = [one for one in there if not (one.name == "raw_sync" and setting.startswith("per_image"))]
            now = {one.name: rate(one, setting, images, place) for one in (order if turn % 2 == 0 else order[::-1])}
            for name, value in now.items():
                rates.setdefault((name, setting), []).append(value)
                if name != "node":
                    ratios.setdefault((name, setting), []).append(now["node"] / value)
    figures: dict[str, object] = {
        f"{name}_images_per_s_{setting}": spread(values) for (name, setting), values in rates.items()
    }
    for (name, setting), values in ratios.items():
        figures[f"ratio_{name}_{setting}"] = median(values)
        figures[f"ratio_{name}_{setting}_rounds"] = spread(values)
    return figures


def in_a_network_of_its_own() -> None:
    """Start again where only this program reaches what it starts, if that is allowed: Orthanc listens everywhere."""
    if os.environ.get(OWN_NETWORK) or os.geteuid() != 0 or not shutil.which("unshare"):
        return
    os.environ[OWN_NETWORK] = "yes"
    again = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-m", "bench.receive", *sys.argv[1:]]
    os.execvp("unshare", ["unshare", "-n", *again])


def main() -> None:
    """Measure and keep the figures."""
    arguments = argparse.ArgumentParser(description="How fast the front door takes slices")
    arguments.add_argument("--short", action="store_true", help="fewer images, rounds and settings; nothing is kept")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--images", type=int, default=1000)
    arguments.add_argument("--settings", default=",".join(SETTINGS))
    arguments.add_argument("--budget-s", type=float, default=1e9, help="no round begins after so long")
    asked = arguments.parse_args()
    in_a_network_of_its_own()
    settings = ("1", "2", "4") if asked.short else tuple(asked.settings.split(","))
    images, rounds = (40, 1) if asked.short else (asked.images, asked.rounds)
    with tempfile.TemporaryDirectory(dir=".", prefix="receive-", ignore_cleanup_errors=True) as name:
        place = Path(name).absolute()
        figures = measure(place, images, rounds, settings, asked.budget_s) | memory_of_32_associations(place)
    if not asked.short:
        print(f"written: {keep('receive', figures)}")
    names = [one.name for one in RECEIVERS if f"{one.name}_images_per_s_{settings[0]}" in figures]
    rows = [
        [setting, *(_cell(figures, name, setting) for name in names)]
        for setting in settings
        if f"node_images_per_s_{setting}" in figures
    ]
    show("C-STORE, 512 x 512 slices (images/s; in brackets the node's ratio)", ["associations", *names], rows)


def _cell(figures: dict[str, object], name: str, setting: str) -> str:
    rates = figures.get(f"{name}_images_per_s_{setting}")
    if not isinstance(rates, dict):
        return "-"
    ratio = figures.get(f"ratio_{name}_{setting}")
    return f"{rates['median']:.0f}" + (f" ({ratio:.2f})" if isinstance(ratio, float) else "")


if __name__ == "__main__":
    main()
