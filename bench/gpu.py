"""
What a GPU is worth: decoding, resampling, each network by each backend, and the whole program, CT an hour.

    python -m bench.gpu [--short]

All is measured beside the CPU's way, in turns, and the answers are compared. Without a GPU it says so, ends with 2 and
keeps nothing. `--twins` runs every part on the CPU twins of what runs on the device: it proves this command, measures
nothing that matters and keeps nothing.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bench.loader import in_turn, ratio, series_at, write
from bench.report import keep, show, spread
from engine.batch import analyse_many
from engine.errors import BackendUnavailable
from engine.loading.dali_resampling import DaliResampler, Resampler, ResamplingOptions
from engine.loading.device_decode import DeviceOptions
from engine.loading.isolation import Decoders, IsolationOptions
from engine.loading.load import Decoder, LoadingOptions, load
from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import Quantity, SeriesRef
from engine.resampling import canonical_grid, resample
from engine.runtime import device_memory, onnxruntime_session
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import PACKAGED_MODELS, ModelPackage, open_package
from engine.runtime.session import Session, in_runs
from engine.volume import Analysis

Figures = dict[str, Any]
WINDOW = (-200.0, 800.0)
LIBRARIES = ("tensorrt", "cuda-python", "onnxruntime", "onnxruntime-gpu", "openvino", "nvidia-dali-cuda120",
             "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu12", "nvidia-nvimgcodec-cu13", "nvidia-nvjpeg2k-cu12",
             "nvidia-nvjpeg2k-cu13", "numpy")  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where the device's side runs."""

    device: int  # -1: CPU twins
    backends: tuple[str, ...]  # that run networks there
    program: str  # the backend of the whole program


GPU = Place(0, ("tensorrt", "onnxruntime_cuda"), "tensorrt")
TWINS = Place(-1, ("openvino",), "openvino")


class OnnxRuntimeCuda:
    """ONNX Runtime on the device, for comparison alone: the engine has no such session."""

    def __init__(self, package: ModelPackage, batch: int = 8) -> None:
        """Open; ONNX Runtime falls back to the CPU in silence, so it is asked what it took."""
        try:
            onnxruntime = onnxruntime_session.library()
        except ImportError as absent:
            raise BackendUnavailable("onnxruntime is not installed") from absent
        wanted = "CUDAExecutionProvider"
        if wanted not in onnxruntime.get_available_providers():
            raise BackendUnavailable(f"this ONNX Runtime was built without its {wanted}")
        self._session = onnxruntime.InferenceSession(str(package.weights), providers=[wanted])
        if self._session.get_providers()[0] != wanted:
            raise BackendUnavailable(f"ONNX Runtime did not take its {wanted}")
        self.batch, self._input = batch, self._session.get_inputs()[0].name

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """As a session of the engine does."""
        return in_runs(batch, self.batch, lambda some: self._session.run(None, {self._input: some})[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None


def measure_decoding(place: Place, count: int, rounds: int) -> Figures:
    """A series of JPEG 2000 and of HTJ2K, to HU."""
    on_device = LoadingOptions(decoder=Decoder.NVIMAGECODEC, device=DeviceOptions(place.device))
    found: Figures = {}
    with Decoders(IsolationOptions()) as decoders:
        for name in ("j2k", "htj2k"):
            series = series_at(write(name, count))
            ways: dict[str, Callable[[], Any]] = {
                "cpu": lambda series=series: load(series, LoadingOptions(), decoders),
                "device": lambda series=series: load(series, on_device),
            }
            if not np.array_equal(ways["cpu"]().hounsfield, ways["device"]().hounsfield):
                raise SystemExit(f"{name}: the device decodes other values")
            found |= _compared(f"decode_{name}", in_turn(ways, rounds))
    return found


def measure_resampling(place: Place, count: int, rounds: int) -> Figures:
    """A volume onto 1.5 mm, as a network sees it."""
    volume = load(series_at(write("evle", count)), LoadingOptions())
    target, (low, high) = canonical_grid(volume.geometry, (1.5, 1.5, 1.5)), WINDOW
    dali = DaliResampler(ResamplingOptions(Resampler.DALI, place.device))

    def kernels() -> NDArray[np.float32]:
        hounsfield = resample(volume.hounsfield, volume.geometry, target)
        return (np.clip(hounsfield, low, high) - low) * np.float32(2 / (high - low)) - 1

    image = dali.image(volume, target, WINDOW)
    if image is None:
        raise SystemExit("the graph did not take the volume")
    error = float(np.abs(kernels() - image).max()) * (high - low) / 2
    ways = {"cpu": kernels, "device": lambda: dali.image(volume, target, WINDOW)}
    return {"resample_difference_hounsfield": error, **_compared("resample", in_turn(ways, 3 * rounds))}


def measure_inference(place: Place, inputs: int, rounds: int) -> Figures:
    """Each packaged network by each backend of the device, beside ONNX Runtime on the CPU."""
    found: Figures = {}
    for folder in sorted(path.parent for path in PACKAGED_MODELS.glob("*/manifest.toml")):
        package = open_package(folder)
        with open_session(package, RuntimeOptions(backend="onnxruntime", precision="f32")) as cpu:
            for backend in place.backends:
                name = f"{package.manifest.task}_{backend}"
                try:
                    with _opened(package, backend) as session:
                        found |= _one_network(name, session, cpu, inputs, rounds)
                except BackendUnavailable as unable:
                    found[f"not_run_{name}"] = str(unable)
    return found


def _one_network(name: str, session: "OnnxRuntimeCuda | Session", cpu: Session, inputs: int, rounds: int) -> Figures:
    """Seconds an input, and how far answers are apart, in standard deviations of the CPU's."""
    images = np.random.default_rng(0).uniform(-1, 1, (inputs, 1, *cpu.manifest.input_shape)).astype(np.float32)
    expected = cpu.infer(images[:2])
    apart = np.abs(session.infer(images)[:2] - expected).max() / max(1e-6, float(np.std(expected)))
    seconds = in_turn({"cpu": lambda: cpu.infer(images[:2]), "device": lambda: session.infer(images)}, rounds)
    each = {"cpu": [one / 2 for one in seconds["cpu"]], "device": [one / inputs for one in seconds["device"]]}
    return {
        f"seconds_per_input_{name}": spread(each["device"]),
        f"ratio_{name}": ratio(each["cpu"], each["device"]),
        f"apart_{name}": float(apart),
        f"precision_{name}": "f32" if isinstance(session, OnnxRuntimeCuda) else session.model.precision,
    }


def measure_program(place: Place, series: Sequence[SeriesRef], times: int, rounds: int) -> Figures:
    """CT an hour, end to end, beside the same program on the CPU."""
    options = VertebralOptions(
        loading=LoadingOptions(decoder=Decoder.NVIMAGECODEC, device=DeviceOptions(place.device)),
        resampling=ResamplingOptions(Resampler.DALI, place.device),
    )
    found: Figures = {"series": len(series) * times, "slices": [len(one.instances) for one in series]}
    answers: dict[str, list[Analysis]] = {}
    seconds: dict[str, list[float]] = {"cpu": [], "device": []}
    with (
        VertebralProgram(options, RuntimeOptions(backend=place.program)) as device,
        VertebralProgram(VertebralOptions(), RuntimeOptions()) as cpu,
    ):
        programs = {"cpu": cpu, "device": device}
        found["models"] = [f"{one} {one.precision} on {one.backend}" for one in device.models]
        for name, program in programs.items():  # the first run pays for plans, memory and caches
            answers[name] = [one for one in analyse_many(series, program, 8) if isinstance(one, Analysis)]
        for turn in range(rounds):
            for name in programs if turn % 2 == 0 else reversed(programs):
                began = time.perf_counter()
                for _ in analyse_many(list(series) * times, programs[name], 8):
                    pass
                seconds[name].append((time.perf_counter() - began) / (len(series) * times))
    stages = [dict(one.result.stage_seconds) for one in answers["device"]]
    return found | {
        **_compared("program", seconds),
        "series_per_hour": 3600 / median(seconds["device"]),
        "stage_seconds": {name: median(one[name] for one in stages) for name in stages[0]},
        **_answers_apart(answers["cpu"], answers["device"]),
    }


def _answers_apart(cpu: list[Analysis], device: list[Analysis]) -> Figures:
    """How far densities are apart; levels must be the same."""
    if len(cpu) != len(device) or any(a.result.levels != b.result.levels for a, b in zip(cpu, device, strict=True)):
        raise SystemExit("the device finds other levels")
    apart = [abs(a - b) for one, other in zip(cpu, device, strict=True) for level in one.result.levels
             if (a := one.result.value(Quantity.VOLUMETRIC_BMD, level)) is not None
             and (b := other.result.value(Quantity.VOLUMETRIC_BMD, level)) is not None]  # fmt: skip
    return {"largest_difference_mg_cm3": max(apart, default=None), "levels_compared": len(apart)}


def _opened(package: ModelPackage, backend: str) -> "OnnxRuntimeCuda | Session":
    if backend == "onnxruntime_cuda":
        return OnnxRuntimeCuda(package)
    return open_session(package, RuntimeOptions(backend=backend))


def _compared(what: str, seconds: dict[str, list[float]]) -> Figures:
    return {f"seconds_{what}_{way}": spread(values) for way, values in seconds.items()} | {
        f"ratio_{what}": ratio(seconds["cpu"], seconds["device"])
    }


def machine() -> dict[str, Any]:
    """The device, and what drives it."""
    card = device_memory.device()
    return {"device": card.name, "compute_capability": card.compute_capability, "memory_bytes": card.memory_bytes,
            "cuda_runtime": card.runtime_version, "cuda_driver": card.driver_version,
            "libraries": libraries()}  # fmt: skip


def libraries() -> dict[str, str]:
    """Versions of what is installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def measured(place: Place, short: bool) -> Figures:
    """Every part; one that can't run here says why."""
    from bench.stages import phantom_series

    count, rounds = (100, 2) if short else (300, 5)
    parts: dict[str, Callable[[], Figures]] = {
        "decoding": lambda: measure_decoding(place, count, rounds),
        "resampling": lambda: measure_resampling(place, count, rounds),
        "inference": lambda: measure_inference(place, 8 if short else 32, rounds),
        "program": lambda: measure_program(place, phantom_series(short), 4 if short else 16, 1 if short else 3),
    }
    figures: Figures = {}
    for name, part in parts.items():
        try:
            figures |= part()
        except BackendUnavailable as unable:
            figures[f"not_run_{name}"] = str(unable)
    return figures


def main() -> None:
    """Measure and keep the figures."""
    arguments = argparse.ArgumentParser(description="What a GPU is worth")
    arguments.add_argument("--short", action="store_true", help="fewer slices, series and rounds")
    arguments.add_argument("--twins", action="store_true", help="on the CPU twins; keeps nothing")
    asked = arguments.parse_args()
    why_not = device_memory.why_not()
    if why_not and not asked.twins:
        print(f"BackendUnavailable: there is no GPU to measure on: {why_not}", file=sys.stderr)
        raise SystemExit(2)
    figures = measured(TWINS if asked.twins else GPU, asked.short)
    rows = [[name, f"{value:.4g}"] for name, value in sorted(figures.items()) if isinstance(value, float)]
    rows += [[name, value] for name, value in sorted(figures.items()) if name.startswith("not_run")]
    show("On the CPU twins; it says nothing of a GPU" if asked.twins else "On the GPU", ["figure", ""], rows)
    if not asked.twins:
        print(f"written: {keep('gpu', {'machine': machine(), **figures})}")


if __name__ == "__main__":
    main()
