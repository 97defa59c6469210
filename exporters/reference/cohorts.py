"""
The cohorts of the two papers, in phantoms: who was scanned on which machine, and who is for what.

Peng 2023: six batches, the first three parted 8:2 into training and test, the last three of machines that
training never meets and with another mix of classes. Yoshida 2023: three vendors, 350 patients in five
folds, 52 for the test; beside them a few of machines and of a kernel that are never trained on.
"""

from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

import numpy as np

from engine.records import VertebralLevel
from exporters.reference.scanner import UNSEEN, UNSEEN_KERNEL

L = VertebralLevel
ABDOMEN, CHEST = (L.L1, L.L2, L.L3), (L.T12, L.L1, L.L2)
LUMBAR = (L.L1, L.L2, L.L3, L.L4)
FOLDS = 5


class Split(StrEnum):
    """What a patient is for."""

    TRAIN = "train"
    VALIDATION = "validation"  # chooses the checkpoint
    TEST = "test"
    INDEPENDENT = "independent"  # machines that training never meets


@dataclass(frozen=True, slots=True)
class Patient:
    """One patient of a cohort."""

    cohort: str
    number: int
    split: Split
    batch: int  # of Peng's six; 0: none
    fold: int  # whose validation set holds the patient; -1: none
    scanner: str
    body_part: str
    levels: tuple[VertebralLevel, ...]
    sex: str
    age: int  # years
    vbmd: float | None  # mean of L1-L3, mg/cm3; None: by age and sex
    seed: int  # of the phantom and of its scan


# a batch: patients, machines and how often, shares of chests and of women, classes: osteoporosis, osteopenia, normal
_TRAINED = (189 / 703, 226 / 703, 288 / 703)  # classes of the training set
_INDEPENDENT = (177 / 340, 109 / 340, 54 / 340)  # of batches 4 to 6
_MIXED = {"uct_550": 0.4, "siemens_force": 0.2, "canon_one": 0.2, "philips_ict": 0.1, "philips_ict_c": 0.1}
BATCHES: dict[int, tuple[int, dict[str, float], float, float, tuple[float, float, float]]] = {
    1: (199, {"uct_550_chest": 1.0}, 1.0, 0.45, _TRAINED),
    2: (595, _MIXED, 0.4, 0.6, _TRAINED),
    3: (85, {"uct_550": 0.7, "siemens_lung": 0.3}, 0.5, 0.6, _TRAINED),
    4: (42, {"ge_lightspeed": 1.0}, 0.3, 0.7, _INDEPENDENT),
    5: (20, {"ge_revolution": 1.0}, 0.3, 0.7, _INDEPENDENT),
    6: (278, {"uct_780": 1.0}, 0.3, 0.75, _INDEPENDENT),
}
"""Sizes and classes: Peng 2023. Its training knew one machine only; ours, which must serve seven, knows more."""
TRAIN, HELD_OUT = 703, 105  # of batches 1-3; those that choose the checkpoint are among the 703
CLASS_RANGE = ((25.0, 80.0), (80.0, 120.0), (120.0, 230.0))  # mg/cm3 of a class; ends: our choice


def peng(seed: int, first_phantom: int) -> tuple[Patient, ...]:
    """The 1219 patients of Peng 2023."""
    rng = np.random.default_rng([seed, 31])
    drawn = []
    for batch, (count, machines, chests, women, classes) in BATCHES.items():
        for _ in range(count):
            low, high = CLASS_RANGE[int(rng.choice(3, p=np.asarray(classes)))]
            middle = 0.5 * (low + high)
            vbmd = float(np.clip(rng.normal(middle, 0.33 * (high - low)), low, high)) if high < 200 else float(
                120 + min(110.0, rng.exponential(32)))  # fmt: skip
            sex = "F" if rng.random() < women else "M"
            age = int(np.clip(rng.normal(62 - 0.18 * (vbmd - 105), 10), 20, 90))
            chest = rng.random() < chests
            key = str(rng.choice(list(machines), p=list(machines.values())))
            drawn.append((batch, key, chest, sex, age, vbmd))
    trained = rng.permutation([n for n, one in enumerate(drawn) if one[0] <= 3])
    split = dict.fromkeys(trained[:HELD_OUT].tolist(), Split.VALIDATION)
    split |= dict.fromkeys(trained[HELD_OUT:TRAIN].tolist(), Split.TRAIN)
    split |= dict.fromkeys(trained[TRAIN:].tolist(), Split.TEST)
    return tuple(
        Patient("peng", n, split.get(n, Split.INDEPENDENT), batch, -1, key, "CHEST" if chest else "ABDOMEN",
                CHEST if chest else ABDOMEN, sex, age, vbmd, first_phantom + n)
        for n, (batch, key, chest, sex, age, vbmd) in enumerate(drawn)
    )  # fmt: skip


VENDORS = {"canon_one": (155, 18), "philips_ict": (81, 12), "siemens_force": (114, 22)}
"""Patients for training and validation, and for the test: Yoshida 2023, table 1."""
STRANGERS = 20  # patients a machine or kernel that is never trained on; not in the paper


def yoshida(seed: int, first_phantom: int) -> tuple[Patient, ...]:
    """The 402 patients of Yoshida 2023, and some of machines and of a kernel that training never meets."""
    rng = np.random.default_rng([seed, 37])
    learnt = [key for key, (count, _) in VENDORS.items() for _ in range(count)]
    tested = [key for key, (_, count) in VENDORS.items() for _ in range(count)]
    folds = rng.permutation(np.arange(len(learnt)) % FOLDS).tolist()
    machines = [(key, Split.TRAIN, fold) for key, fold in zip(learnt, folds, strict=True)]
    machines += [(key, Split.TEST, -1) for key in tested]
    machines += [(key, Split.INDEPENDENT, -1) for key in (*UNSEEN, UNSEEN_KERNEL) for _ in range(STRANGERS)]
    patients = []
    for n, (key, split, fold) in enumerate(machines):
        sex = "M" if rng.random() < 0.22 else "F"
        age = int(np.clip(rng.normal(61, 15), 20, 90))
        if key == "philips_ict" and rng.random() < 0.5:
            key = "philips_ict_c"
        patients.append(Patient("yoshida", n, split, 0, fold, key, "ABDOMEN", LUMBAR, sex, age, None,
                                first_phantom + n))  # fmt: skip
    return tuple(patients)


COHORTS = {"peng": peng, "yoshida": yoshida}


def cohort(name: str, first_phantom: int, most: int | None = None) -> tuple[Patient, ...]:
    """A cohort by its name.

    Args:
        first_phantom: seed of the first patient's phantom, and of the whole draw.
        most: not more patients: one of each split and fold in turn, those that teach first.
    """
    patients = COHORTS[name](first_phantom, first_phantom)
    if most is None or most >= len(patients):
        return patients
    groups: dict[tuple[int, int], list[Patient]] = {}
    for one in patients:
        groups.setdefault((list(Split).index(one.split), one.fold), []).append(one)
    in_turn = zip_longest(*(groups[key] for key in sorted(groups)))
    return tuple([one for some in in_turn for one in some if one][:most])
