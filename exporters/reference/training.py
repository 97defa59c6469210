"""
Train a reference network from its recipe, and go on where an interrupted training stopped.

The loop is one for all networks; what differs is the lesson: where a batch comes from, what the loss is, and
how held-out patients judge. What is kept and exported is a moving average of the weights.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.reference.augment import draw_patch
from exporters.reference.lesson import Batch, Lesson, normalise
from exporters.reference.networks import MeanOf, build
from exporters.reference.recipe import Recipe
from exporters.reference.spine_cases import read_case
from exporters.reference.vertebra_lesson import vertebra_lesson
from exporters.reference.warm_start import take_weights

Report = Callable[[int, float, float], None]
"""Called with the step, the mean loss since the last call, and seconds a step."""

CLASS_WEIGHTS = (0.8, 1.0, 1.2, 1.5, 2.5, 1.2)  # of the cross entropy: thin tissues count more; our choice
REPORT_EVERY = 25


def train(
    recipe: Recipe, workshop: Path, *, fold: int = 0, samples: Path | None = None, device: str = "cpu",
    threads: int = 0, start: Path | None = None, report: Report | None = None,
) -> nn.Module:  # fmt: skip
    """Train, or go on training, until the recipe's last step.

    Args:
        workshop: holds `cases/` (spine) and what is kept on the way, `checkpoint.pt` and `best.pt`.
        fold: which fifth is held out, where the recipe has folds; each has a folder of its own.
        samples: where the cohort's samples lie (models of vertebrae).
        start: an exported VB-Net of the same shape to begin with, where there is no checkpoint yet.

    Returns:
        the averaged network, in evaluation mode, on the CPU: the one that held-out patients judged best, where the
        recipe has them asked.
    """
    lesson = vertebra_lesson(recipe, samples, fold) if samples else spine_lesson(recipe, workshop)
    workshop = fold_of(workshop, recipe, fold)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed + 1000 * fold)
    network = build(recipe).to(device)
    if start and not (workshop / "checkpoint.pt").exists():
        images = torch.from_numpy(np.concatenate([patch_batch(recipe, workshop, -1 - n)[0] for n in range(4)]))
        take_weights(network, start, images.to(device))
    average = build(recipe).to(device)
    average.load_state_dict(network.state_dict())
    plan = recipe.training
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    first, best = _resume(workshop, network, average, optimiser, device)
    started, losses = time.monotonic(), []
    for step, (images, truth) in zip(range(first, plan.steps), batches(lesson, first), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        network.train()
        image, target = torch.from_numpy(images).to(device), torch.from_numpy(truth).to(device)
        layout = torch.channels_last_3d if image.dim() == 5 else torch.channels_last
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=plan.bfloat16):
            output = network(image.contiguous(memory_format=layout))
        loss = lesson.loss(output.float(), target)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        _follow(average, network, min(plan.average, (step + 1) / (step + 10)))
        losses.append(float(loss.detach()))
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == plan.steps:
            if report:
                report(step + 1, float(np.mean(losses)), (time.monotonic() - started) / len(losses))
            started, losses = time.monotonic(), []
        last = step + 1 == plan.steps
        if lesson.judge and plan.check_every and ((step + 1) % plan.check_every == 0 or last):
            error = lesson.judge(average.eval(), device)
            if error < best:
                best = error
                _write(workshop / "best.pt", {"step": step + 1, "error": error, "average": average.state_dict()})
        if (step + 1) % (8 * REPORT_EVERY) == 0 or last:
            _write(workshop / "checkpoint.pt",
                   {"step": step + 1, "best": best, "network": network.state_dict(), "average": average.state_dict(),
                    "optimiser": optimiser.state_dict()})  # fmt: skip
    return load_average(recipe, workshop)


def fold_of(workshop: Path, recipe: Recipe, fold: int) -> Path:
    """Where a fold's checkpoints lie."""
    return workshop / f"fold_{fold}" if recipe.training.folds > 1 else workshop


def load_average(recipe: Recipe, workshop: Path) -> nn.Module:
    """The averaged network that was judged best, or else of the last checkpoint, in evaluation mode."""
    best = workshop / "best.pt"
    path = best if best.exists() else workshop / "checkpoint.pt"
    network = build(recipe)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    return network.eval()


def load_trained(recipe: Recipe, workshop: Path) -> nn.Module:
    """What is exported: the network, or the mean of the folds'."""
    folds = [load_average(recipe, fold_of(workshop, recipe, fold)) for fold in range(recipe.training.folds)]
    return MeanOf(folds).eval() if len(folds) > 1 else folds[0]


def spine_lesson(recipe: Recipe, workshop: Path) -> Lesson:
    """Tissues of patches."""
    return Lesson(partial(patch_batch, recipe, workshop), partial(loss_of, recipe), None)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Up over the first steps, then down along a cosine."""
    plan = recipe.training
    rise = min(1.0, (step + 1) / max(1.0, min(100.0, 0.1 * plan.steps)))
    fall = 0.5 * (1 + np.cos(np.pi * min(1.0, step / plan.steps)))
    return float(plan.learning_rate * rise * max(0.01, fall))


def loss_of(recipe: Recipe, output: Tensor, target: Tensor) -> Tensor:
    """Dice and cross entropy for tissues.

    Source:
        Dice: Milletari et al., 3DV 2016; its sum with cross entropy: nnU-Net (2021).
    """
    weights = torch.tensor(CLASS_WEIGHTS, device=output.device)
    entropy = functional.cross_entropy(output, target.long(), weights)
    share = output.softmax(dim=1)
    truth = functional.one_hot(target.long(), output.shape[1]).movedim(-1, 1).float()
    both = (share * truth).sum(dim=(0, 2, 3, 4))
    total = share.sum(dim=(0, 2, 3, 4)) + truth.sum(dim=(0, 2, 3, 4))
    present = truth.sum(dim=(0, 2, 3, 4)) > 0
    dice = ((2 * both + 20) / (total + 20))[present][1:] if present[0] else (2 * both + 20) / (total + 20)
    return entropy + (1 - dice).mean() if dice.numel() else entropy


def batches(lesson: Lesson, first: int) -> Iterator[Batch]:
    """Batches of a lesson, one drawn ahead while the last one is learnt from."""
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(lesson.batch, first)
        step = first
        while True:
            batch = coming.result()
            step += 1
            coming = ahead.submit(lesson.batch, step)
            yield batch


def patch_batch(recipe: Recipe, workshop: Path, step: int) -> Batch:
    """Patches for the spine network; the same step, the same patches (once the cache is full)."""
    rng = np.random.default_rng([recipe.seed, 5, abs(step)])
    folders = sorted((workshop / "cases").glob("case_*"))
    low, high = recipe.manifest.hounsfield_window
    images, truth = [], []
    for _ in range(recipe.training.batch):
        hounsfield, tissue = draw_patch(read_case(folders[int(rng.integers(len(folders)))]), recipe.training.patch, rng)
        images.append(normalise(hounsfield, low, high))
        truth.append(tissue)
    return np.stack(images)[:, None], np.stack(truth)


def _follow(average: nn.Module, network: nn.Module, share: float) -> None:
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.mul_(share).add_(new, alpha=1 - share)
            else:
                kept.copy_(new)


def _write(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(state, aside)
    aside.replace(path)


def _resume(
    workshop: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, device: str
) -> tuple[int, float]:
    """Load the checkpoint, if there is one; the step to go on with, and the least error so far."""
    path = workshop / "checkpoint.pt"
    if not path.exists():
        return 0, float("inf")
    state = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), float(state.get("best", float("inf")))
