"""Rules about the bodies' outlines: cut, compressed, in pieces, too large, in a bent row."""

from collections.abc import Mapping

import numpy as np
import scipy  # its parts load at first use

from engine.measurement.heights import Heights
from engine.measurement.limits import QualityOptions
from engine.records import QualityFlag, Reason, VertebralLevel
from engine.volume import Box, Segmentation, places

SURE_STEPS = 1.2  # slices that a difference of heights must exceed; our choice: both ends are told to half a slice
LUMBAR = frozenset(level for level in VertebralLevel if level[0] == "L")


def field_of_view(level: VertebralLevel, box: Box, bodies: Segmentation, options: QualityOptions) -> list[QualityFlag]:
    """A body that the images cut, or may cut."""
    ends = cut_ends(box, bodies, options)
    detail = f"touches the first or last {' and '.join(ends)}"
    return [QualityFlag(Reason.FIELD_OF_VIEW, level, withholds=True, detail=detail)] if ends else []


def cut_ends(box: Box, bodies: Segmentation, options: QualityOptions) -> list[str]:
    """Along which axes a body reaches the border of the volume, or comes so near that more may lie beyond.

    Between slices a network's outline may end early; within a slice it does not.
    """
    geometry = bodies.geometry
    margin = (max(0, int(np.ceil(options.edge_mm / geometry.spacing_mm[0] - 1e-6)) - 1), 0, 0)
    return [
        name
        for part, size, near, name in zip(box, geometry.shape, margin, ("slice", "row", "column"), strict=True)
        if part.start <= near or part.stop >= size - near
    ]


def compression(
    level: VertebralLevel, n: int, heights: Mapping[int, Heights], options: QualityOptions
) -> list[QualityFlag]:
    """Lower in front or in the middle than at the back, or at the back than its neighbours; by more than a slice.

    Source:
        Genant 1993: wedge, biconcave and crush deformities. The back is the reference, as spurs heighten a front.
    """
    own = heights.get(n)
    if own is None:
        return []
    around = [heights[m].posterior for m in (n - 1, n + 1) if m in heights]
    usual = float(np.mean(around)) if around else own.posterior
    for low, high, what in (
        (min(own.anterior, own.middle), own.posterior, "of its posterior height"),
        (own.posterior, usual, "of its neighbours' posterior height"),
    ):
        if low < options.height_ratio * high and high - low > SURE_STEPS * own.step_mm:
            detail = (
                f"anterior {own.anterior:.0f}, middle {own.middle:.0f}, posterior {own.posterior:.0f} mm: "
                f"{low / high:.0%} {what}"
            )
            return [QualityFlag(Reason.COMPRESSION, level, withholds=True, detail=detail)]
    return []


def implausible(
    level: VertebralLevel, n: int, box: Box, cut: bool, bodies: Segmentation, options: QualityOptions
) -> list[QualityFlag]:
    """A lumbar body of a size that none has, or any body in pieces."""
    own = bodies.labels[box] == n
    cm3 = float(np.count_nonzero(own)) * bodies.geometry.voxel_volume_mm3 / 1000
    low, high = options.lumbar_cm3
    if level in LUMBAR and (cm3 > high or (cm3 < low and not cut)):
        return [_implausible(level, f"a body of {cm3:.0f} cm3")]
    pieces, count = scipy.ndimage.label(own, np.ones((3, 3, 3)))
    if count > 1:
        second = float(np.sort(np.bincount(pieces.ravel())[1:])[-2]) / float(np.count_nonzero(own))
        if second > options.piece_share:
            return [_implausible(level, f"in {count} pieces, the second of {second:.0%}")]
    return []


def scoliosis(bodies: Segmentation, options: QualityOptions) -> list[QualityFlag]:
    """How far the row of bodies leans to one side and back: the largest angle between two stretches of it.

    A stretch goes over two discs, so that a millimetre in a centre is a degree.
    """
    centres = []
    for n, (level, box) in enumerate(zip(bodies.segments, bodies.boxes, strict=True), start=1):
        if level is not None and box is not None:
            index = places(bodies.labels[box] == n).mean(axis=0) + [part.start for part in box]
            centres.append(bodies.geometry.to_patient(index))
    if len(centres) < 4:
        return []
    row = np.asarray(centres)
    along = row[:-2] - row[2:]
    lean = np.rad2deg(np.arctan2(along[:, 0], np.abs(along[:, 2])))
    angle = float(lean.max() - lean.min())
    if angle <= options.scoliosis_degrees:
        return []
    severe = angle > options.severe_scoliosis_degrees
    return [QualityFlag(Reason.SCOLIOSIS, None, withholds=severe, detail=f"{angle:.0f} degrees to the side")]


def _implausible(level: VertebralLevel, detail: str) -> QualityFlag:
    return QualityFlag(Reason.SEGMENTATION_IMPLAUSIBLE, level, withholds=True, detail=detail)
