"""
Where the time of one series goes, and what OpenVINO is worth beside the reference session.

    python -m bench.stages [--short]

The vertebral program runs on phantom series with each session that can run here, interleaved; medians of
each stage, and the ratio of whole analyses within a round, are printed and kept.
"""

import argparse
import time
from pathlib import Path
from statistics import median

from pydicom import dcmread

from bench.archive import ARCHIVE, write_entry
from bench.report import keep, show, spread
from engine.loading.headers import read_header, series_of
from engine.programs.vertebral import VertebralOptions, VertebralProgram
from engine.records import ScreeningResult, SeriesRef
from engine.runtime.backends import RuntimeOptions, backend_statuses

CACHE = Path(".cache") / "bench"


def phantom_series(short: bool) -> list[SeriesRef]:
    """Eligible series of the demo's archive, written once."""
    wanted = [entry for entry in ARCHIVE if entry.slice_mm <= 3][: 1 if short else 3]
    series = []
    for entry in wanted:
        folder = CACHE / f"{entry.study}_{entry.series}_512"
        if not (folder / "whole").exists():
            write_entry(entry, folder, pixels=512)
            (folder / "whole").touch()
        headers = [(read_header(path, b"bench"), str(path)) for path in sorted(folder.glob("*.dcm"))]
        series.extend(series_of(headers))
    return series


def main() -> None:
    """Measure and keep the figures."""
    arguments = argparse.ArgumentParser(description="Where the time of one series goes")
    arguments.add_argument("--short", action="store_true", help="one series, few rounds")
    short = arguments.parse_args().short
    series = phantom_series(short)
    sessions = {status.name: RuntimeOptions(backend=status.name) for status in backend_statuses() if status.can_run}
    if "openvino" in sessions:  # the same library at the weights' own precision
        sessions["openvino_f32"] = RuntimeOptions(backend="openvino", precision="f32")
    backends = list(sessions)
    rounds = 3 if short else 7
    programs = {name: VertebralProgram(VertebralOptions(), options) for name, options in sessions.items()}
    results: dict[str, list[ScreeningResult]] = {name: [] for name in backends}
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    for program in programs.values():
        program.__enter__()
    try:
        for program in programs.values():
            program.analyse(series[0])  # the first run pays for memory and caches
        for turn in range(rounds):
            for name in backends if turn % 2 == 0 else reversed(backends):
                began = time.perf_counter()
                results[name] += [programs[name].analyse(one).result for one in series]
                seconds[name].append((time.perf_counter() - began) / len(series))
    finally:
        for program in programs.values():
            program.__exit__(None, None, None)
    slices = [len(one.instances) for one in series]
    pixels = dcmread(series[0].instances[0].path, stop_before_pixels=True)
    figures: dict[str, object] = {"series": len(series), "slices": slices, "rows": pixels.Rows, "rounds": rounds}
    stages = [name for name, _ in results[backends[0]][0].stage_seconds]
    rows = []
    for name in backends:
        by_stage = {stage: [dict(one.stage_seconds)[stage] for one in results[name]] for stage in stages}
        figures[f"stage_seconds_{name}"] = {stage: spread(values) for stage, values in by_stage.items()}
        figures[f"seconds_per_series_{name}"] = spread(seconds[name])
        figures[f"precisions_{name}"] = [model.precision for model in results[name][0].models]
        rows.append([name, *(f"{median(values):.2f}" for values in by_stage.values()), f"{median(seconds[name]):.2f}"])
    if {"openvino", "onnxruntime"} <= set(backends):
        pairs = zip(seconds["onnxruntime"], seconds["openvino"], strict=True)
        figures["ratio_openvino"] = median(slow / fast for slow, fast in pairs)
    file = keep("stages", figures)
    show(f"Seconds a series ({slices} slices of {pixels.Rows} x {pixels.Columns})", ["session", *stages, "all"], rows)
    print(f"written: {file}")


if __name__ == "__main__":
    main()
