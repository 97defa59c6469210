"""
TensorRT's plans: built once for a graph and a device, kept, and never used for another.

A plan's file is named by all that it depends on: the graph's bytes, TensorRT's version, the device with its properties,
the shapes, and how it was built. If any of these differs, it is another name, and the plan is built anew. A plan is
code that runs with our rights: one that another account could have written is not read.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import BackendUnavailable, UnusableModel
from engine.runtime.device_memory import Device

WORKSPACE_BYTES = 8 << 30  # scratch that a tactic may ask for; our choice: a tenth of the smallest card in view
LEVEL = 3  # of the builder's search, its default
TIMINGS = 4  # of each tactic; the default of one makes the choice a matter of luck


@dataclass(frozen=True, slots=True)
class PlanKey:
    """All that a plan depends on."""

    tensorrt: str  # version, all its numbers
    onnx_sha256: str  # weights lie inside, so this covers them
    device: Device
    input_shape: tuple[int, ...]  # (N, C, K, J, I), the one shape that it runs
    precision: str
    level: int = LEVEL
    timings: int = TIMINGS

    @property
    def digest(self) -> str:
        """The name of its file."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def plan_for(
    key: PlanKey, onnx: Path, folder: Path, build: Callable[[Path, PlanKey, bytes], tuple[bytes, bytes]]
) -> bytes:
    """The plan for a key: the one that is kept, or a new one that is kept from now on.

    Args:
        build: makes a plan from a graph, a key and a timing cache; returns the plan and the new timing cache.

    Raises:
        BackendUnavailable: the folder, or the plan in it, could have been written by somebody else.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _ours(folder)
    file, about = folder / f"{key.digest}.plan", folder / f"{key.digest}.json"
    try:
        _ours(file)
        told = json.loads(about.read_text(encoding="utf-8"))
        plan = file.read_bytes()
        if told["plan_sha256"] == hashlib.sha256(plan).hexdigest():
            return plan
    except (OSError, ValueError, KeyError):
        pass  # not there yet, or not whole
    return _built(key, onnx, folder, build)


def forget(key: PlanKey, folder: Path) -> None:
    """Remove a plan that TensorRT refused."""
    (folder / f"{key.digest}.plan").unlink(missing_ok=True)


def _built(
    key: PlanKey, onnx: Path, folder: Path, build: Callable[[Path, PlanKey, bytes], tuple[bytes, bytes]]
) -> bytes:
    device = hashlib.sha256(json.dumps([key.tensorrt, asdict(key.device)], sort_keys=True).encode()).hexdigest()[:16]
    timings = folder / f"{device}.timing"
    try:
        _ours(timings)
        known = timings.read_bytes()
    except OSError:
        known = b""
    plan, timed = build(onnx, key, known)
    about: dict[str, Any] = asdict(key) | {"plan_sha256": hashlib.sha256(plan).hexdigest()}
    _write(timings, timed)
    _write(folder / f"{key.digest}.json", json.dumps(about, indent=2, sort_keys=True).encode())
    _write(folder / f"{key.digest}.plan", plan)
    return plan


def build_plan(onnx: Path, key: PlanKey, timing_cache: bytes) -> tuple[bytes, bytes]:
    """Let TensorRT make a plan; takes minutes.

    Types are the graph's: strongly typed, so that nothing is computed lower than the graph says, TF32 included.

    Returns:
        the plan, and the timing cache with what was learnt.

    Raises:
        UnusableModel: TensorRT can't parse the graph, or finds no way to run it.
    """
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        kinds = ", ".join(sorted({str(parser.get_error(n).code()) for n in range(parser.num_errors)}))
        raise UnusableModel(f"TensorRT can't parse the graph: {kinds or 'no reason given'}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.builder_optimization_level = key.level
    config.avg_timing_iterations = key.timings
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, min=key.input_shape, opt=key.input_shape, max=key.input_shape)
    if config.add_optimization_profile(profile) < 0:
        raise UnusableModel(f"TensorRT refuses the shape {key.input_shape}")
    cache = config.create_timing_cache(timing_cache)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UnusableModel("TensorRT finds no way to run the graph on this device")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def _ours(path: Path) -> None:
    """Nobody but this account can have written it."""
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackendUnavailable("the folder of plans, or a file in it, can be written by others than this account")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; several processes may do it at once."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    opened = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(content)
    aside.replace(path)
