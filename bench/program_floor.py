"""
What the whole program would take a series at the least, stage by stage, and what it takes with nothing beside it.

bench/floor.py tells this machine's rates and a network's floor; here they become the program's. bench/throughput.py
holds what was measured against it.
"""

import os
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.floor import BYTES, Rates, best, layers, network_floor
from engine.programs.vertebral import VertebralCase, VertebralProgram
from engine.records import SeriesRef
from engine.runtime.backends import RuntimeOptions
from engine.runtime.manifest import ModelPackage, find_package
from engine.runtime.session import Session

H200_OPERATIONS, H200_MEMORY = 790e12, 4.3e12  # dense 16 bit, and bytes a second: measured elsewhere, not here
PCIE = 50e9  # bytes a second to a card, likewise


def least(
    program: VertebralProgram, series: list[SeriesRef], rates: Mapping[str, Rates]
) -> tuple[dict[str, float], float]:
    """Wall seconds a series that each stage takes at least with all processors on it.

    The answers tell how many tiles, crops and pictures there were.

    Args:
        rates: of this machine with all its processors, by precision.

    Returns:
        the floor of each stage; and what the library takes for the networks' passes alone, which is no floor, but says
        how much of the gap is the library's.
    """
    floors: dict[str, list[float]] = defaultdict(list)
    alone = []
    for one in series:
        case = passed(program, one)
        volume, memory = case.volume.hounsfield.nbytes, rates["f32"].memory_bytes_per_s
        file_bytes = sum(os.path.getsize(instance.path) for instance in one.instances)  # noqa: PTH202
        tiles, crops = len(case.tissues.looked), len(program._crops(case, program._density.manifest))
        told = {m.finding_site for m in case.densities}
        pictures = len({m.finding_site for m in case.scores})
        floors["load"].append((2 * volume + file_bytes) / memory)
        floors["disk"].append(file_bytes / rates["f32"].disk_bytes_per_s)
        spine, spine_s = one_input(program._spine, rates)
        floors["segment"].append(tiles * (spine_s + tile_bytes(spine) / memory))
        classes = len(told) * one_input(program._class, rates)[1] if program._class else 0.0
        floors["predict"].append(crops * one_input(program._density, rates)[1] + classes)
        floors["from_side"].append(sum(pictures * one_input(s, rates)[1] for s in program._from_side.values()))
        floors["anatomy"].append(3 * volume / 2 / memory)  # bodies and cores written, read once
        floors["measure"].append(volume / memory)
        floors["tiles"].append(tiles)
        asked = [(program._spine, tiles), (program._density, crops)]
        asked += [(program._class, len(told))] if program._class else []
        asked += [(session, pictures) for session in program._from_side.values()]
        alone.append(sum(passes_s(session, count) for session, count in asked))
    return {name: float(np.mean(values)) for name, values in floors.items()}, float(np.mean(alone))


def passes_s(session: Session, count: int) -> float:
    """Seconds of so many inputs through a network, with nothing beside it."""
    if not count:
        return 0.0
    inputs = np.zeros((count, 1, *session.manifest.input_shape), dtype=np.float32)
    return best(lambda: session.infer(inputs), 4)


def one_input(session: Session, rates: Mapping[str, Rates]) -> tuple[ModelPackage, float]:
    """A session's package, and the seconds that one input takes at least in the precision that it is computed in."""
    package = find_package(RuntimeOptions().model_folder, session.manifest.task)
    return package, network_floor(package, session.model.precision, rates[session.model.precision])


def tile_bytes(package: Any) -> float:
    """HU read, input written, logits read and blended, once each, f32."""
    voxels = float(np.prod(package.manifest.input_shape))
    return voxels * 4 * (2 + 2 * len(package.manifest.labels))


def passed(program: VertebralProgram, series: SeriesRef) -> VertebralCase:
    """A series behind the last stage."""
    case = program.begin(series)
    for stage in program.stages:
        (failure,) = stage.run([case])
        if failure is not None:
            raise failure
    return case


def alone_s(program: VertebralProgram, series: list[SeriesRef]) -> dict[str, float]:
    """Processor seconds of each stage of a series, with nothing beside it in this process."""
    spent: dict[str, float] = defaultdict(float)
    for one in series:
        case = program.begin(one)
        for stage in program.stages:
            began = time.process_time()
            (failure,) = stage.run([case])
            spent[stage.name] += (time.process_time() - began) / len(series)
            if failure is not None:
                raise failure
    return dict(spent)


def on_h200(tiles: float, slices: float, precision: str = "f16") -> dict[str, float]:
    """What the floor of one H200 would allow: computed from figures measured elsewhere, never run here."""
    spine = find_package(RuntimeOptions().model_folder, "spine_segmentation")
    network = tiles * network_floor(spine, precision, Rates(H200_MEMORY, 1.0, H200_OPERATIONS))
    logits = tiles * float(np.prod(spine.manifest.input_shape)) * len(spine.manifest.labels) * 4 / PCIE
    pixels = slices * 512 * 512 * 2 / PCIE
    slowest = network + logits + pixels
    return {"network_s": network, "logits_over_pcie_s": logits, "pixels_over_pcie_s": pixels,
            "series_per_hour_floor": 3600 / slowest, "tiles": tiles,
            "bytes_per_element": BYTES[precision],
            "operations": tiles * sum(one.operations for one in layers(spine))}  # fmt: skip
