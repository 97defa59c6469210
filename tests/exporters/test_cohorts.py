"""The papers' cohorts in phantoms: splits, machines, what is kept of each vertebra, and of each prediction."""

from collections import Counter

import numpy as np
import pytest

from engine.records import VertebralLevel as L
from engine.runtime.manifest import SagittalCut
from exporters.predictions import COLUMNS, keep_rows, read_rows
from exporters.reference.cohorts import Split, cohort, peng, yoshida
from exporters.reference.scanner import UNSEEN, UNSEEN_KERNEL
from exporters.reference.vertebra_samples import KEPT, draw_samples

LEARNT = (Split.TRAIN, Split.VALIDATION)


def test_peng_s_splits_are_the_paper_s_and_independent_machines_teach_nobody():
    patients = peng(1, 100)
    splits = Counter(one.split for one in patients)
    assert splits[Split.TRAIN] + splits[Split.VALIDATION] == 703
    assert (splits[Split.TEST], splits[Split.INDEPENDENT]) == (176, 340)
    taught = {one.scanner for one in patients if one.split in LEARNT}
    assert not taught & {*UNSEEN, UNSEEN_KERNEL, "uct_780"}
    assert {one.scanner for one in patients if one.split is Split.INDEPENDENT} == {*UNSEEN, "uct_780"}
    assert len({one.seed for one in patients}) == len(patients)
    low = {split: np.mean([one.vbmd <= 80 for one in patients if one.split is split]) for split in splits}
    assert low[Split.INDEPENDENT] > low[Split.TRAIN] + 0.15  # the mix of classes shifts


def test_yoshida_s_folds_part_the_patients_and_its_test_is_of_the_same_vendors():
    patients = yoshida(1, 100)
    folds = Counter(one.fold for one in patients if one.split in LEARNT)
    assert folds == dict.fromkeys(range(5), 70)
    assert sum(one.split is Split.TEST for one in patients) == 52
    strange = {one.scanner for one in patients if one.split is Split.INDEPENDENT}
    assert strange == {*UNSEEN, UNSEEN_KERNEL}
    assert not strange & {one.scanner for one in patients if one.split in LEARNT}


def test_a_small_cohort_has_some_of_each():
    assert [one.split for one in cohort("peng", 100, 4)] == [
        Split.TRAIN,
        Split.VALIDATION,
        Split.TEST,
        Split.INDEPENDENT,
    ]
    assert [one.fold for one in cohort("yoshida", 100, 5)] == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def drawn():
    patient = cohort("yoshida", 100, 1)[0]
    return [draw_samples(patient, (1, 256, 256), (5.0, 1.2, 1.2), SagittalCut(), (-200.0, 800.0)) for _ in range(2)]


def test_the_same_patient_gives_the_same_samples(drawn):
    first, again = drawn
    assert first.images.tobytes() == again.images.tobytes()
    assert all(np.array_equal(first.truth[name], again.truth[name]) for name in first.truth)


def test_the_lumbar_levels_are_cut_three_times_with_their_truth(drawn):
    first, _ = drawn
    assert [list(L)[n] for n in first.level] == [L.L1, L.L2, L.L3, L.L4]
    assert first.images.shape == (4, 3, *(part.stop - part.start for part in KEPT))
    middle = first.images[:, 1].astype(float)
    assert (middle.max(axis=(1, 2)) > 120).all()  # cortex
    edges = [middle[:, :2], middle[:, -2:], middle[:, :, :2], middle[:, :, -2:]]
    assert max(edge.max() for edge in edges) == 0  # the kept part holds the whole vertebra
    assert ((first.truth["abmd"] > 0.3) & (first.truth["abmd"] < 2)).all()
    assert np.abs(first.truth["hu_core"] - first.truth["hu_roi"]).max() < 80


def row(patient, level, **said):
    return {"cohort": "peng", "patient": patient, "level": level, "split": "test", "vbmd": 101.23456, **said}


def test_models_fill_their_own_columns_and_the_same_rows_make_the_same_bytes(tmp_path):
    keep_rows(tmp_path, [row(10, "L1", vbmd_predicted=99.0), row(9, "L2", vbmd_predicted=float("nan"))],
              {"models": {"bmd@1": "ab"}})  # fmt: skip
    assert keep_rows(tmp_path, [row(10, "L1", p_normal=0.25)], {"models": {"class@1": "cd"}}) == 2
    first, second = read_rows(tmp_path)
    assert (first["patient"], second["patient"]) == ("9", "10")
    assert (second["vbmd_predicted"], second["p_normal"], second["vbmd"]) == ("99.000", "0.2500", "101.235")
    assert first["vbmd_predicted"] == ""
    assert tuple(first) == COLUMNS
    before = (tmp_path / "vertebrae.csv.gz").read_bytes()
    keep_rows(tmp_path, [row(10, "L1", p_normal=0.25)], {})
    assert (tmp_path / "vertebrae.csv.gz").read_bytes() == before
    assert '"class@1": "cd"' in (tmp_path / "vertebrae.json").read_text()
