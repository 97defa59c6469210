"""A kept scan is the scan, and of nothing else."""

from functools import partial

import numpy as np

from engine.records import VertebralLevel
from exporters.reference.kept_scans import kept_scan
from exporters.reference.scanner import scan, scanner
from exporters.reference.spine_phantom import PLAIN, draw_phantom, field_of_view

PHANTOM, MACHINE = draw_phantom(51, options=PLAIN), scanner("uct_780")
VIEW = field_of_view(PHANTOM, VertebralLevel.L1, VertebralLevel.L1, pixels=30, pixel_mm=2.0, slice_mm=4.0)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_kept_scan_is_the_scan(tmp_path):
    of = partial(kept_scan, name="scan", phantom=PHANTOM, machine=MACHINE, geometry=VIEW, seed=3, contrast=None)
    hounsfield, truth = scan(PHANTOM, MACHINE, VIEW, seed=3)
    assert same(of(None), (hounsfield, truth.bodies))
    assert not [*tmp_path.iterdir()]
    assert same(of(tmp_path), (hounsfield, truth.bodies))
    (file,) = tmp_path.iterdir()
    np.savez(file, hounsfield=hounsfield + 1, bodies=truth.bodies)
    assert same(of(tmp_path), (hounsfield + 1, truth.bodies))  # it was read, not made again


def test_what_differs_in_anything_is_another_file(tmp_path):
    of = partial(kept_scan, tmp_path, "scan", geometry=VIEW)
    plain = {"phantom": PHANTOM, "machine": MACHINE, "seed": 3, "contrast": None}
    others = ({"contrast": "venous"}, {"seed": 4}, {"machine": scanner("siemens_force")},
              {"phantom": draw_phantom(51, vbmd=60.0, options=PLAIN)})  # fmt: skip
    for other in ({}, *others):
        of(**plain | other)
    assert len([*tmp_path.iterdir()]) == 1 + len(others)
