"""What is measured, where, in which unit, and what it is called: words that records, codes and tables share."""

from enum import StrEnum


class VertebralLevel(StrEnum):
    """Vertebrae from head to foot; L6 is the transitional one below L5, S1 the sacrum's first."""

    T1 = "T1"
    T2 = "T2"
    T3 = "T3"
    T4 = "T4"
    T5 = "T5"
    T6 = "T6"
    T7 = "T7"
    T8 = "T8"
    T9 = "T9"
    T10 = "T10"
    T11 = "T11"
    T12 = "T12"
    L1 = "L1"
    L2 = "L2"
    L3 = "L3"
    L4 = "L4"
    L5 = "L5"
    L6 = "L6"
    S1 = "S1"


class BoneFinding(StrEnum):
    """What a policy makes of a number."""

    NORMAL = "normal"
    OSTEOPENIA = "osteopenia"
    OSTEOPOROSIS = "osteoporosis"
    IMPAIRED_MICROARCHITECTURE = "impaired_microarchitecture"  # of a trabecular bone score only


CLASSES = (BoneFinding.NORMAL, BoneFinding.OSTEOPENIA, BoneFinding.OSTEOPOROSIS)
"""What the classifier tells apart, in the order of its outputs (Peng 2023)."""


class Quantity(StrEnum):
    """What a measurement is of. A quantity has one unit; no record stores a unit."""

    ATTENUATION_MEAN = "attenuation_mean"
    ATTENUATION_MEDIAN = "attenuation_median"
    ATTENUATION_SD = "attenuation_sd"
    CORE_VOLUME = "core_volume"
    VOLUMETRIC_BMD = "volumetric_bmd"
    CALIBRATED_BMD = "calibrated_bmd"
    AREAL_BMD = "areal_bmd"
    TRABECULAR_BONE_SCORE = "trabecular_bone_score"

    @property
    def ucum(self) -> str:
        """The unit, as UCUM writes it.

        >>> Quantity.VOLUMETRIC_BMD.ucum
        'mg/cm3'
        """
        return _UCUM[self]


_UCUM = {
    Quantity.ATTENUATION_MEAN: "[hnsf'U]",
    Quantity.ATTENUATION_MEDIAN: "[hnsf'U]",
    Quantity.ATTENUATION_SD: "[hnsf'U]",
    Quantity.CORE_VOLUME: "cm3",
    Quantity.VOLUMETRIC_BMD: "mg/cm3",
    Quantity.CALIBRATED_BMD: "mg/cm3",
    Quantity.AREAL_BMD: "g/cm2",
    Quantity.TRABECULAR_BONE_SCORE: "1",
}


class ReferenceMaterial(StrEnum):
    """What a density is counted in; the same bone has about a tenth less hydroxyapatite than K2HPO4."""

    HA = "HA"
    K2HPO4 = "K2HPO4"


class CalibrationMethod(StrEnum):
    """Who says how HU become a density."""

    NETWORK = "network"  # its training alone
    SITE_TABLE = "site_table"  # the site's line for the scanner
    PHANTOM = "phantom"  # the site's measured rods of a calibration phantom
    INTERNAL = "internal"  # the patient's own air, fat, muscle and blood
