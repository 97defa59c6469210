"""
Scans that are kept in a folder for the next run: drawing one takes longer than all that is asked of it.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.volume import Geometry
from exporters.reference.scanner import Scanner, scan
from exporters.reference.spine_phantom import SpinePhantom


def kept_scan(
    folder: Path | None, name: str, phantom: SpinePhantom, machine: Scanner, geometry: Geometry, *, seed: int,
    contrast: str | None,
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:  # fmt: skip
    """A scan from the folder, or scanned and kept there.

    Args:
        folder: None keeps nothing.
        name: of the file; what was scanned is told by a digest behind it, so another patient, machine, field of view
            or noise under the same name is another file.
        seed: of the noise.

    Returns:
        (K, J, I) HU, and the truth's bodies on the same grid, n: levels[n - 1] of the phantom.
    """
    drawn = hashlib.sha256(repr((phantom, machine, geometry, seed, contrast)).encode()).hexdigest()[:16]
    file = None if folder is None else folder / f"{name}_{drawn}.npz"
    if file is not None and file.exists():
        with np.load(file) as kept:
            return kept["hounsfield"], kept["bodies"]
    hounsfield, truth = scan(phantom, machine, geometry, seed=seed, contrast=contrast)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{os.getpid()}.{file.name}")
        np.savez_compressed(aside, hounsfield=hounsfield, bodies=truth.bodies)
        aside.rename(file)
    return hounsfield, truth.bodies
