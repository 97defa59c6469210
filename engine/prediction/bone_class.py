"""How likely each class of bone is, as a network tells it from the crop that the density is read from."""

from collections.abc import Mapping, Sequence

import numpy as np

from engine.records import BoneFinding, ClassProbability, QualityFlag, Reason, VertebralLevel
from engine.runtime.manifest import ModelManifest
from engine.runtime.sharing import Asking
from engine.volume import VertebraCrop

Probabilities = tuple[ClassProbability, ...]
Classes = tuple[Probabilities, tuple[QualityFlag, ...]]
"""Probabilities, one for each of the manifest's labels and level; a flag for each level whose answer is not finite,
which has none."""


def predicting_classes(crops: Sequence[VertebraCrop], manifest: ModelManifest, model: str) -> Asking[Classes]:
    """Probabilities of each crop's level.

    Args:
        crops: on the grid that the manifest states.
        model: "name@version".
    """
    if not crops:
        return (), ()
    logits = yield np.stack([manifest.normalise(crop.hounsfield)[None] for crop in crops])
    found: list[ClassProbability] = []
    flags: list[QualityFlag] = []
    for crop, answer in zip(crops, np.asarray(logits, dtype=np.float64), strict=True):
        if not np.isfinite(answer).all():
            detail = "the classifier's answer is not finite, its probabilities are not given"
            flags.append(QualityFlag(Reason.ANSWER_NOT_FINITE, crop.level, withholds=False, detail=detail))
            continue
        powers = np.exp(answer - answer.max())
        shares = powers / powers.sum()
        found += [
            ClassProbability(BoneFinding(label), float(share), crop.level, model)
            for label, share in zip(manifest.labels, shares, strict=True)
        ]
    return tuple(found), tuple(flags)


def patient_classes(of_levels: Probabilities, levels: Sequence[VertebralLevel]) -> Probabilities:
    """The patient's probabilities: the mean of some levels'; none where a level has none."""
    by_level: Mapping[VertebralLevel | None, dict[BoneFinding, ClassProbability]] = {
        level: {one.finding: one for one in of_levels if one.finding_site == level} for level in levels
    }
    if not levels or not all(by_level.values()):
        return ()
    first = next(iter(by_level.values()))
    return tuple(
        ClassProbability(finding, float(np.mean([some[finding].value for some in by_level.values()])), None, one.model)
        for finding, one in first.items()
    )
