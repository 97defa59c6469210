"""The tables of Peng 2023 come out of its counts to the printed digit."""

import numpy as np
import pytest

from engine.statistics.classes import Confusion, confusion, mismatches

CLASSES = ("osteoporosis", "osteopenia", "normal")
PRINTED = {  # rows: predicted, columns: true; then accuracy, precision, recall, specificity, F1, and kappa derived
    "train": (((189, 4, 0), (0, 221, 7), (0, 1, 281)), "0.983 0.982 0.985 0.992 0.983", 0.9740),
    "test": (((44, 6, 0), (2, 43, 6), (0, 2, 73)), "0.909 0.899 0.908 0.956 0.903", 0.8602),
    "independent": (((159, 24, 0), (18, 70, 6), (0, 15, 48)), "0.815 0.792 0.810 0.899 0.798", 0.6921),
}


@pytest.mark.parametrize("name", PRINTED)
def test_macro_rows_of_the_paper_come_out_of_its_counts(name):
    counts, printed, kappa = PRINTED[name]
    table = Confusion(CLASSES, tuple(zip(*counts, strict=True)))
    shares = (table.accuracy, table.precision, table.recall, table.specificity, table.f1)
    assert " ".join(f"{share:.3f}" for share in shares) == printed
    assert round(table.kappa, 4) == kappa


def test_cases_are_counted_where_they_belong():
    counts, _, _ = PRINTED["test"]
    pairs = [
        (CLASSES[t], CLASSES[c]) for c, row in enumerate(counts) for t, count in enumerate(row) for _ in range(count)
    ]
    table = confusion([t for t, _ in pairs], [c for _, c in pairs], CLASSES)
    assert table.counts == tuple(zip(*counts, strict=True))
    assert table.one("osteoporosis").sensitivity == 44 / 46
    assert table.one("osteoporosis").count == table.count == 176


def test_a_class_that_is_never_called_has_no_precision_and_the_mean_is_of_the_others():
    table = confusion(["a", "a", "b"], ["a", "a", "a"], ["a", "b"])
    assert table.one("b").positive_predictive_value is None
    assert table.precision == 2 / 3


def test_an_empty_table_says_nothing():
    table = confusion([], [], ["a", "b"])
    assert (table.accuracy, table.kappa, table.f1) == (None, None, None)


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="unknown classes"):
        confusion(["a"], ["c"], ["a", "b"])


def test_mismatches_near_the_cut_are_those_of_the_paper():
    """Peng 2023: osteopenia called osteoporosis 34, of these 27 (79.41 %) within 10 mg/cm3 of 80."""
    values = np.r_[np.linspace(80.1, 90.0, 27), np.linspace(90.1, 119.0, 7), [150.0], [60.0]]
    truth = ["osteopenia"] * 34 + ["normal"] * 1 + ["osteoporosis"]
    called = ["osteoporosis"] * 34 + ["osteopenia"] + ["normal"]
    found = mismatches(values, called, CLASSES, (80.0, 120.0), 10.0, truth)
    by_pair = {(one.true_class, one.called_class): one for one in found}
    near = by_pair["osteopenia", "osteoporosis"]
    assert (near.count, near.near, near.cut) == (34, 27, 80.0)
    assert f"{near.share.value:.2%}" == "79.41%"
    assert by_pair["normal", "osteopenia"].near == 0
    assert by_pair["osteoporosis", "normal"].cut is None  # a jump
