"""
The workshop's command line: phantoms, training, export, evaluation, and models of one's own.

`python -m exporters make configs/models/spine.toml` goes the whole way from a recipe to a package.
"""

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from engine.errors import DeploymentError
from engine.records import VertebralLevel
from engine.runtime.manifest import PACKAGED_MODELS, open_package
from exporters.reference.recipe import Recipe, read_recipe

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "docs" / "models"
PREDICTIONS = ROOT / "bench" / "results" / "predictions"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

RecipeName = Annotated[str, typer.Argument(help="A recipe's path, or its name in configs/models (spine, density).")]
Workshop = Annotated[Path, typer.Option(help="Where cases, crops and checkpoints lie.")]
Models = Annotated[Path, typer.Option(help="The model folder that packages go into.")]
Device = Annotated[str, typer.Option(help="What torch computes on: cpu, cuda, ...")]
Start = Annotated[Path | None, typer.Option(help="An exported VB-Net of the recipe's shape to begin with.")]
Threads = Annotated[int, typer.Option(help="Threads of one computation; 0: all.")]
Processes = Annotated[int, typer.Option(help="Processes that draw phantoms; 0: as many as there are processors.")]


class Contrast(StrEnum):
    """When a phantom is scanned after iodine."""

    NONE = "none"
    ARTERIAL = "arterial"
    VENOUS = "venous"


HERE = Path(".cache/workshop")


@app.command()
def make(
    recipe: RecipeName, workshop: Workshop = HERE, models: Models = PACKAGED_MODELS, device: Device = "cpu",
    threads: Threads = 0, processes: Processes = 0, start: Start = None,
    cards: Annotated[Path, typer.Option(help="Cards' folder.")] = CARDS,
) -> None:  # fmt: skip
    """Remake a model from its recipe: draw, train, export, hold against the network, evaluate."""
    plan = find_recipe(recipe)
    _train(plan, workshop, device, threads, processes, start)
    _export(plan, workshop, models)
    _evaluate(plan, workshop, models, threads, processes, cards)


@app.command()
def train(
    recipe: RecipeName,
    workshop: Workshop = HERE,
    device: Device = "cpu",
    threads: Threads = 0,
    processes: Processes = 0,
    start: Start = None,
) -> None:
    """Draw what is missing and train; goes on where an interrupted training stopped."""
    _train(find_recipe(recipe), workshop, device, threads, processes, start)


@app.command()
def export(recipe: RecipeName, workshop: Workshop = HERE, models: Models = PACKAGED_MODELS) -> None:
    """Export the last checkpoint as a model package; refused when it strays from the network."""
    _export(find_recipe(recipe), workshop, models)


@app.command()
def evaluate(
    recipe: RecipeName, workshop: Workshop = HERE, models: Models = PACKAGED_MODELS, threads: Threads = 0,
    processes: Processes = 0, cards: Annotated[Path, typer.Option(help="Cards' folder.")] = CARDS,
) -> None:  # fmt: skip
    """Measure a packaged model on unseen phantoms, write its card's figures, and keep what it said of each vertebra."""
    _evaluate(find_recipe(recipe), workshop, models, threads, processes, cards)


@app.command()
def bodies(
    count: Annotated[int, typer.Argument(help="Scans, each of another unseen phantom.")] = 60,
    recipe: RecipeName = "spine", models: Models = PACKAGED_MODELS, threads: Threads = 0,
    folder: Annotated[Path, typer.Option(help="Where bodies.csv.gz and bodies.json go.")] = PREDICTIONS,
    cache: Annotated[Path | None, typer.Option(help="Keeps the scans, for the next run.")] = None,
) -> None:  # fmt: skip
    """Segment and name whole scans of unseen phantoms; one row a true vertebral body."""
    from exporters.spine_predictions import write_predictions

    plan = find_recipe(recipe)
    with _progress() as progress:
        task = progress.add_task("scans", total=count, note="")

        def scanned(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        package = open_package(models / plan.name)
        found = write_predictions(plan, package, folder, count, threads=threads, cache=cache, told=scanned)
    for name, value in found.items():
        console.print(f"{name} {value}")


@app.command()
def adopt(
    weights: Annotated[Path, typer.Argument(exists=True, help="ONNX, torch checkpoint, or a MONAI bundle's folder.")],
    manifest: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Its manifest; the checksum is added.")],
    models: Annotated[Path, typer.Option(help="Your model folder, as named in the node's configuration.")],
    network: Annotated[Path | None, typer.Option(help="A checkpoint's network: a recipe, or MONAI's JSON.")] = None,
) -> None:  # fmt: skip
    """Check a model of your own, export it where it is no ONNX yet, run it once, and put it into a model folder."""
    from exporters.packages import adopt as take

    package = take(weights, manifest, models, network)
    console.print(
        f"{package.manifest.name}@{package.manifest.version} serves {package.manifest.task}: {package.weights.parent}"
    )


@app.command()
def lower(
    package: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A model package's folder.")],
    precision: Annotated[str, typer.Argument(help="bf16, f16 or int8.")],
    images: Annotated[Path | None, typer.Option(help="Normalised inputs (N, 1, K, J, I), .npy; else phantoms.")] = None,
    count: Annotated[int, typer.Option(help="Of phantoms.")] = 4,
    bound: Annotated[float | None, typer.Option(help="How far answers may stray; else the usual.")] = None,
) -> None:  # fmt: skip
    """Let a lower precision into a package, if the answers stay within a bound: Dice, mg/cm3, probability."""
    import numpy as np

    from exporters.lower import add_variant, phantom_images

    given = np.load(images, allow_pickle=False) if images else phantom_images(open_package(package).manifest, count)
    made = add_variant(package, precision, given, bound).manifest
    parity = next(variant.parity for variant in made.variants if variant.precision == precision)
    console.print(f"{made.name}@{made.version} in {precision}: {parity.metric} {parity.measured:.3g} "
                  f"(at most {parity.bound:g})", highlight=False)  # fmt: skip


@app.command()
def plan(
    models: Annotated[Path, typer.Option(help="The model folder.")] = PACKAGED_MODELS,
    plans: Annotated[str, typer.Option(help="Where plans are kept; empty: the node's own folder.")] = "",
    batch: Annotated[int, typer.Option(help="Inputs in one run; 0: what fills the device.")] = 0,
) -> None:
    """Build TensorRT's plans ahead of the night; tells first what TensorRT's parser would refuse."""
    from engine.runtime.backends import RuntimeOptions, open_session
    from exporters.tensorrt_rules import refused

    for path in sorted(models.glob("*/manifest.toml")):
        package = open_package(path.parent)
        for word in refused(package.weights):
            console.print(f"{package.manifest.name}: TensorRT takes no {word}", highlight=False)
        with open_session(package, RuntimeOptions(backend="tensorrt", plans=plans, batch=batch)) as session:
            console.print(f"{session.model} in {session.model.precision} on {session.model.backend}", highlight=False)


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where the DICOM files go.")],
    seed: Annotated[int, typer.Option(help="Of the patient.")] = 1,
    machine: Annotated[str, typer.Option("--scanner", help="A scanner dialect's key.")] = "siemens_force",
    top: Annotated[VertebralLevel, typer.Option(help="Uppermost level in view.")] = VertebralLevel.T10,
    bottom: Annotated[VertebralLevel, typer.Option(help="Lowest level in view.")] = VertebralLevel.L5,
    pixels: Annotated[int, typer.Option(help="Rows and columns.")] = 512,
    pixel_mm: Annotated[float, typer.Option(help="Distance of pixels, mm.")] = 0.8,
    slice_mm: Annotated[float, typer.Option(help="Distance of slices, mm.")] = 1.5,
    contrast: Annotated[Contrast, typer.Option(help="Phase of an iodine injection.")] = Contrast.NONE,
) -> None:
    """Write a phantom's CT as a DICOM series, and print what is known about it."""
    from exporters.reference.phantom_series import write_series
    from exporters.reference.scanner import scanner
    from exporters.reference.spine_phantom import draw_phantom, field_of_view

    patient = draw_phantom(seed)
    geometry = field_of_view(
        patient, top, bottom, pixels=pixels, pixel_mm=pixel_mm, slice_mm=slice_mm, offset_mm=(0.0, -45.0)
    )
    truth = write_series(
        folder, patient, scanner(machine), geometry, contrast=None if contrast is Contrast.NONE else contrast
    )
    console.print(f"{len(truth.paths)} slices in {folder}; {patient.sex}, {patient.age} years")
    for level, density in truth.vbmd.items():
        console.print(f"  {level}: {density:.1f} mg/cm3")


def find_recipe(name: str) -> Recipe:
    """A recipe by its path, or by its name in configs/models."""
    path = Path(name)
    return read_recipe(path if path.suffix == ".toml" else ROOT / "configs" / "models" / f"{name}.toml")


def main() -> None:
    """Run the command line; what a person must mend ends in one line and exit code 2."""
    try:
        app()
    except DeploymentError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        raise SystemExit(2) from None


def _train(plan: Recipe, workshop: Path, device: str, threads: int, processes: int, start: Path | None) -> None:
    from exporters.reference.training import train as learn
    from exporters.workshop import bench_of, prepare, samples_of

    bench = bench_of(workshop, plan)
    with _progress() as progress:
        drawing = progress.add_task("phantoms", total=plan.data.cases, note="")

        def drawn(done: int, total: int) -> None:
            progress.update(drawing, completed=done, total=total)

        prepare(plan, bench, processes=processes or os.cpu_count() or 1, progress=drawn)
        samples = samples_of(bench, plan) if plan.data.cohort else None
        for fold in range(plan.training.folds):
            name = "training" if plan.training.folds == 1 else f"fold {fold + 1} of {plan.training.folds}"
            learning = progress.add_task(name, total=plan.training.steps, note="")

            def learnt(step: int, loss: float, seconds: float, task: TaskID = learning) -> None:
                progress.update(task, completed=step, note=f"loss {loss:.4f}, {seconds:.2f} s a step")

            learn(plan, bench, fold=fold, samples=samples, device=device, threads=threads, start=start, report=learnt)


def _export(plan: Recipe, workshop: Path, models: Path) -> None:
    from exporters.workshop import bench_of, package

    made = package(plan, bench_of(workshop, plan), models)
    parity = made.manifest.parity
    size = made.weights.stat().st_size / 2**20
    strays = f"{parity.metric} {parity.measured:.3g} (at most {parity.bound:g})"
    console.print(f"{made.manifest.name}@{made.manifest.version}: {size:.1f} MiB, {strays}, {made.weights.parent}")


def _evaluate(plan: Recipe, workshop: Path, models: Path, threads: int, processes: int, cards: Path) -> None:
    from exporters.evaluation import evaluate as measure
    from exporters.evaluation import table, write_figures
    from exporters.vertebra_evaluation import evaluate_vertebrae, vertebra_table
    from exporters.workshop import bench_of

    started, package = time.monotonic(), open_package(models / plan.name)
    figures: dict[str, Any]
    if plan.data.cohort:
        figures = evaluate_vertebrae(plan, package, bench_of(workshop, plan), PREDICTIONS, threads=threads,
                                     processes=processes or os.cpu_count() or 1)  # fmt: skip
        told = vertebra_table(figures)
    else:
        figures = measure(plan, package, threads=threads)
        told = table(figures)
    card = write_figures(figures, cards, told)
    console.print(told, highlight=False)
    console.print(f"written to {card.name} in {time.monotonic() - started:.0f} s")


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                    TextColumn("{task.fields[note]}"), console=console)  # fmt: skip
