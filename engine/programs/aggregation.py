"""From levels to the patient: which levels go in, and what is said of those that don't."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from engine.measurement.limits import QualityOptions
from engine.measurement.quality import outliers
from engine.prediction.policy import DensityPolicy, aggregated_levels, evaluate
from engine.records import Evaluation, Measurement, QualityFlag, VertebralLevel


@dataclass(frozen=True, slots=True)
class PatientsValue:
    """The densities of levels and, where enough of them are left, the patient's."""

    densities: tuple[Measurement, ...] = ()  # of levels, then the patient's
    levels: tuple[VertebralLevel, ...] = ()  # that went in
    evaluations: tuple[Evaluation, ...] = ()
    flags: tuple[QualityFlag, ...] = ()


def patients_value(
    densities: tuple[Measurement, ...],
    policy: DensityPolicy,
    quality: QualityOptions,
    left_out: Collection[VertebralLevel | None] = (),
) -> PatientsValue:
    """The mean of the policy's levels, without those that differ from their neighbours beyond what anatomy does.

    Levels that a rule withheld have no density and can't go in; their flags are there already.

    Args:
        densities: of one quantity, head to foot.
        left_out: levels whose difference was said before, of another density.
    """
    by_level = {one.finding_site: one.value for one in densities if one.finding_site is not None}
    if not by_level:
        return PatientsValue()
    odd = outliers({level: value for level, value in by_level.items() if level not in left_out}, quality)
    excluded = {*left_out, *(flag.finding_site for flag in odd)}
    levels = aggregated_levels([level for level in by_level if level not in excluded], policy)
    if not levels:
        return PatientsValue(densities, (), (), odd)
    mean, evaluation, near = evaluate(by_level, levels, policy)
    patient = replace(densities[0], value=mean, finding_site=None)
    quantity = densities[0].quantity
    near = tuple(replace(flag, detail=f"{quantity}: {flag.detail}") for flag in near)
    return PatientsValue((*densities, patient), levels, (replace(evaluation, quantity=quantity),), (*odd, *near))
