"""
Train a reference network from its recipe, and go on where an interrupted training stopped.

The loop is one for both networks; what differs is where a batch comes from and what the loss is. What is
kept and exported is a moving average of the weights.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from exporters.reference.augment import draw_patch
from exporters.reference.density_crops import read_crops
from exporters.reference.networks import build
from exporters.reference.recipe import Recipe
from exporters.reference.spine_cases import read_case
from exporters.reference.warm_start import take_weights

Batch = tuple[NDArray[np.float32], NDArray[np.generic]]
Report = Callable[[int, float, float], None]
"""Called with the step, the mean loss since the last call, and seconds a step."""

CLASS_WEIGHTS = (0.8, 1.0, 1.2, 1.5, 2.0, 1.2)  # of the cross entropy: thin tissues count more; our choice
REPORT_EVERY = 25


def train(
    recipe: Recipe, workshop: Path, *, device: str = "cpu", threads: int = 0, start: Path | None = None,
    report: Report | None = None,
) -> nn.Module:  # fmt: skip
    """Train, or go on training, until the recipe's last step.

    Args:
        workshop: holds `cases/` (spine) or `crops/` (density) and `checkpoint.pt`.
        start: an exported VB-Net of the same shape to begin with, where there is no checkpoint yet.

    Returns:
        the averaged network, in evaluation mode, on the CPU.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    network = build(recipe).to(device)
    if start and not (workshop / "checkpoint.pt").exists():
        images = torch.from_numpy(np.concatenate([patch_batch(recipe, workshop, -1 - n)[0] for n in range(4)]))
        take_weights(network, start, images.to(device))
    average = build(recipe).to(device)
    average.load_state_dict(network.state_dict())
    plan = recipe.training
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    first = _resume(workshop, network, average, optimiser, device)
    started, losses = time.monotonic(), []
    for step, (images, truth) in zip(range(first, plan.steps), batches(recipe, workshop, first), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, step)
        network.train()
        image, target = torch.from_numpy(images).to(device), torch.from_numpy(truth).to(device)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=plan.bfloat16):
            output = network(image.contiguous(memory_format=torch.channels_last_3d))
        loss = loss_of(recipe, output.float(), target)
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
        if (step + 1) % (8 * REPORT_EVERY) == 0 or step + 1 == plan.steps:
            _keep(workshop, step + 1, network, average, optimiser)
    return average.to("cpu").eval()


def load_average(recipe: Recipe, workshop: Path) -> nn.Module:
    """The averaged network of the last checkpoint, in evaluation mode."""
    state = torch.load(workshop / "checkpoint.pt", map_location="cpu", weights_only=True)
    network = build(recipe)
    network.load_state_dict(state["average"])
    return network.eval()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Up over the first steps, then down along a cosine."""
    plan = recipe.training
    rise = min(1.0, (step + 1) / max(1.0, min(100.0, 0.1 * plan.steps)))
    fall = 0.5 * (1 + np.cos(np.pi * min(1.0, step / plan.steps)))
    return float(plan.learning_rate * rise * max(0.01, fall))


def loss_of(recipe: Recipe, output: Tensor, target: Tensor) -> Tensor:
    """Dice and cross entropy for tissues, squared error for density.

    Source:
        Dice: Milletari et al., 3DV 2016; its sum with cross entropy: nnU-Net (2021); squared error: Peng 2023.
    """
    if recipe.task == "vertebral_bmd":
        return functional.mse_loss(output, target)
    weights = torch.tensor(CLASS_WEIGHTS, device=output.device)
    entropy = functional.cross_entropy(output, target.long(), weights)
    share = output.softmax(dim=1)
    truth = functional.one_hot(target.long(), output.shape[1]).movedim(-1, 1).float()
    both = (share * truth).sum(dim=(0, 2, 3, 4))
    total = share.sum(dim=(0, 2, 3, 4)) + truth.sum(dim=(0, 2, 3, 4))
    present = truth.sum(dim=(0, 2, 3, 4)) > 0
    dice = ((2 * both + 20) / (total + 20))[present][1:] if present[0] else (2 * both + 20) / (total + 20)
    return entropy + (1 - dice).mean() if dice.numel() else entropy


def batches(recipe: Recipe, workshop: Path, first: int) -> Iterator[Batch]:
    """Batches from the cache, one drawn ahead while the last one is learnt from."""
    source = crop_batch if recipe.task == "vertebral_bmd" else patch_batch
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(source, recipe, workshop, first)
        step = first
        while True:
            batch = coming.result()
            step += 1
            coming = ahead.submit(source, recipe, workshop, step)
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


def crop_batch(recipe: Recipe, workshop: Path, step: int) -> Batch:
    """Crops for the density network, with the density scaled as the manifest says."""
    rng = np.random.default_rng([recipe.seed, 6, step])
    crops, density = read_crops(workshop / "crops")
    low, high = recipe.manifest.hounsfield_window
    shape = recipe.manifest.input_shape
    images, values = [], []
    for n in rng.integers(len(density), size=recipe.training.batch):
        crop = crops[n].astype(np.float32)
        spare = [have - want for have, want in zip(crop.shape, shape, strict=True)]
        start = [int(rng.integers(s + 1)) for s in spare]
        crop = crop[tuple(slice(a, a + want) for a, want in zip(start, shape, strict=True))]
        if rng.random() < 0.5:
            crop = crop[:, :, ::-1]
        crop = crop + np.float32(rng.uniform(0, 15)) * rng.standard_normal(crop.shape, dtype=np.float32)
        images.append(normalise(crop, low, high))
        values.append((density[n] - recipe.manifest.output_offset) / recipe.manifest.output_scale)
    return np.stack(images)[:, None], np.asarray(values, dtype=np.float32)[:, None]


def normalise(hounsfield: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """HU to -1..1, as the manifest's own method does."""
    return np.asarray((np.clip(hounsfield, low, high) - low) * (2.0 / (high - low)) - 1.0, dtype=np.float32)


def _follow(average: nn.Module, network: nn.Module, share: float) -> None:
    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.mul_(share).add_(new, alpha=1 - share)
            else:
                kept.copy_(new)


def _keep(workshop: Path, step: int, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    workshop.mkdir(parents=True, exist_ok=True)
    aside = workshop / f".checkpoint.{os.getpid()}"
    torch.save({"step": step, "network": network.state_dict(), "average": average.state_dict(),
                "optimiser": optimiser.state_dict()}, aside)  # fmt: skip
    aside.replace(workshop / "checkpoint.pt")


def _resume(
    workshop: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, device: str
) -> int:
    """Load the checkpoint, if there is one; the step to go on with."""
    path = workshop / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
