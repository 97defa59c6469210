"""Records can be kept, sent and compared, and need nothing heavy; errors keep their reason on the way."""

import dataclasses
import pickle
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from engine import errors, records
from engine.records import (
    BoneFinding,
    ClassProbability,
    Evaluation,
    InstanceHeader,
    InstanceRef,
    Measurement,
    ModelRef,
    Program,
    QualityFlag,
    Quantity,
    Reason,
    ScreeningResult,
    Selection,
    SeriesFailure,
    SeriesRef,
    VertebralLevel,
)

L1, L2 = VertebralLevel.L1, VertebralLevel.L2
MODEL = ModelRef("bmd", "1.0", "ab" * 32, True, "f32", "openvino 2026.2")
RESULT = ScreeningResult(
    study_instance_uid="1.2.1",
    series_instance_uid="1.2.2",
    program=Program.VERTEBRAL,
    levels=(L1, L2),
    aggregated_levels=(L1,),
    measurements=(
        Measurement(Quantity.VOLUMETRIC_BMD, 101.5, L1, str(MODEL)),
        Measurement(Quantity.VOLUMETRIC_BMD, 99.0, None, str(MODEL)),
        Measurement(Quantity.ATTENUATION_MEAN, 130.0, L1, str(MODEL)),
    ),
    evaluations=(Evaluation(BoneFinding.OSTEOPENIA, None, "acr@1"), Evaluation(BoneFinding.NORMAL, L2, "acr@1")),
    quality_flags=(QualityFlag(Reason.NEAR_CUT, L1, False), QualityFlag(Reason.KVP, None, True, "100 kV")),
    reason=None,
    models=(MODEL,),
    policy="acr@1",
    engine_version="0.1.0",
    analysed_at=datetime(2026, 1, 1, tzinfo=UTC),
)
SERIES = SeriesRef(**(dict.fromkeys(SeriesRef.__slots__) | {"instances": (InstanceRef("1.2.3", "1.2.4", "a.dcm"),)}))
HEADER = InstanceHeader(**dict.fromkeys(InstanceHeader.__slots__))
ALL = [
    RESULT,
    SERIES,
    HEADER,
    Selection("1.2.2", Program.VERTEBRAL, Reason.BETTER_SERIES, "kernel", 1.0),
    SeriesFailure("1.2.1", "1.2.2", Program.VERTEBRAL, Reason.NO_VERTEBRA, "nothing there"),
    records.ReportObject("sr", "1.2", "1.2.3", "1.3", "a.dcm"),
]


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_a_record_survives_the_way_to_another_process(record):
    again = pickle.loads(pickle.dumps(record))
    assert again == record
    assert hash(again) == hash(record)


def test_every_record_is_frozen_and_has_slots():
    kinds = [kind for kind in vars(records).values() if dataclasses.is_dataclass(kind)]
    assert len(kinds) >= 11
    for kind in kinds:
        assert kind.__dataclass_params__.frozen, kind
        assert not hasattr(kind(*[None] * len(dataclasses.fields(kind))), "__dict__"), kind


def test_no_record_has_a_field_for_a_patients_identity():
    identity = {"patient_name", "patient_id", "patient_birth_date", "accession_number", "name", "birth_date"}
    for kind in vars(records).values():
        if dataclasses.is_dataclass(kind) and kind is not ModelRef:
            assert not identity & {field.name for field in dataclasses.fields(kind)}, kind


def test_records_and_errors_need_nothing_heavy():
    heavy = "{'numpy', 'sqlalchemy', 'pydicom', 'scipy'}"
    code = f"import sys, engine.errors, engine.options; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reason_is_spelled_as_it_is_named():
    assert [reason.value for reason in Reason] == [reason.name.lower() for reason in Reason]
    assert len({*Reason}) == len(Reason.__members__)


def test_a_quantity_has_one_unit():
    assert {quantity: quantity.ucum for quantity in Quantity}.keys() == set(Quantity)
    assert Quantity.VOLUMETRIC_BMD.ucum == "mg/cm3"
    assert Quantity.AREAL_BMD.ucum == "g/cm2"
    assert Quantity.TRABECULAR_BONE_SCORE.ucum == "1"
    assert Quantity.ATTENUATION_MEDIAN.ucum == "[hnsf'U]"


def test_a_finding_is_of_one_quantity_and_a_class_has_its_probability():
    scored = dataclasses.replace(
        RESULT,
        evaluations=(
            *RESULT.evaluations,
            Evaluation(BoneFinding.OSTEOPOROSIS, None, "yam@1", Quantity.AREAL_BMD),
            Evaluation(BoneFinding.IMPAIRED_MICROARCHITECTURE, L1, "tbs@1", Quantity.TRABECULAR_BONE_SCORE),
        ),
        class_probabilities=(ClassProbability(BoneFinding.NORMAL, 0.7, L1, str(MODEL)),),
    )
    assert scored.finding(None) is BoneFinding.OSTEOPENIA
    assert scored.finding(None, Quantity.AREAL_BMD) is BoneFinding.OSTEOPOROSIS
    assert scored.finding(L1) is None
    assert scored.finding(L1, Quantity.TRABECULAR_BONE_SCORE) is BoneFinding.IMPAIRED_MICROARCHITECTURE
    assert scored.probability(BoneFinding.NORMAL, L1) == 0.7
    assert scored.probability(BoneFinding.NORMAL, None) is scored.probability(BoneFinding.OSTEOPENIA, L1) is None


def test_levels_run_from_head_to_foot():
    names = [*(f"T{n}" for n in range(1, 13)), *(f"L{n}" for n in range(1, 7)), "S1"]
    assert [level.value for level in VertebralLevel] == names


def test_a_result_is_asked_by_quantity_and_level():
    assert RESULT.value(Quantity.VOLUMETRIC_BMD, L1) == 101.5
    assert RESULT.value(Quantity.VOLUMETRIC_BMD, None) == 99.0
    assert RESULT.value(Quantity.VOLUMETRIC_BMD, L2) is None
    assert RESULT.value(Quantity.ATTENUATION_MEAN, None) is None
    assert RESULT.finding(None) is BoneFinding.OSTEOPENIA
    assert RESULT.finding(L2) is BoneFinding.NORMAL
    assert RESULT.finding(L1) is None
    assert [flag.reason for flag in RESULT.flags(L1)] == [Reason.NEAR_CUT]
    assert [flag.reason for flag in RESULT.flags(None)] == [Reason.KVP]
    assert RESULT.flags(L2) == ()


def test_a_model_prints_as_name_and_version():
    assert str(MODEL) == "bmd@1.0"


LEAVES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ScreeningError)]


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_to_another_process(kind):
    bad = kind(Reason.NO_VERTEBRA, "nothing there") if issubclass(kind, errors.SeriesError) else kind("what was found")
    again = pickle.loads(pickle.dumps(bad))
    assert type(again) is kind
    assert again.args == bad.args
    assert str(again) == str(bad)
    if isinstance(bad, errors.SeriesError):
        assert again.reason is Reason.NO_VERTEBRA
        assert str(bad) == "no_vertebra: nothing there"


def test_every_error_has_one_of_three_branches():
    branches = (errors.SeriesError, errors.PeerError, errors.DeploymentError)
    for kind in LEAVES:
        assert kind is errors.ScreeningError or issubclass(kind, branches), kind
