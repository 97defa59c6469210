"""
Which instances make a series, and what their headers say together.

One rule for all: a folder that is read at once and a database that met the same instances one by one, in any order,
come to the same series.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.records import InstanceHeader, InstanceRef, SeriesRef


def series_of(instances: Iterable[tuple[InstanceHeader, str]]) -> tuple[SeriesRef, ...]:
    """Group instances into series.

    A series may hold more than one kind of image, as localizers among slices. Its attributes are
    those of the kind that most instances are; contrast, compression and thickness are the worst of
    them. All instances stay in it, in the order of their positions: loading decides what fits.

    Args:
        instances: (header, path); any order, which does not change the result.

    Returns:
        Ordered by study, then series.
    """

    def identity(item: tuple[InstanceHeader, str]) -> tuple[str, str]:
        return item[0].study_instance_uid, item[0].series_instance_uid

    ordered = sorted(instances, key=lambda item: (*identity(item), item[0].sop_instance_uid, item[1]))
    return tuple(_series(list(members)) for _, members in groupby(ordered, key=identity))


def _series(members: Sequence[tuple[InstanceHeader, str]]) -> SeriesRef:
    kinds = [_kind(header) for header, _ in members]
    counted = Counter(kinds)
    usual = min(counted, key=lambda kind: (-counted[kind], repr(kind)))
    alike = [header for (header, _), kind in zip(members, kinds, strict=True) if kind == usual]
    first = alike[0]
    normal = _normal(first.image_orientation_patient)
    heights = {id(header): _height(header.image_position_patient, normal) for header, _ in members}
    known = [height for header in alike if (height := heights[id(header)]) is not None]
    known += [height for header in alike if (height := _height(header.last_position_patient, normal)) is not None]
    thicknesses = [header.slice_thickness for header in alike if header.slice_thickness is not None]
    tilts = [header.gantry_detector_tilt for header in alike if header.gantry_detector_tilt is not None]
    in_order = sorted(members, key=lambda item: _place(heights[id(item[0])], item[0], item[1]))
    return SeriesRef(
        study_instance_uid=first.study_instance_uid,
        series_instance_uid=first.series_instance_uid,
        patient_key=first.patient_key,
        patient_sex=first.patient_sex,
        patient_age=first.patient_age,
        study_date=first.study_date,
        acquisition_date=min((h.acquisition_date for h in alike if h.acquisition_date), default=None),
        modality=first.modality,
        image_type=first.image_type,
        body_part_examined=first.body_part_examined,
        manufacturer=first.manufacturer,
        manufacturer_model_name=first.manufacturer_model_name,
        convolution_kernel=first.convolution_kernel,
        slice_thickness=max(thicknesses, default=None),
        kvp=first.kvp if len({header.kvp for header in alike}) == 1 else None,
        contrast_bolus_agent=any(header.contrast_bolus_agent for header in alike),
        gantry_detector_tilt=max(tilts, key=abs, default=None),
        lossy_image_compression=any(header.lossy_image_compression for header in alike),
        has_rescale=all(header.has_rescale for header in alike),
        transfer_syntax_uid=first.transfer_syntax_uid,
        image_orientation_patient=first.image_orientation_patient,
        extent_mm=max(known) - min(known) if known else None,
        instances=tuple(InstanceRef(h.sop_instance_uid, h.sop_class_uid, path) for h, path in in_order),
        station_name=first.station_name,
        accession_key=first.accession_key,
        number_of_frames=sum(header.number_of_frames for header, _ in members),
    )


def _kind(header: InstanceHeader) -> tuple[Any, ...]:
    """What makes two images of one series stackable, roughly; loading looks closer."""
    orientation = header.image_orientation_patient
    return (
        header.sop_class_uid,
        header.modality,
        "LOCALIZER" in header.image_type,
        header.image_type[:2],
        header.rows,
        header.columns,
        header.frame_of_reference_uid,
        tuple(round(cosine, 2) + 0.0 for cosine in orientation) if orientation else None,
    )


def _normal(orientation: tuple[float, ...] | None) -> NDArray[np.float64] | None:
    return None if orientation is None else np.cross(orientation[:3], orientation[3:])


def _height(position: tuple[float, ...] | None, normal: NDArray[np.float64] | None) -> float | None:
    """Where a point lies along the normal of its series, mm."""
    return None if position is None or normal is None else float(np.dot(normal, position))


def _place(height: float | None, header: InstanceHeader, path: str) -> tuple[Any, ...]:
    number = header.instance_number
    return (height is None, height or 0.0, number is None, number or 0, header.sop_instance_uid, path)
