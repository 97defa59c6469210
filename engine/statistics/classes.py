"""What cases are called against what they are: confusion, and its macro means."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.statistics.discrimination import BinaryTable
from engine.statistics.estimate import Estimate, finite, proportion, same_length


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts by class; macro means leave out classes whose share is one of nothing."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]  # [true class][called class]

    @property
    def count(self) -> int:
        """Cases."""
        return sum(map(sum, self.counts))

    @property
    def accuracy(self) -> float | None:
        """Share that is called right."""
        return sum(row[n] for n, row in enumerate(self.counts)) / self.count if self.count else None

    @property
    def precision(self) -> float | None:
        """Macro mean of the share of a called class that is so."""
        return _mean([self.one(name).positive_predictive_value for name in self.classes])

    @property
    def recall(self) -> float | None:
        """Macro mean of the share of a class that is called so."""
        return _mean([self.one(name).sensitivity for name in self.classes])

    @property
    def specificity(self) -> float | None:
        """Macro mean of the share of the rest that is not called so."""
        return _mean([self.one(name).specificity for name in self.classes])

    @property
    def f1(self) -> float | None:
        """Macro mean of the classes' F1."""
        return _mean([self.one(name).f1 for name in self.classes])

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: agreement beyond chance."""
        counts = np.asarray(self.counts, dtype=float)
        if not counts.sum():
            return None
        chance = float(counts.sum(axis=0) @ counts.sum(axis=1)) / counts.sum() ** 2
        return float((np.trace(counts) / counts.sum() - chance) / (1 - chance)) if chance < 1 else None

    def one(self, name: str) -> BinaryTable:
        """One class against the rest."""
        counts, n = np.asarray(self.counts), self.classes.index(name)
        hits, members, called = int(counts[n, n]), int(counts[n].sum()), int(counts[:, n].sum())
        return BinaryTable(hits, members - hits, called - hits, int(counts.sum()) - members - called + hits)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Cases of one class that were called its neighbour, and how many of them lie near the cut between both."""

    true_class: str
    called_class: str
    cut: float | None  # None: classes that don't touch; a jump
    count: int
    near: int

    @property
    def share(self) -> Estimate | None:
        """Share that lies near, with its interval."""
        return proportion(self.near, self.count)


def confusion(truth: Sequence[str], called: Sequence[str], classes: Sequence[str]) -> Confusion:
    """Count cases by class.

    Raises:
        ValueError: a case has a class that is not among the classes.
    """
    same_length(truth, called)
    index = {name: n for n, name in enumerate(classes)}
    if unknown := sorted({*truth, *called} - set(index)):
        raise ValueError(f"unknown classes: {unknown}")
    counts = np.zeros((len(index), len(index)), dtype=int)
    for true, said in zip(truth, called, strict=True):
        counts[index[true], index[said]] += 1
    return Confusion(tuple(classes), tuple(tuple(int(n) for n in row) for row in counts))


def mismatches(
    values: Sequence[float],
    called: Sequence[str],
    classes: Sequence[str],
    cuts: Sequence[float],
    width: float,
    truth: Sequence[str],
) -> tuple[Mismatch, ...]:
    """Every way to be called wrong that occurs, and how often the true value lies within `width` of the cut.

    Args:
        values: true values, from which `truth` was made.
        classes: in the order of their values, either way.
        cuts: between one class and the next, in the order of `classes`.
    """
    same_length(values, called, truth)
    if len(cuts) != len(classes) - 1:
        raise ValueError("there is one cut between each class and the next")
    true_values, table = finite(values), confusion(truth, called, classes)
    found = []
    for n, true in enumerate(table.classes):
        for m, said in enumerate(table.classes):
            if n == m or not table.counts[n][m]:
                continue
            cut = cuts[min(n, m)] if abs(n - m) == 1 else None
            own = [v for v, t, c in zip(true_values, truth, called, strict=True) if (t, c) == (true, said)]
            near = sum(bool(abs(value - cut) <= width) for value in own) if cut is not None else 0
            found.append(Mismatch(true, said, cut, len(own), near))
    return tuple(found)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
