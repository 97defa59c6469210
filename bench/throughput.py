"""
Series an hour, whole program, beside the usual way and beside the floor.

    python -m bench.throughput [--short]

A phantom archive of four series is analysed with stages overlapped, at 1, 4 and 16 times its size; some of its series
are also analysed the peers' way (bench/peers_way.py), interleaved, with the same weights, and the answers are compared.
The floor (bench/floor.py) says what this machine could do at best, and the gap is put down to the stages.
"""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from bench import peers_way
from bench.floor import BYTES, Rates, best, layers, measured_rates, network_floor
from bench.report import keep, show
from bench.stages import phantom_series
from bench.watch import Watch
from engine.batch import analyse_many
from engine.programs.vertebral import VertebralCase, VertebralOptions, VertebralProgram
from engine.records import Quantity, SeriesFailure, SeriesRef
from engine.runtime.backends import RuntimeOptions, backend_statuses
from engine.runtime.manifest import ModelPackage, find_package
from engine.runtime.session import Session
from engine.volume import Analysis, Segmentation

H200_OPERATIONS, H200_MEMORY = 790e12, 4.3e12  # dense 16 bit, and bytes a second: measured elsewhere, not here
PCIE = 50e9  # bytes a second to a card, likewise
IN_FLIGHT = 4
UNIT = IN_FLIGHT  # series of the archive at its single size: as many as are under way at once, so that growth is growth


def archive(series: list[SeriesRef], times: int) -> list[SeriesRef]:
    """The same series again and again; the page cache serves the repeats, so the disk's share is told by the floor."""
    return series * times


def run(
    program: VertebralProgram, series: list[SeriesRef], in_flight: int = IN_FLIGHT
) -> tuple[Watch, dict[str, float]]:
    """Analyse an archive; what it took, and the seconds of each stage in all."""
    stages: dict[str, float] = defaultdict(float)
    with Watch() as watch:
        for outcome in analyse_many(series, program, in_flight):
            if isinstance(outcome, SeriesFailure):
                raise SystemExit(f"a phantom was set aside: {outcome.reason} {outcome.message}")
            for name, seconds in outcome.result.stage_seconds:
                stages[name] += seconds
    return watch, stages


def grown(program: VertebralProgram, series: list[SeriesRef], sizes: tuple[int, ...]) -> dict[int, dict[str, Any]]:
    """Cost of a series and peak memory as the archive grows; sizes take turns, forth and back.

    How high memory stands depends on which series happen to meet, so a run of more series finds a higher peak though
    nothing has grown. On the way forth each size is therefore run until as many series have passed as in the largest,
    and peaks are compared of that way alone: the largest comes last, after all that others may have left behind.
    """
    runs: dict[int, list[tuple[Watch, dict[str, float]]]] = defaultdict(list)
    for times in sizes:
        for _ in range(sizes[-1] // times):
            runs[times].append(run(program, archive(series, times)))
    peaks = {times: max(watch.peak_bytes for watch, _ in some) for times, some in runs.items()}
    for times in sizes[-2::-1]:
        runs[times].append(run(program, archive(series, times)))
    found = {}
    for times, some in runs.items():
        count = times * len(series)
        found[times] = {
            "seconds_per_series": median(watch.wall_s / count for watch, _ in some),
            "cpu_seconds_per_series": median(watch.cpu_s / count for watch, _ in some),
            "processor_busy": median(watch.cpu_s / watch.wall_s for watch, _ in some) / len(os.sched_getaffinity(0)),
            "peak_bytes": peaks[times],
            "runs": len(some),
            "stage_seconds": {name: median(stages[name] / count for _, stages in some) for name in some[0][1]},
            "stage_busy": {name: median(stages[name] / watch.wall_s for watch, stages in some) for name in some[0][1]},
        }
    return found


def dice(one: Segmentation, other: Segmentation) -> float:
    """Of vertebral bodies of the same name, the worst."""
    worst = 1.0
    for n, level in enumerate(one.segments, start=1):
        if level not in other.segments:
            return 0.0
        a, b = one.labels == n, other.labels == other.segments.index(level) + 1
        worst = min(worst, 2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))
    return float(worst)


def beside_peers(
    program: VertebralProgram, series: list[SeriesRef], rounds: int, spacing_mm: float | None
) -> dict[str, Any]:
    """Both ways on the same series, in turns; ratios within a round, and how far their answers are apart."""
    models = RuntimeOptions().model_folder
    spine, density = find_package(models, "spine_segmentation"), find_package(models, "vertebral_bmd")
    ratios, ours_s, peers_s, worst, apart = [], [], [], 1.0, 0.0
    for turn in range(rounds):
        one = series[turn % len(series)]
        began = time.perf_counter()
        analyses = [a for a in analyse_many(archive([one], 4), program, IN_FLIGHT) if isinstance(a, Analysis)]
        ours = (time.perf_counter() - began) / 4
        began = time.perf_counter()
        bodies, values = peers_way.analyse(one, spine, density, spacing_mm)
        peers = time.perf_counter() - began
        ratios.append(peers / ours)
        ours_s.append(ours)
        peers_s.append(peers)
        if spacing_mm is None:
            worst = min(worst, dice(analyses[0].bodies, bodies))
            own = {
                m.finding_site: m.value
                for m in analyses[0].result.measurements
                if m.quantity is Quantity.VOLUMETRIC_BMD
            }
            apart = max([apart, *(abs(own[level] - value) for level, value in values.items() if level in own)])
    return {"ratio": median(ratios), "ratios": ratios, "seconds_ours": median(ours_s), "seconds_peers": median(peers_s),
            "worst_dice": worst, "largest_difference_mg_cm3": apart}  # fmt: skip


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


def main() -> None:
    """Measure and keep the figures."""
    arguments = argparse.ArgumentParser(description="Series an hour")
    arguments.add_argument(
        "--short", action="store_true", help="one series, a small archive, one round beside the peers"
    )
    arguments.add_argument(
        "--at-1-5-mm", action="store_true", help="the peers' way at their usual spacing too; minutes"
    )
    arguments.add_argument("--no-peers", action="store_true", help="our own figures only")
    given = arguments.parse_args()
    series = phantom_series(given.short)[:2]
    sizes = (1, 4) if given.short else (1, 4, 16)
    threads = len(os.sched_getaffinity(0))
    figures: dict[str, Any] = {
        "series": len(series),
        "slices": [len(one.instances) for one in series],
        "in_flight": IN_FLIGHT,
    }
    for status in backend_statuses():
        figures[f"session_{status.name}"] = status.version if status.can_run else f"not run: {status.why_not}"
    with VertebralProgram(VertebralOptions(), RuntimeOptions()) as program:
        figures["models"] = [f"{m} {m.precision} on {m.backend}" for m in program.models]
        run(program, archive(series, 2))  # the first run pays for memory and caches
        found = grown(program, (series * UNIT)[:UNIT], sizes)
        precisions = sorted({"f32", *(model.precision for model in program.models)})
        rates = {precision: measured_rates(precision, threads) for precision in precisions}
        floors, networks_alone = least(program, series, rates)
        alone = alone_s(program, series)
        if not given.no_peers:
            figures["peers"] = beside_peers(program, series, 1 if given.short else 2, None)
            figures["ratio_peer_way"] = figures["peers"]["ratio"]
            if given.at_1_5_mm:
                figures["peers_at_1_5_mm"] = beside_peers(program, series[:1], 1, 1.5)
    largest = found[sizes[-1]]
    busy = {name: floors[name] for name in ("load", "segment", "anatomy", "measure", "predict", "from_side")}
    floor = max(sum(busy.values()), floors["disk"])
    card = on_h200(floors["tiles"], float(np.mean([len(one.instances) for one in series])))
    card["host_cpu_s"] = sum(seconds for name, seconds in alone.items() if name not in ("segment", "predict"))
    card["cores_for_2000_an_hour"] = 2000 / 3600 * card["host_cpu_s"]
    figures |= {
        "stage_cpu_seconds_alone": alone,
        "growth": {str(times): one for times, one in found.items()},
        "rates": {precision: vars(one) for precision, one in rates.items()},
        "floor_is": f"wall seconds a series with all {threads} processors at their measured peak",
        "floor_seconds": floors | {"all": floor},
        "networks_alone_seconds": networks_alone,
        "networks_alone_share": networks_alone / largest["seconds_per_series"],
        "seconds_per_series": largest["seconds_per_series"],
        "stage_seconds": largest["stage_seconds"],
        "series_per_hour": 3600 / largest["seconds_per_series"],
        "fraction_of_floor": floor / largest["seconds_per_series"],
        f"cost_growth_{sizes[-1]}x": largest["seconds_per_series"] / found[1]["seconds_per_series"],
        f"memory_growth_{sizes[-1]}x": largest["peak_bytes"] / found[1]["peak_bytes"],
        "h200_computed": card,
    }
    file = keep("throughput", figures)
    told(figures, found, floors, sizes)
    print(f"written: {file}")


def told(
    figures: dict[str, Any], found: dict[int, dict[str, Any]], floors: dict[str, float], sizes: tuple[int, ...]
) -> None:
    """Print what was measured, and where the gap to the floor lies."""
    rows = [
        [f"{times} x", f"{one['seconds_per_series']:.2f}", f"{one['cpu_seconds_per_series']:.2f}",
         f"{one['processor_busy']:.0%}", f"{one['peak_bytes'] / 2**20:.0f}"]
        for times, one in found.items()
    ]  # fmt: skip
    show("As the archive grows", ["archive", "s a series", "CPU s", "processor busy", "peak MiB"], rows)
    largest = found[sizes[-1]]
    rows = [
        [name, f"{seconds:.3f}", f"{largest['stage_busy'][name]:.0%}", f"{floors.get(name, 0):.3f}"]
        for name, seconds in largest["stage_seconds"].items()
    ]
    show("Stages (seconds a series while the others run too)", ["stage", "seconds", "busy", "floor"], rows)
    gap = {name: seconds - floors.get(name, 0) for name, seconds in largest["stage_seconds"].items()}
    print(f"floor {figures['floor_seconds']['all']:.2f} wall s a series with all processors busy, "
          f"{figures['fraction_of_floor']:.0%} of it reached; "
          f"the next bottleneck is '{max(gap, key=gap.__getitem__)}'")  # fmt: skip
    print(f"the networks' passes alone take the library {figures['networks_alone_seconds']:.3f} s a series, "
          f"{figures['networks_alone_share']:.0%} of what all takes")  # fmt: skip
    if "peers" in figures:
        peers = figures["peers"]
        apart = f"{peers['largest_difference_mg_cm3']:.2f} mg/cm3"
        print(f"{peers['ratio']:.1f} times the peers' way ({peers['seconds_peers']:.1f} s a series); "
              f"bodies' worst Dice {peers['worst_dice']:.3f}, densities at most {apart} apart")  # fmt: skip
    card = figures["h200_computed"]
    print(f"computed, not run: one H200 could do {card['series_per_hour_floor']:.0f} series an hour by its floor;")
    needed = f"{card['cores_for_2000_an_hour']:.1f} cores for 2,000 an hour"
    print(f"what holds it back is the host: {card['host_cpu_s']:.2f} CPU s a series, {needed}")


if __name__ == "__main__":
    main()
