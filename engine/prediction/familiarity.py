"""
Whether a crop is like those that a network was trained on.

A network answers whatever it is shown. A few numbers of the crop as it reads it (density, spread, grain, what is as
dark as air or as bright as metal) are held against the training's own, which stand in the manifest.
"""

import numpy as np
from numpy.typing import NDArray

from engine.runtime.manifest import TrainingStatistics

FLOOR = 1e-3  # under logarithms: less grain or spread than this is none
BEYOND = 0.005  # of the training's crops lie farther out than the limit, before the margin; our choice
MARGIN = 1.5  # by which the limit lies beyond that; our choice, as another machine is not yet another world
EDGE = 0.99  # of the window's -1..1: what lies beyond was clipped


def features(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """(6,) of a normalised crop (K, J, I): of its inner half mean, spread and grain; of all of it mean, dark and bright
    share.
    """
    inner = image[tuple(slice(n // 4, n - n // 4) for n in image.shape)].astype(np.float64)
    grain = np.mean([np.abs(np.diff(inner, axis=axis)).mean() for axis in (1, 2)])
    return np.array([
        inner.mean(), np.log(inner.std() + FLOOR), np.log(grain + FLOOR), image.mean(dtype=np.float64),
        np.mean(image <= -EDGE), np.sqrt(np.mean(image >= EDGE)),
    ])  # fmt: skip


def strangeness(image: NDArray[np.float32], training: TrainingStatistics) -> float:
    """How many standard deviations of the training's crops away this one lies (Mahalanobis 1936)."""
    away = features(image) - np.asarray(training.mean)
    return float(np.sqrt(max(0.0, away @ np.reshape(training.inverse_covariance, (len(away), -1)) @ away)))


def statistics_of(images: NDArray[np.float32]) -> TrainingStatistics:
    """What a training's crops (N, K, J, I) are like."""
    found = np.stack([features(image) for image in images])
    inverse = np.linalg.inv(np.cov(found, rowvar=False) + 1e-9 * np.eye(found.shape[1]))
    plain = TrainingStatistics(tuple(found.mean(axis=0).tolist()), tuple(inverse.ravel().tolist()), 0.0)
    far = float(np.quantile([strangeness(image, plain) for image in images], 1 - BEYOND))
    return TrainingStatistics(plain.mean, plain.inverse_covariance, MARGIN * far)
