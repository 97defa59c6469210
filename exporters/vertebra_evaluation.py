"""
How good the models of vertebrae are, on the patients of a paper's cohort that no training saw.

Vertebrae are cut around their true bodies, so that these figures are the networks' own; what the spine
network adds to the error is measured end to end elsewhere. Patients are means of their vertebrae, as in the papers.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.records import VertebralLevel
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import ModelPackage
from engine.statistics.agreement import bland_altman, regression_table
from engine.statistics.discrimination import macro_auc
from exporters.predictions import Row, keep_rows
from exporters.reference.cohorts import Patient, Split
from exporters.reference.recipe import Recipe
from exporters.reference.scanner import UNSEEN, UNSEEN_KERNEL, scanner
from exporters.reference.vertebra_samples import Samples, read_samples, write_samples
from exporters.workshop import samples_of

SAID = {"vertebral_bmd": ("vbmd",), "areal_bmd": ("abmd",), "bone_score": ("tbs",)}
PROBABILITIES = ("p_normal", "p_osteopenia", "p_osteoporosis")
BATCH = 16


def evaluate_vertebrae(
    recipe: Recipe, package: ModelPackage, bench: Path, predictions: Path, *, threads: int = 0, processes: int = 1
) -> dict[str, Any]:
    """Run a packaged model over its cohort, keep a row a vertebra, and tell how far it is from the truth.

    Args:
        bench: the recipe's folder; patients that were not scanned for training are scanned now.
        predictions: the folder of kept rows.
    """
    from exporters.reference.vertebra_lesson import cohort_of, images

    patients = {one.number: one for one in cohort_of(recipe) if _is_told(one)}
    samples = _samples(recipe, bench, list(patients.values()), processes)
    with open_session(package, RuntimeOptions(threads=threads)) as session:
        parts = []
        for n in range(0, len(samples.patient), BATCH):
            chosen = np.zeros(len(samples.patient), dtype=bool)
            chosen[n : n + BATCH] = True
            parts.append(session.infer(images(recipe, samples.of(chosen))))
        answers, backend = np.concatenate(parts), session.model.backend
    rows = [_row(recipe, patients[int(samples.patient[n])], samples, n, answers[n]) for n in range(len(answers))]
    manifest = package.manifest
    model = f"{manifest.name}@{manifest.version}"
    about: dict[str, dict[str, Any]] = {
        "models": {model: manifest.sha256},
        "seeds": {
            recipe.data.cohort: {"first_phantom": recipe.data.first_seed, "patients": recipe.data.cases},
            model: {"training": recipe.seed},
        },
    }
    keep_rows(predictions, rows, about)
    return {
        "model": manifest.name, "version": manifest.version, "sha256": manifest.sha256, "backend": backend,
        "cohort": recipe.data.cohort, "first_seed": recipe.data.first_seed, "patients": len(patients),
        "groups": {name: one for name, wanted in _groups(recipe).items() if (one := _figures(recipe, rows, wanted))},
    }  # fmt: skip


def vertebra_table(figures: dict[str, Any]) -> str:
    """Figures as a Markdown table."""
    weights = f"version {figures['version']}, weights `{figures['sha256'][:12]}`, {figures['backend']}"
    about = (
        f"Cohort `{figures['cohort']}`: {figures['patients']} patients, phantoms from seed {figures['first_seed']}, "
    )
    about += f"{weights}."
    groups = figures["groups"]
    names = list(next(iter(groups.values())))
    head = [
        "| patients | " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    lines = [f"| {group} | " + " | ".join(str(one[name]) for name in names) + " |" for group, one in groups.items()]
    return "\n".join([about, "", *head, *lines])


def _is_told(patient: Patient) -> bool:
    """Peng's tables have a row for the training too; Yoshida's only one for the test."""
    return patient.cohort == "peng" or patient.split in (Split.TEST, Split.INDEPENDENT)


def _samples(recipe: Recipe, bench: Path, patients: list[Patient], processes: int) -> Samples:
    folder, plan = samples_of(bench, recipe), recipe.manifest
    draw = partial(write_samples, folder, shape=plan.shape, spacing_mm=plan.spacing_mm, cut=plan.cut,
                   window=plan.hounsfield_window)  # fmt: skip
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(draw, patients, chunksize=4))
    samples = read_samples(folder)
    return samples.of(np.isin(samples.patient, [one.number for one in patients]))


def _row(recipe: Recipe, patient: Patient, samples: Samples, n: int, answer: NDArray[np.float32]) -> Row:
    machine = scanner(patient.scanner)
    row: Row = {
        "cohort": patient.cohort, "patient": patient.number, "split": str(patient.split), "batch": patient.batch or "",
        "scanner": patient.scanner, "manufacturer": machine.manufacturer, "kernel": machine.kernel[0],
        "unseen": int(patient.split is Split.INDEPENDENT), "sex": patient.sex, "age": patient.age,
        "body_part": patient.body_part, "level": str(list(VertebralLevel)[int(samples.level[n])]),
        "fold": patient.fold if patient.fold >= 0 else "",
    }  # fmt: skip
    row |= {name: float(values[n]) for name, values in samples.truth.items()}
    if recipe.task == "vertebral_class":
        powers = np.exp(answer.astype(float) - float(answer.max()))
        said = dict(zip(recipe.manifest.labels, (powers / powers.sum()).tolist(), strict=True))
        return row | {f"p_{name}": value for name, value in said.items()}
    (name,) = SAID[recipe.task]
    value = float(answer[0]) * recipe.manifest.output_scale + recipe.manifest.output_offset
    return row | {f"{name}_predicted": value}


def _groups(recipe: Recipe) -> dict[str, Callable[[Row], bool]]:
    groups: dict[str, Callable[[Row], bool]] = {str(split): partial(_has, "split", str(split)) for split in Split}
    if recipe.data.cohort == "peng":
        groups |= {f"batch {n}": partial(_has, "batch", n) for n in (4, 5, 6)}
    else:
        groups |= {f"machine never seen: {key}": partial(_has, "scanner", key) for key in UNSEEN}
        groups[f"kernel never seen: {UNSEEN_KERNEL}"] = partial(_has, "scanner", UNSEEN_KERNEL)
    return groups


def _has(name: str, value: object, row: Row) -> bool:
    return bool(row[name] == value)


def _figures(recipe: Recipe, rows: list[Row], wanted: Callable[[Row], bool]) -> dict[str, Any]:
    """Figures of some patients; none where there are none."""
    some = [row for row in rows if wanted(row)]
    numbers = sorted({row["patient"] for row in some})
    if len(numbers) < 4:
        return {}

    def patients(name: str) -> NDArray[np.float64]:
        return np.array([np.mean([row[name] for row in some if row["patient"] == number]) for number in numbers])

    if recipe.task == "vertebral_class":
        from exporters.reference.vertebra_lesson import classes

        truth = classes(patients("vbmd"))
        table = np.stack([patients(name) for name in PROBABILITIES], axis=1)
        area = macro_auc(table, truth.tolist())
        right = float((table.argmax(axis=1) == truth).mean())
        return {"count": len(numbers), "macro_AUC": str(area or "-"), "accuracy": _round(right, 3)}
    (name,) = SAID[recipe.task]
    found = regression_table(patients(f"{name}_predicted"), patients(name))
    single = regression_table([row[f"{name}_predicted"] for row in some], [row[name] for row in some])
    limits = bland_altman(patients(f"{name}_predicted"), patients(name))
    by_hu = regression_table([row["hu_roi"] for row in some], [row[name] for row in some])
    if not (found and single and limits and by_hu and found.r and single.r and by_hu.r):
        return {}
    digits = 2 if name == "vbmd" else 3
    return {
        "count": len(numbers), "vertebrae": len(some), "MAE": _round(found.mae, digits),
        "RMSE": _round(found.rmse, digits), "bias": _round(limits.bias.value, digits),
        "limits": f"{limits.lower_limit.value:.{digits}f} .. {limits.upper_limit.value:.{digits}f}",
        "r": _round(found.r.value, 4), "MAE_a_vertebra": _round(single.mae, digits),
        "r_a_vertebra": _round(single.r.value, 4), "r_of_HU_alone": _round(by_hu.r.value, 4),
    }  # fmt: skip


def _round(value: float, digits: int) -> float:
    return round(float(value), digits)
