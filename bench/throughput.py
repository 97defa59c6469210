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
from statistics import median
from typing import Any

import numpy as np

from bench import peers_way
from bench.floor import measured_rates
from bench.program_floor import alone_s, least, on_h200
from bench.report import keep, show
from bench.stages import phantom_series
from bench.watch import Watch
from engine.batch import analyse_many
from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import Quantity, SeriesFailure, SeriesRef
from engine.runtime.backends import RuntimeOptions, backend_statuses
from engine.runtime.manifest import find_package
from engine.volume import Analysis, Segmentation

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
    figures |= {
        "stage_cpu_seconds_alone": alone,
        "growth": {str(times): one for times, one in found.items()},
        "rates": {precision: vars(one) for precision, one in rates.items()},
        "floor_is": f"wall seconds a series with all {threads} processors at their measured peak",
        **summed_up(found, floors, networks_alone),
        "h200_computed": card_of(floors["tiles"], figures["slices"], alone),
    }
    file = keep("throughput", figures)
    told(figures, found, floors)
    print(f"written: {file}")


def summed_up(found: dict[int, dict[str, Any]], floors: dict[str, float], networks_alone: float) -> dict[str, Any]:
    """The largest archive beside the floor and beside the smallest one."""
    most = max(found)
    largest, smallest = found[most], found[1]
    busy = [floors[name] for name in ("load", "segment", "anatomy", "measure", "predict", "from_side")]
    floor, seconds = max(sum(busy), floors["disk"]), largest["seconds_per_series"]
    return {
        "floor_seconds": floors | {"all": floor},
        "networks_alone_seconds": networks_alone,
        "networks_alone_share": networks_alone / seconds,
        "seconds_per_series": seconds,
        "stage_seconds": largest["stage_seconds"],
        "series_per_hour": 3600 / seconds,
        "fraction_of_floor": floor / seconds,
        f"cost_growth_{most}x": seconds / smallest["seconds_per_series"],
        f"memory_growth_{most}x": largest["peak_bytes"] / smallest["peak_bytes"],
    }


def card_of(tiles: float, slices: list[int], alone: dict[str, float]) -> dict[str, float]:
    """One H200 by its floor, and the host's processors that it would need beside it."""
    card = on_h200(tiles, float(np.mean(slices)))
    host_cpu_s = sum(seconds for name, seconds in alone.items() if name not in ("segment", "predict"))
    return card | {"host_cpu_s": host_cpu_s, "cores_for_2000_an_hour": 2000 / 3600 * host_cpu_s}


def told(figures: dict[str, Any], found: dict[int, dict[str, Any]], floors: dict[str, float]) -> None:
    """Print what was measured, and where the gap to the floor lies."""
    rows = [
        [f"{times} x", f"{one['seconds_per_series']:.2f}", f"{one['cpu_seconds_per_series']:.2f}",
         f"{one['processor_busy']:.0%}", f"{one['peak_bytes'] / 2**20:.0f}"]
        for times, one in found.items()
    ]  # fmt: skip
    show("As the archive grows", ["archive", "s a series", "CPU s", "processor busy", "peak MiB"], rows)
    largest = found[max(found)]
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
