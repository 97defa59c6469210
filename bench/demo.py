"""
The main job, to be watched: CT goes in by C-STORE, SR and SQL rows come out.

    make demo

Everything lies under demo/: the phantom archive (kept for the next run), the node's spool and database, what
the PACS received, the pictures. Each run starts clean but for the archive.
"""

import fcntl
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.archive import ARCHIVE, files_of, write_archive
from bench.ports import free_port, wait_for_port

ROOT = Path("demo")
DATABASE = ROOT / "trabecula.db"
PATIENCE_S = 600.0
ATTEMPTS = 4  # associations for one study; pynetdicom's client may miss an answer on a busy machine

CONFIG = """\
# Written by the demo: an embedded node that sends its answers to a PACS on this machine.
[database]
url = "sqlite:///trabecula.db"

[spool]
folder = "spool"

[receiver]
port = {port}

[studies]
quiet_s = 3.0

[[sender.destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
"""

ANSWERS = """
SELECT st.patient_key, v.level, v.attenuation_mean, v.volumetric_bmd, v.finding, v.reason
  FROM result r
  JOIN series s ON s.id = r.series_id
  JOIN study st ON st.id = s.study_id
  JOIN vertebra v ON v.result_id = r.id
 WHERE r.is_current
UNION ALL
SELECT patient_key, 'mean', attenuation_mean, volumetric_bmd, finding, reason FROM population
UNION ALL
SELECT st.patient_key, '(series)', NULL, NULL, NULL, p.reason
  FROM screening p JOIN series s ON s.id = p.series_id JOIN study st ON st.id = s.study_id
 WHERE p.reason IS NOT NULL
"""

STAGES = """
SELECT json_extract(stage.value, '$[0]'), COUNT(*), SUM(json_extract(stage.value, '$[1]'))
  FROM result r, json_each(r.stage_seconds) AS stage
 WHERE r.is_current
 GROUP BY 1 ORDER BY MIN(stage.key)
"""

PENDING = """
SELECT (SELECT COUNT(*) FROM screening WHERE state IN ('done', 'set_aside')),
       (SELECT COUNT(*) FROM study WHERE state = 'receiving'),
       (SELECT COUNT(*) FROM outbox WHERE state = 'sent'),
       (SELECT COUNT(*) FROM outbox WHERE state IN ('ready', 'leased'))
"""


def main() -> None:
    """Run the demo from an empty node to the table."""
    console = Console()
    began = time.monotonic()
    ROOT.mkdir(exist_ok=True)
    with (ROOT / ".lock").open("w") as lock:
        alone(lock)
        clean()
        with progress(console) as bar:
            make_archive(bar)
            with pacs() as pacs_port, node(pacs_port) as port:
                send_archive(bar, port)
                wait_for_answers(bar)
        pictures = write_pictures()
    show_answers(console, pictures)
    console.print(f"{time.monotonic() - began:.0f} s in all. Not for diagnosis: phantoms in, phantom-trained weights.")


def alone(lock: IO[str]) -> None:
    """Refuse to run beside another demo in the same folder."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit("a demo is already running in this folder") from None


def clean() -> None:
    """Take away what an earlier run left, but for a finished archive."""
    for name in ("spool", "pacs", "pictures"):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for path in [*ROOT.glob("trabecula.db*"), *ROOT.glob("*.log")]:
        path.unlink()


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """A bar a step."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield bar


def make_archive(bar: Progress) -> None:
    """Write the phantom archive, or keep the one that is there whole."""
    archive, aside = ROOT / "archive", ROOT / "archive.part"
    task = bar.add_task("phantom archive: series scanned", total=len(ARCHIVE))
    if not archive.exists():
        shutil.rmtree(aside, ignore_errors=True)
        write_archive(aside, lambda _: bar.advance(task))
        aside.rename(archive)
    bar.update(task, completed=len(ARCHIVE))


@contextmanager
def pacs() -> Iterator[int]:
    """A second storage SCP that stands for the PACS; yields its port."""
    port = free_port()
    with (ROOT / "pacs.log").open("wb") as log:
        command = [sys.executable, "-m", "bench.pacs", str(ROOT / "pacs"), str(port)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        with ended(process):
            wait_for_port(port, process)
            yield port


@contextmanager
def node(pacs_port: int) -> Iterator[int]:
    """A whole node on SQLite and CPU; yields the port of its front door."""
    port = free_port()
    config = ROOT / "trabecula.toml"
    config.write_text(CONFIG.format(port=port, pacs=pacs_port), encoding="utf-8")
    with (ROOT / "node.log").open("wb") as log:
        command = [sys.executable, "-m", "dicom_node", "--config", str(config), "run"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        with ended(process):
            wait_for_port(port, process)
            yield port


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End a process at the end, gently first."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def send_archive(bar: Progress, port: int) -> None:
    """Send each study over an association of its own; what was not acknowledged is sent again."""
    files = list(files_of(ROOT / "archive"))
    task = bar.add_task("C-STORE to the node: instances", total=len(files))
    for study in sorted({path.parts[2] for path in files}):
        waiting = [path for path in files if path.parts[2] == study]
        for _ in range(ATTEMPTS):
            waiting = send_study(port, waiting, lambda: bar.advance(task))
            if not waiting:
                break
        else:
            raise SystemExit("the node did not store an instance; see demo/node.log")


def send_study(port: int, paths: list[Path], step: Callable[[], None]) -> list[Path]:
    """One association; returns what was not acknowledged."""
    ae = AE(ae_title="ARCHIVE")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    ae.dimse_timeout = 15
    peer = ae.associate("127.0.0.1", port, ae_title="TRABECULA", max_pdu=131072)
    sent = 0
    while sent < len(paths) and peer.is_established:
        if peer.send_c_store(dcmread(paths[sent])).get("Status") != 0x0000:
            break
        sent += 1
        step()
    if peer.is_established:
        peer.release()
    return paths[sent:]


def wait_for_answers(bar: Progress) -> None:
    """Wait until each series has ended and all that was written has been sent."""
    ends = bar.add_task("series ended (result or reason)", total=len(ARCHIVE))
    sent = bar.add_task("SR, SEG, pictures at the PACS", total=None)
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        with suppress(sqlite3.OperationalError), reading() as database:
            ended_series, receiving, objects_sent, objects_left = database.execute(PENDING).fetchone()
            bar.update(ends, completed=ended_series)
            bar.update(sent, completed=objects_sent, total=objects_sent + objects_left)
            if ended_series == len(ARCHIVE) and receiving == 0 and objects_left == 0 and objects_sent > 0:
                return
        time.sleep(0.3)
    raise SystemExit("the node did not finish in time; see demo/node.log")


@contextmanager
def reading() -> Iterator[sqlite3.Connection]:
    """The node's database, read-only, as an analyst would open it."""
    connection = sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def write_pictures() -> list[Path]:
    """The secondary captures that the PACS received, as PNG."""
    folder = ROOT / "pictures"
    folder.mkdir(exist_ok=True)
    written = []
    for path in sorted((ROOT / "pacs").glob("SC_*.dcm")):
        capture = dcmread(path, force=True)
        pixels = np.frombuffer(capture.PixelData, dtype=np.uint8)[
            : capture.Rows * capture.Columns * capture.SamplesPerPixel
        ]
        shape = (capture.Rows, capture.Columns, capture.SamplesPerPixel)
        picture = folder / f"{capture.AccessionNumber or path.stem}.png"
        Image.fromarray(pixels.reshape(shape).squeeze()).save(picture)
        written.append(picture)
    return written


def show_answers(console: Console, pictures: list[Path]) -> None:
    """What SQL says, where the pictures lie, how long the stages took."""
    with reading() as database:
        table = Table(title=f"\n{DATABASE}: what was read", title_justify="left")
        for column in ("patient key", "level"):
            table.add_column(column)
        for column in ("HU", "BMD mg/cm3"):
            table.add_column(column, justify="right")
        for column in ("class", "reason"):
            table.add_column(column)
        last = ""
        for key, level, attenuation, density, finding, reason in sorted(
            database.execute(ANSWERS), key=lambda row: (row[0], order(row[1]))
        ):
            if last and key != last:
                table.add_section()
            last = key
            numbers = ("" if value is None else f"{value:.0f}" for value in (attenuation, density))
            table.add_row(key[:12], level, *numbers, finding or "", reason or "")
        console.print(table)
        console.print("Pictures: " + ", ".join(str(path) for path in pictures))
        console.print(f"At the PACS: {len(list((ROOT / 'pacs').glob('*.dcm')))} objects in {ROOT / 'pacs'}")
        stages = Table(title="\nStage times, seconds a series", title_justify="left")
        seconds = []
        for stage, count, total in database.execute(STAGES):
            stages.add_column(stage, justify="right")
            seconds.append(f"{total / count:.2f}")
        stages.add_row(*seconds)
        console.print(stages)


def order(level: str) -> tuple[int, int]:
    """Head to foot, then the patient's mean, then whole series."""
    if level[0] in "TLS" and level[1:].isdigit():
        return "TLS".index(level[0]), int(level[1:])
    return 9, level.startswith("(")


if __name__ == "__main__":
    main()
