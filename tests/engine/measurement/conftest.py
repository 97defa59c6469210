"""Simple spines: bodies as drums of known height in known tissue."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.records import SeriesRef, VertebralLevel
from engine.volume import CANONICAL, Geometry, Segmentation, Volume

LEVELS = (VertebralLevel.T12, VertebralLevel.L1, VertebralLevel.L2, VertebralLevel.L3)

SERIES = SeriesRef(
    study_instance_uid="1.2.1",
    series_instance_uid="1.2.2",
    patient_key="0" * 32,
    patient_sex="F",
    patient_age=66,
    study_date="20240115",
    acquisition_date="20240115",
    modality="CT",
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    body_part_examined="ABDOMEN",
    manufacturer="SIEMENS",
    manufacturer_model_name="SOMATOM Force",
    convolution_kernel=("Br40d", "3"),
    slice_thickness=1.0,
    kvp=120.0,
    contrast_bolus_agent=False,
    gantry_detector_tilt=0.0,
    lossy_image_compression=False,
    has_rescale=True,
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    extent_mm=200.0,
    instances=(),
)


@cache
def points_of(geometry: Geometry) -> NDArray[np.float32]:
    """(K, J, I, 3): where voxels lie, mm."""
    index = np.stack(np.indices(geometry.shape), axis=-1).astype(float)
    return geometry.to_patient(index).astype(np.float32)


Heights = tuple[float, float, float]  # anterior, middle, posterior, mm


class Spine:
    """Drums one above the other, 34 mm apart, each with a bone shell and a core."""

    def __init__(
        self,
        heights: Sequence[Heights] = ((27.0, 27.0, 27.0),) * 4,
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        tilt: float = 0.0,
        noise: float = 20.0,
        core: float = 120.0,
    ) -> None:
        size = (164.0, 88.0, 66.0)
        shape = tuple(int(edge / step) for edge, step in zip(size, spacing_mm, strict=True))
        self.geometry = Geometry((shape[0], shape[1], shape[2]), spacing_mm, (-33.0, -44.0, 0.0), CANONICAL)
        self.points = points_of(self.geometry)
        x, y, z = self.points[..., 0], self.points[..., 1], self.points[..., 2]
        labels = np.zeros(shape, dtype=np.uint8)
        for n, height in enumerate(heights, start=1):
            rise = z - (153.0 - 34.0 * n)
            up, back = rise * np.cos(tilt) - y * np.sin(tilt), y * np.cos(tilt) + rise * np.sin(tilt)
            half = np.interp(back, (-9.0, 0.0, 9.0), height) / 2
            labels[(np.hypot(x, back * 1.2) < 20.0) & (np.abs(up) < half)] = n
        self.bodies = Segmentation(self.geometry, labels, LEVELS[: len(heights)])
        self.cores = self._cores()
        self.hounsfield = np.random.default_rng(3).normal(40, noise, shape)
        self.hounsfield[labels > 0] += 260
        self.hounsfield[self.cores.labels > 0] += core - 300

    def _cores(self) -> Segmentation:
        from engine.anatomy.trabecular import trabecular_core

        return trabecular_core(self.bodies, 3.0)

    @property
    def volume(self) -> Volume:
        """The scan."""
        return Volume(self.geometry, np.round(self.hounsfield).astype(np.int16), "1.2.2", ())

    def ball(self, centre_mm: tuple[float, float, float], radius_mm: float) -> NDArray[np.bool_]:
        """(K, J, I): a ball around a point (x, y, z)."""
        return np.asarray(((self.points - np.float32(centre_mm)) ** 2).sum(axis=-1) < radius_mm**2)


@pytest.fixture(scope="session")
def spine() -> type[Spine]:
    return Spine


@pytest.fixture(scope="session")
def series_with() -> Callable[..., SeriesRef]:
    return lambda **changes: replace(SERIES, **changes)
