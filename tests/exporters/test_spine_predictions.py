"""What is counted about names and overlap is counted against the truth, by a stated rule."""

import csv
import gzip
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.anatomy.levels import LevelOptions, name_levels
from engine.records import Reason, VertebralLevel
from engine.volume import TissueMap
from exporters.reference.recipe import read_recipe
from exporters.reference.scanner import UNSEEN, UNSEEN_KERNEL, scanner
from exporters.reference.spine_phantom import PLAIN, draw_phantom, field_of_view, rasterise
from exporters.reference.vertebra import TISSUES
from exporters.spine_predictions import (
    BodyRow,
    ScanCase,
    as_table,
    compare,
    draw_scan,
    expectations,
    figures,
)

L = VertebralLevel
RECIPE = read_recipe(Path(__file__).parents[2] / "configs" / "models" / "spine.toml")


def view_of(phantom, top, bottom, margin=12.0):
    return field_of_view(phantom, top, bottom, pixels=90, pixel_mm=2.0, slice_mm=2.0, margin_mm=margin)


@pytest.fixture(scope="module")
def case():
    phantom = draw_phantom(51, options=PLAIN)
    return ScanCase(0, phantom, scanner("uct_780"), False, "abdomen", None, view_of(phantom, L.T11, L.L5, 40.0))


@pytest.fixture(scope="module")
def truth(case):
    return rasterise(case.phantom, case.geometry)


def test_a_perfect_segmentation_scores_one_and_has_the_right_names(case, truth):
    tissues = TissueMap(case.geometry, truth.labels, (truth.labels == 1).astype(np.float32), TISSUES)
    rows = compare(case, truth.bodies, name_levels(tissues, case.geometry, LevelOptions()), None)
    whole = [row for row in rows if row.whole]
    assert [row.level for row in whole] == [row.expected for row in whole] == [row.named for row in whole]
    assert {L.T12, L.L5} <= {VertebralLevel(row.level) for row in whole}
    assert min(row.dice for row in whole) > 0.97
    found = figures(rows)
    assert (found["level_accuracy"], found["level_wrong"]) == (1.0, 0.0)


def test_a_scan_in_which_nothing_was_found_counts_as_not_named(case, truth):
    rows = compare(case, truth.bodies, None, Reason.NO_VERTEBRA)
    assert {(row.named, row.dice, row.reason) for row in rows} == {("", 0.0, str(Reason.NO_VERTEBRA))}
    assert figures(rows)["level_accuracy"] == 0.0


def test_wrong_names_are_counted_and_told_from_missing_ones(case, truth):
    rows = compare(case, truth.bodies, None, None)
    shifted = [replace(row, named="L2", whole=1, anchor=1, expected="L1") for row in rows[:2]]
    silent = [replace(row, whole=1, anchor=1, expected="L1") for row in rows[:2]]
    found = figures([*shifted, *silent])
    assert (found["level_accuracy"], found["level_wrong"], found["level_wrong_unflagged"]) == (0.0, 0.5, 0.5)
    assert figures([replace(row, anchor=0, named="C5") for row in rows])["abstains_otherwise"] == 0.0


def test_names_are_expected_from_the_sacrum_then_from_the_last_ribs():
    odd = {
        p.levels[-1]: p for p in (draw_phantom(seed, options=replace(PLAIN, transitional=1.0)) for seed in range(12))
    }
    six, ribs_at_l1 = odd[L.L6], odd[L.L5]
    names, anchored = expectations(six, view_of(six, L.T11, L.L6, 60.0))
    assert anchored
    assert (names[L.L6], names[L.L1]) == ("L5", "T12")
    names, _ = expectations(six, view_of(six, L.T9, L.L2))
    assert names[L.L1] == "L1"
    names, _ = expectations(ribs_at_l1, view_of(ribs_at_l1, L.T9, L.L3))
    assert names[L.L1] == "T12"
    names, anchored = expectations(six, view_of(six, L.T3, L.T9))
    assert not anchored
    assert names[L.T5] == "T5"
    assert not expectations(six, view_of(six, L.T9, L.T12, 5.0))[1]


def test_scans_are_the_same_again_and_half_of_them_on_machines_that_training_never_met():
    cases = [draw_scan(RECIPE, number) for number in range(8)]
    assert [c.geometry for c in cases] == [draw_scan(RECIPE, number).geometry for number in range(8)]
    for one in cases:
        strange = one.machine.key in (*UNSEEN, UNSEEN_KERNEL)
        assert strange == one.unseen == (one.machine.key not in RECIPE.data.scanners)
        assert one.phantom.seed > RECIPE.evaluation.first_seed + RECIPE.evaluation.cases


def test_rows_are_written_as_a_table_that_reads_back(case, truth):
    rows = compare(case, truth.bodies, None, None)
    read = list(csv.DictReader(io.StringIO(gzip.decompress(as_table(rows)).decode())))
    assert [row["level"] for row in read] == [row.level for row in rows]
    assert list(read[0]) == list(BodyRow.__slots__)
    assert as_table(rows) == as_table(rows)
