"""What a phantom says is wrong with a vertebra can be seen in its voxels, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest

from engine.records import VertebralLevel
from engine.volume import CANONICAL, Geometry
from exporters.reference.findings import FRACTURES, Kind, grade_of
from exporters.reference.spine_phantom import PLAIN, PhantomOptions, draw_phantom, field_of_view, rasterise
from exporters.reference.vertebra import TISSUES

HU_PER_MG = 1.36  # the steepest slope of the scanner dialects
L3 = VertebralLevel.L3


def around(phantom, level, step=1.0, reach=68.0):
    bone = phantom.vertebra(level)
    x, y, z = (float(value) for value in np.asarray(bone.centre) - reach / 2)
    n = int(reach / step)
    return Geometry((n, n, n), (step,) * 3, (x, y, z), CANONICAL)


def first_with(kind, options, seeds=range(60)):
    """A phantom with a finding, and where it has it."""
    for seed in seeds:
        phantom = draw_phantom(seed, options=options)
        for level, findings in phantom.findings.items():
            for finding in findings:
                if finding.kind is kind and phantom.vertebra(level).centre[2] < 150:
                    return phantom, level, finding
    raise AssertionError(kind)


def hounsfield(raster):
    return raster.soft + HU_PER_MG * raster.mineral


def height_mm(phantom, level, share):
    """Height of a body at a share of its depth (0 front, 1 back), by its voxels."""
    grid = around(phantom, level)
    raster = rasterise(phantom, grid)
    bone = phantom.vertebra(level)
    points = grid.to_patient(np.argwhere(raster.bodies == bone.number).astype(float)) - np.asarray(bone.centre)
    u, v, w = (points @ axis for axis in bone.axes)
    near = (np.abs(u) < 3) & (np.abs(v - (share - 0.5) * 0.8 * bone.depth) < 2)
    return np.ptp(w[near]) + 1.0


def test_plain_phantoms_have_no_findings():
    for seed in range(5):
        phantom = draw_phantom(seed, options=PLAIN)
        assert phantom.findings == {}
        assert not any(bone.metal or bone.cement or bone.island for bone in phantom.vertebrae)


def test_grades_follow_the_height_that_is_lost():
    assert [grade_of(loss) for loss in (0.19, 0.2, 0.25, 0.39, 0.4)] == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("kind", FRACTURES)
def test_a_fracture_loses_the_height_that_it_says(kind):
    phantom, level, finding = first_with(kind, replace(PLAIN, fracture=1.0))
    assert finding.grade == grade_of(finding.size) > 0
    bone = phantom.vertebra(level)
    front, middle, back = (height_mm(phantom, level, share) / bone.height for share in (0.0, 0.5, 1.0))
    if kind is Kind.WEDGE:
        assert 1 - front == pytest.approx(0.9 * finding.size, abs=0.1)  # measured a little behind the front
        assert back > 0.9
    elif kind is Kind.BICONCAVE:
        assert 1 - middle == pytest.approx(finding.size + 0.09, abs=0.1)  # healthy endplates are hollow too
        assert min(front, back) > middle + 0.5 * finding.size
    else:
        assert [1 - front, 1 - back] == pytest.approx([finding.size] * 2, abs=0.1)


def test_crushed_vertebrae_let_their_neighbours_come_closer():
    crushed, level, _ = first_with(Kind.CRUSH, replace(PLAIN, fracture=1.0))
    healthy = draw_phantom(crushed.seed, options=PLAIN)
    order = crushed.levels.index(level)
    above, below = crushed.levels[order - 1], crushed.levels[order + 1]

    def apart(phantom):
        return np.linalg.norm(np.subtract(phantom.vertebra(above).centre, phantom.vertebra(below).centre))

    assert apart(crushed) < apart(healthy) - 3


@pytest.mark.parametrize("seed", range(3))
def test_no_bone_without_metal_looks_like_metal(seed):
    options = PhantomOptions(fracture=1.0, osteophytes=1.0, metal=0.0, schmorl=1.0, bone_island=1.0, cement=1.0)
    phantom = draw_phantom(seed, vbmd=230.0, options=options)
    for level in phantom.findings:
        if any(finding.kind is not Kind.OSTEOPHYTES for finding in phantom.findings[level]):
            raster = rasterise(phantom, around(phantom, level, step=0.8, reach=50.0))
            assert hounsfield(raster)[raster.bodies > 0].max() < 2000


DENSE = {Kind.BONE_ISLAND: ("bone_island", 600), Kind.CEMENT: ("cement", 900), Kind.METAL: ("metal", 2500)}


@pytest.mark.parametrize("kind", DENSE)
def test_dense_findings_are_as_bright_as_they_are(kind):
    name, least = DENSE[kind]
    phantom, level, _ = first_with(kind, replace(PLAIN, **{name: 1.0}))
    bare = draw_phantom(phantom.seed, options=PLAIN)
    grid = around(phantom, level)
    found, before = hounsfield(rasterise(phantom, grid)), hounsfield(rasterise(bare, grid))
    changed = found - before > 300
    assert np.count_nonzero(changed & (found > least)) > 30  # mm3
    assert before[rasterise(bare, grid).bodies > 0].max() < 1500


def test_a_haemangioma_is_fat_between_struts():
    phantom, level, finding = first_with(Kind.HAEMANGIOMA, replace(PLAIN, haemangioma=1.0))
    bone = phantom.vertebra(level)
    grid = around(phantom, level)
    raster = rasterise(phantom, grid)
    points = grid.to_patient(np.stack(np.indices(grid.shape), axis=-1).astype(float))
    inside = np.linalg.norm(points - bone.point(-3, -3, 0), axis=-1) < 0.7 * min(finding.size, 0.4 * bone.height)
    assert raster.soft[inside].mean() < bone.marrow - 15
    assert np.percentile(raster.mineral[inside], 90) > 2 * bone.vbmd
    assert np.percentile(raster.mineral[inside], 20) < 0.5 * bone.vbmd


def test_a_schmorl_node_is_a_dent_in_an_endplate_that_the_disc_fills():
    phantom, level, finding = first_with(Kind.SCHMORL_NODE, replace(PLAIN, schmorl=1.0))
    healthy = draw_phantom(phantom.seed, options=PLAIN)
    grid = around(phantom, level)
    dented, whole = rasterise(phantom, grid).labels, rasterise(healthy, grid).labels
    lost = (whole == 1) & (dented != 1)
    half_a_ball = 2 / 3 * np.pi * finding.size**3
    assert 0.4 * half_a_ball < lost.sum() < 1.2 * half_a_ball  # the endplate is hollow already
    assert (dented[lost] == TISSUES.index("disc")).mean() > 0.8


def test_osteophytes_widen_the_rims():
    phantom, level, finding = first_with(Kind.OSTEOPHYTES, replace(PLAIN, osteophytes=1.0))
    assert finding.size > 0
    healthy = draw_phantom(phantom.seed, options=PLAIN)
    grid = around(phantom, level)
    assert (rasterise(phantom, grid).bodies > 0).sum() > (rasterise(healthy, grid).bodies > 0).sum()


def test_screws_are_joined_over_neighbouring_levels():
    phantom, _, _ = first_with(Kind.METAL, replace(PLAIN, metal=1.0))
    held = [level for level, findings in phantom.findings.items() if any(f.kind is Kind.METAL for f in findings)]
    assert 2 <= len(held) <= 4
    first = phantom.levels.index(held[0])
    assert tuple(held) == phantom.levels[first : first + len(held)]


def test_iodine_reaches_heart_arteries_and_kidneys_and_each_in_its_time():
    phantom = draw_phantom(4, options=PLAIN)
    grid = field_of_view(phantom, VertebralLevel.T4, L3, pixels=100, pixel_mm=4.0, slice_mm=4.0, offset_mm=(0.0, -45.0))
    native, arterial, venous = (rasterise(phantom, grid, contrast=phase).soft for phase in (None, "arterial", "venous"))
    litres = 4.0**3 / 1e6
    assert np.count_nonzero(arterial - native > 100) * litres > 0.2  # heart and great vessels
    assert np.count_nonzero(venous - native > 40) * litres > 0.8  # liver, spleen and kidneys too
    assert (arterial - native).max() > (venous[:, :, :50] - native[:, :, :50]).max()


def test_other_bone_is_no_tissue_of_the_spine():
    phantom = draw_phantom(2, options=PLAIN)
    x, y, z = phantom.vertebra(VertebralLevel.T5).centre
    grid = Geometry((40, 100, 140), (3.0,) * 3, (x - 210, y - 220, z - 60), CANONICAL)
    raster = rasterise(phantom, grid)
    bone = (hounsfield(raster) > 250) & (raster.labels == 0)
    points = grid.to_patient(np.argwhere(bone).astype(float))
    front = points[:, 1] < y - 90
    assert np.count_nonzero(front & (np.abs(points[:, 0] - x) < 30)) > 20  # the breastbone
    assert np.count_nonzero(~front & (np.abs(points[:, 0] - x) > 70)) > 20  # the shoulder blades


def test_patients_differ_as_people_do():
    phantoms = [draw_phantom(seed) for seed in range(80)]

    def angle(phantom):
        """Between the upper endplates of L1 and S1, degrees."""
        return np.rad2deg(phantom.sacrum.tilt - phantom.vertebra(VertebralLevel.L1).tilt)

    lordosis = [angle(phantom) for phantom in phantoms]
    assert np.percentile(lordosis, 5) > 18
    assert np.percentile(lordosis, 95) < 85
    lean = [max(abs(bone.lean) for bone in phantom.vertebrae) for phantom in phantoms]
    assert np.mean(np.rad2deg(lean) > 3) > 0.1  # some are scoliotic
    width = {sex: np.mean([p.vertebra(L3).width for p in phantoms if p.sex == sex]) for sex in "MF"}
    assert 0.85 < width["F"] / width["M"] < 0.95
    kinds = {finding.kind for phantom in phantoms for some in phantom.findings.values() for finding in some}
    assert len(kinds) >= 6
