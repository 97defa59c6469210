"""
How fast the front door takes slices, with full durability.

    python -m bench.receive [--short]

512 x 512 slices are sent to a running receiver by 1, 2 and 4 associations; beside it, interleaved, the
same bytes are written, synced, renamed and their folder synced by one thread an association without any
DICOM: the floor that the disk sets. The ratio is what our code costs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from bench.ports import free_port, wait_for_port
from bench.report import keep, show, spread


def slices(count: int, series: str) -> list[Dataset]:
    """CT instances of 512 x 512 x 16 bit, about 525 kB each."""
    pixels = np.random.default_rng(0).integers(-1000, 1000, (512, 512), dtype=np.int16).tobytes()
    study = generate_uid(entropy_srcs=[series, "study"])
    made = []
    for n in range(count):
        one = Dataset()
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID = study, series
        one.Modality, one.PatientID, one.PatientName = "CT", "BENCH", "BENCH"
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, n], [1, 0, 0, 0, 1, 0]
        one.Rows = one.Columns = 512
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 1, 1
        one.PhotometricInterpretation = "MONOCHROME2"
        one.PixelData = pixels
        one["PixelData"].VR = "OW"
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.append(one)
    return made


def send(port: int, images: list[Dataset], failures: list[str]) -> None:
    """Send over one association."""
    ae = AE(ae_title="BENCH")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    peer = ae.associate("127.0.0.1", port, ae_title="TRABECULA", max_pdu=131072)
    if not peer.is_established:
        failures.append("association")
        return
    for image in images:
        answer = peer.send_c_store(image)
        if "Status" not in answer or answer.Status != 0:
            failures.append("status")
    peer.release()


def write(folder: Path, images: list[bytes], mark: str) -> None:
    """The floor: aside, fdatasync, rename, fsync of the folder."""
    for n, image in enumerate(images):
        aside, final = folder / f"{mark}{n}.part", folder / f"{mark}{n}"
        with aside.open("wb") as file:
            file.write(image)
            file.flush()
            os.fdatasync(file.fileno())
        aside.rename(final)
        opened = os.open(folder, os.O_RDONLY)
        os.fsync(opened)
        os.close(opened)


def timed(work: list[threading.Thread]) -> float:
    """Seconds until all threads ended."""
    began = time.perf_counter()
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    return time.perf_counter() - began


def main() -> None:
    """Measure and keep the figures."""
    arguments = argparse.ArgumentParser(description="How fast the front door takes slices")
    arguments.add_argument("--short", action="store_true", help="fewer images and rounds")
    short = arguments.parse_args().short
    count, rounds = (40, 3) if short else (200, 5)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        port = free_port()
        config = folder / "node.toml"
        config.write_text(f'[receiver]\nport = {port}\n[logs]\nlevel = "WARNING"\n')
        node = subprocess.Popen([sys.executable, "-m", "dicom_node", "--config", str(config), "receive"])
        try:
            wait_for_port(port, node)
            figures = measure(port, folder, count, rounds)
        finally:
            node.terminate()
            node.wait(30)
    file = keep("receive", figures)
    show(
        "C-STORE with full durability, 512 x 512 slices (images/s, medians)",
        ["associations", "node", "disk alone", "ratio"],
        [
            [str(n), *(f"{figures[f'{what}_images_per_s_{n}']['median']:.0f}" for what in ("node", "disk")),
             f"{figures[f'ratio_disk_{n}']:.2f}"]
            for n in (1, 2, 4)
        ],
    )  # fmt: skip
    print(f"written: {file}")


def measure(port: int, folder: Path, count: int, rounds: int) -> dict[str, object]:
    """Interleaved rounds over 1, 2 and 4 associations."""
    rates: dict[tuple[str, int], list[float]] = {}
    ratios: dict[int, list[float]] = {}
    for turn in range(rounds):
        for n in (1, 2, 4):
            failures: list[str] = []
            batches = [slices(count // n, generate_uid()) for _ in range(n)]
            seconds = timed([threading.Thread(target=send, args=(port, batch, failures)) for batch in batches])
            if failures:
                raise SystemExit(f"the node refused: {failures[:3]}")
            image = bytes(525_000)
            raw = timed(
                [
                    threading.Thread(target=write, args=(folder, [image] * (count // n), f"{turn}_{n}_{m}_"))
                    for m in range(n)
                ]
            )
            sent = count // n * n
            rates.setdefault(("node", n), []).append(sent / seconds)
            rates.setdefault(("disk", n), []).append(sent / raw)
            ratios.setdefault(n, []).append(raw / seconds)
    figures: dict[str, object] = {f"{what}_images_per_s_{n}": spread(values) for (what, n), values in rates.items()}
    figures |= {f"ratio_disk_{n}": median(values) for n, values in ratios.items()}
    return figures


if __name__ == "__main__":
    main()
