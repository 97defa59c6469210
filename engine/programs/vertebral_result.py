"""One series on its way through the vertebral program, and what it comes to."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from engine.anatomy.levels import NamedVertebrae
from engine.prediction.bone_class import Probabilities, patient_classes
from engine.prediction.from_side import judge, patient_means
from engine.programs.aggregation import patients_value
from engine.programs.vertebral_options import VertebralOptions, engine_version
from engine.records import (
    Calibration,
    Measurement,
    ModelRef,
    Program,
    QualityFlag,
    Reason,
    ScreeningResult,
    SeriesRef,
)
from engine.volume import Segmentation, TissueMap, Volume


@dataclass(slots=True, eq=False)
class VertebralCase:
    """One series on its way through the program: each stage adds what the next ones need."""

    series: SeriesRef
    seconds: tuple[tuple[str, float], ...] = ()  # of the stages that it passed
    volume: Volume = field(init=False)
    image: NDArray[np.float32] | None = None  # on the spine network's grid, where DALI made it
    tissues: TissueMap = field(init=False)
    named: NamedVertebrae = field(init=False)
    cores: Segmentation = field(init=False)
    measured: tuple[Measurement, ...] = field(init=False)
    flags: tuple[QualityFlag, ...] = field(init=False)
    calibrated: tuple[Measurement, ...] = ()  # from HU by a line
    calibrations: tuple[Calibration, ...] = field(init=False)
    densities: tuple[Measurement, ...] = field(init=False)
    implausible: tuple[QualityFlag, ...] = field(init=False)
    probabilities: Probabilities = ()
    scores: tuple[Measurement, ...] = ()  # areal density, bone score


def result_of(
    case: VertebralCase, options: VertebralOptions, models: tuple[ModelRef, ...], table_sha256: str
) -> ScreeningResult:
    """What a series that passed all stages comes to.

    Args:
        models: what the numbers come from.
        table_sha256: of the site's calibration table; empty: it has none.
    """
    policy, quality = options.policy, options.quality
    network = patients_value(case.densities, policy, quality)
    odd = {flag.finding_site for flag in network.flags if flag.reason is Reason.OUTLIER_LEVEL}
    by_line = patients_value(case.calibrated, policy, quality, odd)
    means, areal_levels = patient_means(case.scores, odd, options.areal)
    called = judge(means, case.series.patient_sex, options.areal)
    flags = (*case.flags, *case.implausible, *network.flags, *by_line.flags)
    measurements = (*case.measured, *network.densities, *by_line.densities, *case.scores, *means)
    told = {one.quantity for one in measurements}
    return ScreeningResult(
        study_instance_uid=case.series.study_instance_uid,
        series_instance_uid=case.series.series_instance_uid,
        program=Program.VERTEBRAL,
        levels=tuple(level for level in case.named.bodies.segments if level is not None),
        aggregated_levels=network.levels,
        measurements=measurements,
        evaluations=(*network.evaluations, *by_line.evaluations, *called),
        quality_flags=flags,
        reason=None if network.levels else _why_none(flags),
        models=models,
        policy=str(options.policy),
        engine_version=engine_version(options, table_sha256),
        analysed_at=datetime.now(UTC),
        stage_seconds=case.seconds,
        calibrations=tuple(one for one in case.calibrations if one.quantity in told),
        calibrated_levels=by_line.levels,
        numberings=case.named.numberings,
        class_probabilities=(*case.probabilities, *patient_classes(case.probabilities, network.levels)),
        areal_levels=areal_levels,
    )


def _why_none(flags: tuple[QualityFlag, ...]) -> Reason:
    """What takes the patient's density away: what speaks against the whole series, or against too many levels."""
    return next(
        (flag.reason for flag in flags if flag.withholds and flag.finding_site is None), Reason.NO_ELIGIBLE_LEVEL
    )
