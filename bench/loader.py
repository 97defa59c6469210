"""
What loading costs beside the usual readers: one series to Hounsfield units in memory, from each transfer syntax.

    python -m bench.loader [--short] [--only NAME ...]

The engine, pydicom (dcmread and pixel_array) and SimpleITK's series reader, its file names known, read the same files
in turn on the same cores; all must give the same voxels. Then a pass over headers alone, and resampling to 1.5 mm.
Ratios are medians of the ratios within a round. `--only` measures a part and keeps the other figures as they were.
On a machine that does other work too, give it real-time priority (`chrt -r 10`): half of what the engine gains is a
second core, which a busy machine does not have.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from bench.report import RESULTS, keep, show, spread
from engine.loading.headers import read_header
from engine.loading.isolation import Decoders, IsolationOptions
from engine.loading.load import LoadingOptions, load
from engine.records import SeriesRef
from engine.resampling import canonical_grid, resample
from engine.selection import EXPLICIT_LITTLE_ENDIAN, HTJ2K, JPEG_2000, JPEG_LOSSLESS, JPEG_LS, RLE
from engine.series import series_of
from engine.volume import Geometry, Volume

CACHE = Path(".cache") / "bench" / "loader"
SPACING_MM = (1.0, 0.8, 0.8)


def rle(values: NDArray[np.uint16]) -> bytes:
    rows, columns = values.shape
    return RLELosslessEncoder.encode(  # type: ignore[no-any-return]
        values, rows=rows, columns=columns, number_of_frames=1, samples_per_pixel=1, bits_allocated=16, bits_stored=12,
        pixel_representation=0, photometric_interpretation="MONOCHROME2", encoding_plugin="pydicom",
    )  # fmt: skip


SYNTAXES: dict[str, tuple[str, Callable[[NDArray[np.uint16]], bytes] | None]] = {
    "evle": (EXPLICIT_LITTLE_ENDIAN, None),
    "rle": (RLE, rle),
    "jpegll": (JPEG_LOSSLESS[1], lambda v: imagecodecs.jpeg8_encode(v, lossless=True, bitspersample=12)),
    "jpegls": (JPEG_LS[0], imagecodecs.jpegls_encode),
    "j2k": (JPEG_2000[0], lambda v: imagecodecs.jpeg2k_encode(v, level=0, reversible=True, codecformat="j2k",
                                                               bitspersample=12)),
    "htj2k": (HTJ2K[0], lambda v: imagecodecs.htj2k_encode(v, reversible=True)),
}  # fmt: skip


def body(count: int) -> NDArray[np.uint16]:
    """(K, 512, 512) stored values of 12 bits: a trunk with lungs, a spine and noise, in a round field."""
    chance = np.random.default_rng(0)
    j, i = np.mgrid[-256:256, -256:256]
    trunk = (i / 200) ** 2 + (j / 140) ** 2 < 1
    lungs = ((abs(i) - 90) / 60) ** 2 + (j / 90) ** 2 < 1
    spine = (i / 22) ** 2 + ((j - 95) / 20) ** 2 < 1
    field = i**2 + j**2 < 254**2
    made = np.empty((count, 512, 512), np.uint16)
    for k in range(count):
        breath = 40 * np.sin(k / 40)
        tissue = np.where(trunk, 40 + 20 * np.sin((i + k) / 30) * np.cos(j / 23), -1000)
        tissue = np.where(trunk & lungs, -850 + breath, tissue)
        tissue = np.where(spine, 180 + breath, tissue)
        noise = chance.normal(0, 1, (514, 514))
        noise = (noise[1:-1, 1:-1] + 0.5 * (noise[:-2, 1:-1] + noise[1:-1, :-2])) * np.where(trunk, 13, 7)
        made[k] = np.where(field, np.clip(np.rint(tissue + noise + 1024), 0, 4095), 0)
    return made


def header(k: int) -> Dataset:
    """About 125 attributes, 40 of them private, as scanners write them."""
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.SOPClassUID, one.SOPInstanceUID = pydicom.uid.CTImageStorage, f"1.2.826.0.1.3680043.8.498.7.{k + 1}"
    one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
        one.SOPClassUID,
        one.SOPInstanceUID,
    )
    one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.8", "1.2.826.0.1.3680043.8.498.9"
    one.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.10"
    one.Modality, one.Manufacturer, one.ManufacturerModelName = "CT", "SIEMENS", "Phantom"
    one.PatientName, one.PatientID, one.PatientSex, one.PatientAge = "PHANTOM^A", "PHANTOM-1", "F", "066Y"
    one.ImageType, one.SpecificCharacterSet = ["ORIGINAL", "PRIMARY", "AXIAL"], "ISO_IR 100"
    one.StudyDate = one.SeriesDate = one.AcquisitionDate = one.ContentDate = "20200102"
    one.StudyTime = one.SeriesTime = one.AcquisitionTime = one.ContentTime = "101112.5"
    one.StudyDescription, one.SeriesDescription, one.ProtocolName = "CT ABDOMEN", "1.0 Br40", "Abdomen"
    one.BodyPartExamined, one.ConvolutionKernel = "ABDOMEN", ["Br40f", "3"]
    for keyword in ("SliceThickness", "KVP", "DataCollectionDiameter", "ReconstructionDiameter", "XRayTubeCurrent",
                    "DistanceSourceToDetector", "DistanceSourceToPatient", "GantryDetectorTilt", "TableHeight",
                    "ExposureTime", "Exposure", "GeneratorPower", "SingleCollimationWidth",
                    "TotalCollimationWidth", "TableSpeed", "TableFeedPerRotation", "SpiralPitchFactor"):  # fmt: skip
        setattr(one, keyword, {"KVP": 120, "GantryDetectorTilt": 0}.get(keyword, 1))
    for n in range(24):
        block = one.private_block(0x0019 + 2 * (n % 3), "SIEMENS CT PHANTOM", create=True)
        block.add_new(0x10 + n, "LO", f"private value {n}")
    for n in range(16):
        one.private_block(0x0029, "SIEMENS CSA", create=True).add_new(0x10 + n, "OB", bytes(64 + 8 * n))
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
        one.SOPClassUID,
        "1.2.826.0.1.3680043.8.498.11",
    )
    one.ReferencedImageSequence = [reference, reference]
    one.InstanceNumber, one.SeriesNumber, one.AcquisitionNumber, one.StudyID = k + 1, 3, 1, "1"
    one.ImagePositionPatient, one.ImageOrientationPatient = [-204.8, -204.8, float(k)], [1, 0, 0, 0, 1, 0]
    one.SliceLocation, one.PixelSpacing = float(k), [SPACING_MM[1], SPACING_MM[2]]
    one.SamplesPerPixel, one.PhotometricInterpretation, one.Rows, one.Columns = 1, "MONOCHROME2", 512, 512
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    one.WindowCenter, one.WindowWidth, one.RescaleIntercept, one.RescaleSlope = 40, 400, -1024, 1
    return one


def write(name: str, count: int) -> list[str]:
    """The files of one syntax; file names do not follow the slices."""
    folder = CACHE / f"{name}_{count}"
    order = list(range(count))
    random.Random(0).shuffle(order)
    if not (folder / "whole").exists():
        folder.mkdir(parents=True, exist_ok=True)
        syntax, encode = SYNTAXES[name]
        for k, values in enumerate(body(count)):
            one = header(k)
            one.file_meta.TransferSyntaxUID = syntax
            one.PixelData = values.tobytes() if encode is None else encapsulate([encode(values)])
            one["PixelData"].VR = "OW" if encode is None else "OB"
            one["PixelData"].is_undefined_length = encode is not None
            one.save_as(folder / f"{order[k]:04}.dcm", enforce_file_format=True)
        (folder / "whole").touch()
    return [str(path) for path in sorted(folder.glob("*.dcm"))]


def series_at(paths: list[str]) -> SeriesRef:
    """What selection needs of an archive: every header, grouped."""
    (series,) = series_of((read_header(Path(path), b"bench"), path) for path in paths)
    return series


def by_pydicom(paths: list[str]) -> dict[float, NDArray[Any]]:
    read = (pydicom.dcmread(path) for path in paths)
    return {float(one.ImagePositionPatient[2]): one.pixel_array for one in read}


def by_simpleitk(paths: list[str]) -> Any:
    import SimpleITK as sitk  # noqa: N813 - its own custom; only those who compare need it

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(paths)
    return reader.Execute()


def in_turn(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, round by round; all ran once before, for caches, libraries and pages."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in ways if turn % 2 == 0 else reversed(ways):
            began = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    return median(a / b for a, b in zip(slow, fast, strict=True))


def measure_loading(name: str, count: int, rounds: int) -> tuple[dict[str, object], list[str]]:
    paths = write(name, count)
    series = series_at(paths)
    ordered = [instance.path for instance in series.instances]
    with Decoders(IsolationOptions()) as decoders:
        volume = load(series, LoadingOptions(), decoders)
        check_same(volume, by_pydicom(paths), by_simpleitk(ordered))
        ways: dict[str, Callable[[], object]] = {
            "engine": lambda: load(series, LoadingOptions(), decoders),
            "pydicom": lambda: by_pydicom(paths),
            "simpleitk": lambda: by_simpleitk(ordered),
        }
        seconds = in_turn(ways, rounds)
    by = {other: ratio(seconds[other], seconds["engine"]) for other in ("pydicom", "simpleitk")}
    figures: dict[str, object] = {f"ratio_{other}_{name}": value for other, value in by.items()}
    figures |= {f"seconds_{way}_{name}": spread(values) for way, values in seconds.items()}
    row = [name, *(f"{median(values) * 1000:.0f}" for values in seconds.values()), *(f"{n:.1f}" for n in by.values())]
    return figures, row


def check_same(volume: Volume, slices: dict[float, NDArray[Any]], image: Any) -> None:
    """All three must give the same voxels."""
    import SimpleITK as sitk  # noqa: N813 - its own custom

    whole = sitk.GetArrayFromImage(image)
    for k, place in enumerate(sorted(slices)):
        hounsfield = slices[place].astype(int) - 1024
        if not (np.array_equal(volume.hounsfield[k], hounsfield) and np.array_equal(whole[k], hounsfield)):
            raise SystemExit(f"slice {k} differs")


def measure_headers(count: int, rounds: int) -> tuple[dict[str, object], list[str]]:
    paths = write("evle", count)
    ways: dict[str, Callable[[], object]] = {
        "engine": lambda: series_at(paths),
        "pydicom": lambda: [pydicom.dcmread(path, stop_before_pixels=True) for path in paths],
    }
    for way in ways.values():
        way()
    seconds = in_turn(ways, 3 * rounds)
    by = ratio(seconds["pydicom"], seconds["engine"])
    figures: dict[str, object] = {"ratio_headers_pydicom": by}
    figures |= {f"seconds_headers_{way}": spread(values) for way, values in seconds.items()}
    row = ["headers only", *(f"{median(values) * 1000:.0f}" for values in seconds.values()), "", f"{by:.1f}", ""]
    return figures, row


def exact(values: NDArray[Any], source: Geometry, target: Geometry) -> NDArray[np.float64]:
    """Linear interpolation in double precision, an axis after the other; the border goes on."""
    found = values.astype(np.float64)
    for axis in range(3):
        index = (np.arange(target.shape[axis]) * target.spacing_mm[axis] + target.origin_mm[2 - axis]
                 - source.origin_mm[2 - axis]) / source.spacing_mm[axis]  # fmt: skip
        index = np.clip(index, 0, source.shape[axis] - 1)
        low = np.minimum(np.floor(index).astype(int), source.shape[axis] - 2)
        part = (index - low).reshape([-1 if other == axis else 1 for other in range(3)])
        found = np.take(found, low, axis) * (1 - part) + np.take(found, low + 1, axis) * part
    return found


def measure_resampling(count: int, rounds: int) -> tuple[dict[str, object], list[str]]:
    import SimpleITK as sitk  # noqa: N813 - its own custom

    volume = load(series_at(write("evle", count)), LoadingOptions())
    target = canonical_grid(volume.geometry, (1.5, 1.5, 1.5))
    image = sitk.GetImageFromArray(volume.hounsfield)
    image.SetSpacing(volume.geometry.spacing_mm[::-1])
    image.SetOrigin(volume.geometry.origin_mm)
    itk = sitk.ResampleImageFilter()
    itk.SetInterpolator(sitk.sitkLinear)
    itk.SetOutputPixelType(sitk.sitkFloat32)
    itk.SetSize([int(n) for n in target.shape[::-1]])
    itk.SetOutputSpacing(target.spacing_mm[::-1])
    itk.SetOutputOrigin(target.origin_mm)
    ways: dict[str, Callable[[], object]] = {
        "engine": lambda: resample(volume.hounsfield, volume.geometry, target),
        "simpleitk": lambda: itk.Execute(image),
    }
    error = np.abs(
        resample(volume.hounsfield, volume.geometry, target) - exact(volume.hounsfield, volume.geometry, target)
    )
    itk.Execute(image)
    seconds = in_turn(ways, 3 * rounds)
    by = ratio(seconds["simpleitk"], seconds["engine"])
    figures: dict[str, object] = {"ratio_resample_simpleitk": by, "resample_error_hounsfield": float(error.max())}
    figures |= {f"seconds_resample_{way}": spread(values) for way, values in seconds.items()}
    milliseconds = [f"{median(values) * 1000:.0f}" for values in seconds.values()]
    return figures, ["to 1.5 mm", milliseconds[0], "", milliseconds[1], "", f"{by:.1f}"]


def main() -> None:
    """Measure and keep the figures."""
    parts: dict[str, Callable[[int, int], tuple[dict[str, object], list[str]]]] = {
        **{name: lambda count, rounds, name=name: measure_loading(name, count, rounds) for name in SYNTAXES},
        "headers": measure_headers,
        "resample": measure_resampling,
    }
    arguments = argparse.ArgumentParser(description="What loading costs beside the usual readers")
    arguments.add_argument("--short", action="store_true", help="fewer slices, fewer rounds")
    arguments.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    asked = arguments.parse_args()
    count, rounds = (100, 2) if asked.short else (300, 3)
    file = RESULTS / "loader.json"
    figures: dict[str, object] = {"slices": count, "rows": 512, "rounds": rounds, "peers": peers()}
    if file.exists() and len(asked.only) < len(parts):
        figures = {**json.loads(file.read_text()), **figures}
        figures.pop("machine", None)
    rows = []
    for name in asked.only:
        found, row = parts[name](count, rounds)
        figures |= found
        rows.append(row)
    columns = ["", "engine", "pydicom", "SimpleITK", "pydicom / engine", "SimpleITK / engine"]
    show(f"Milliseconds for {count} slices of 512 x 512", columns, rows)
    print(f"written: {keep('loader', figures)}")


def peers() -> dict[str, str]:
    from importlib.metadata import version

    names = ("pydicom", "python-gdcm", "pylibjpeg-openjpeg", "pyjpegls", "simpleitk", "imagecodecs", "numba", "numpy")
    return {name: version(name) for name in names}


if __name__ == "__main__":
    main()
