"""The same input and the same software give the same UIDs; anything else gives others."""

import re
from dataclasses import replace

import pytest

from dicom_node.report.uids import device_uid, model_uid, report_uid
from engine.records import InstanceRef


def test_a_repeated_analysis_keeps_its_uids(series):
    later = replace(
        series.result, analysed_at=series.result.analysed_at.replace(year=2030), stage_seconds=(("load", 1.0),)
    )
    assert report_uid("sr", series.series, series.result) == report_uid("sr", series.series, later)
    assert device_uid(series.result) == device_uid(later)


def test_order_and_places_of_files_do_not_matter(series):
    moved = tuple(replace(instance, path="elsewhere") for instance in reversed(series.series.instances))
    result = replace(series.result, models=tuple(reversed(series.result.models)))
    assert report_uid("sr", replace(series.series, instances=moved), result) == report_uid(
        "sr", series.series, series.result
    )


def other_model(result):
    return replace(result, models=(replace(result.models[0], sha256="c3" * 32), *result.models[1:]))


def other_precision(result):
    return replace(result, models=(*result.models[:-1], replace(result.models[-1], precision="f16")))


@pytest.mark.parametrize(
    "change",
    [
        other_model,
        other_precision,
        lambda result: replace(result, models=result.models[:1]),
        lambda result: replace(result, policy="vbmd@2"),
        lambda result: replace(result, engine_version="0.2.0"),
    ],
    ids=["weights", "precision", "fewer models", "policy", "engine"],
)
def test_what_may_change_a_number_changes_the_uids(series, change):
    changed = change(series.result)
    assert report_uid("sr", series.series, changed) != report_uid("sr", series.series, series.result)
    assert device_uid(changed) != device_uid(series.result)


def test_a_late_slice_makes_another_report(series):
    late = InstanceRef("1.2.3", series.series.instances[0].sop_class_uid, "late.dcm")
    longer = replace(series.series, instances=(*series.series.instances, late))
    assert report_uid("sr", longer, series.result) != report_uid("sr", series.series, series.result)
    assert device_uid(series.result) == device_uid(series.result)


def test_each_thing_has_its_own_uid_and_all_are_valid(series):
    kinds = ["sr", "seg", "picture", "sr series", "seg series", "tracking L1", "tracking L2"]
    uids = [report_uid(kind, series.series, series.result) for kind in kinds]
    uids += [device_uid(series.result), *(model_uid(model) for model in series.result.models)]
    assert len(set(uids)) == len(uids)
    for uid in uids:
        assert re.fullmatch(r"2\.25\.[1-9][0-9]*", uid)
        assert len(uid) <= 64
