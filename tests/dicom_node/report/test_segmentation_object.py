"""The segmentation holds exactly the measured voxels, where they are in the patient, and no empty frame."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from highdicom.seg import segread
from highdicom.sr import srread
from pydicom import Dataset, dcmread
from pydicom.uid import LegacyConvertedEnhancedCTImageStorage, RLELossless

from dicom_node.report.options import ReportOptions, SegmentationForm
from dicom_node.report.segmentation_object import build_segmentation, measured_cores, tracking_name
from dicom_node.report.source_headers import read_source
from dicom_node.report.structured_report import build_report
from engine.records import VertebralLevel
from engine.volume import Geometry, Segmentation, Volume

LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"


@pytest.mark.parametrize("case", ["series", "thick", "turned"])
def test_the_voxels_are_the_measured_ones(case, written, request):
    analysis = request.getfixturevalue(case)
    segmentation = segread(written(analysis)["seg"])
    masks = segmentation.get_pixels_by_source_instance(
        list(analysis.volume.sop_instance_uids), assert_missing_frames_are_empty=True, ignore_spatial_locations=True
    )
    for number, level in enumerate(analysis.result.levels, start=1):
        expected = analysis.trabecular.labels == analysis.trabecular.segments.index(level) + 1
        assert np.array_equal(masks[..., number - 1], expected)
        assert segmentation.get_segment_description(number).segment_label == tracking_name(level)
    for number, level in enumerate(analysis.result.levels, start=len(analysis.result.levels) + 1):
        expected = analysis.bodies.labels == analysis.bodies.segments.index(level) + 1
        assert np.array_equal(masks[..., number - 1], expected), "a body is whole, its core too"
        assert segmentation.get_segment_description(number).segment_label == f"{level.value} vertebral body"


def test_a_labelmap_says_the_same_in_less_room(series, written):
    paths = written(series), written(series, ReportOptions(picture=False, segmentation=SegmentationForm.LABELMAP))
    binary, labelmap = (segread(path["seg"]) for path in paths)
    assert labelmap.SOPClassUID == LABEL_MAP_SEGMENTATION_STORAGE
    assert labelmap.file_meta.TransferSyntaxUID == RLELossless
    assert paths[1]["seg"].stat().st_size < paths[0]["seg"].stat().st_size / 4
    uids = list(series.volume.sop_instance_uids)
    masks = labelmap.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    count = len(series.result.levels)
    for number, level in enumerate(series.result.levels, start=1):
        core = series.trabecular.labels == series.trabecular.segments.index(level) + 1
        body = series.bodies.labels == series.bodies.segments.index(level) + 1
        assert np.array_equal(masks[..., number - 1], core)
        assert np.array_equal(masks[..., count + number - 1], body & ~core)
    groups = srread(paths[1]["sr"]).content.get_volumetric_roi_measurement_groups()
    (reference,) = groups[0].referenced_segment[0].ReferencedSOPSequence
    assert reference.ReferencedSOPClassUID == LABEL_MAP_SEGMENTATION_STORAGE
    assert binary.SOPInstanceUID == labelmap.SOPInstanceUID


@pytest.mark.dcmtk
@pytest.mark.skipif(shutil.which("dcmdrle") is None, reason="DCMTK (dcmdrle) is not installed")
def test_dcmtk_reads_a_labelmap_whole(series, written, tmp_path):
    """No validator at hand knows the class of 2024; a foreign parser and RLE decoder at least take the file."""
    path = written(series, ReportOptions(picture=False, segmentation=SegmentationForm.LABELMAP))["seg"]
    said = subprocess.run(["dcmdrle", str(path), str(tmp_path / "plain.dcm")], capture_output=True, check=False)
    assert (said.returncode, said.stderr) == (0, b"")
    plain, ours = dcmread(tmp_path / "plain.dcm"), dcmread(path)
    assert plain.file_meta.ImplementationVersionName.startswith("OFFIS")
    assert np.array_equal(np.frombuffer(plain.PixelData, np.uint8)[: ours.pixel_array.size], ours.pixel_array.ravel())
    assert set(np.unique(ours.pixel_array)) == set(range(2 * len(series.result.levels) + 1))
    del plain.PixelData, ours.PixelData
    assert plain == ours


def test_bodies_can_be_left_out(series, written):
    segments = dcmread(written(series, ReportOptions(picture=False, bodies=False))["seg"]).SegmentSequence
    assert [item.SegmentLabel for item in segments] == [tracking_name(level) for level in series.result.levels]


@pytest.mark.parametrize("case", ["series", "turned", "multiframe"])
def test_frames_lie_where_the_voxels_are_in_the_patient(case, written, request):
    analysis = request.getfixturevalue(case)
    segmentation = dcmread(written(analysis)["seg"])
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=float)
    step = float(shared.PixelMeasuresSequence[0].SpacingBetweenSlices)
    assert step == pytest.approx(analysis.volume.geometry.spacing_mm[0])
    found: dict[int, list[np.ndarray]] = {}
    for mask, frame in zip(segmentation.pixel_array, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        rows, columns = np.nonzero(mask)
        points = corner + columns[:, None] * spacing[1] * axes[0] + rows[:, None] * spacing[0] * axes[1]
        found.setdefault(int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber), []).append(points)
    for number, level in enumerate(analysis.result.levels, start=1):
        label = analysis.trabecular.segments.index(level) + 1
        expected = analysis.trabecular.geometry.to_patient(
            np.argwhere(analysis.trabecular.labels == label).astype(float)
        )
        points = np.concatenate(found[number])
        assert np.allclose(points[np.lexsort(points.T.round(3))], expected[np.lexsort(expected.T.round(3))], atol=0.01)


def test_no_frame_is_empty_and_only_their_slices_are_referred_to(series, written):
    segmentation = dcmread(written(series)["seg"])
    assert segmentation.pixel_array.reshape(segmentation.NumberOfFrames, -1).any(axis=1).all()
    first, last = np.flatnonzero(series.bodies.labels.any(axis=(1, 2)))[[0, -1]]
    (reference,) = segmentation.ReferencedSeriesSequence
    referred = {item.ReferencedSOPInstanceUID for item in reference.ReferencedInstanceSequence}
    assert referred == set(series.volume.sop_instance_uids[first : last + 1])
    assert segmentation.FrameOfReferenceUID == dcmread(series.series.instances[0].path).FrameOfReferenceUID


def test_frames_of_a_multi_frame_source_are_named(multiframe, written):
    segmentation = dcmread(written(multiframe)["seg"])
    geometry, volume = multiframe.volume.geometry, multiframe.volume
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        k = round(float(geometry.to_index(corner)[0]))
        assert (image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber) == (
            volume.sop_instance_uids[k],
            volume.frame_numbers[k],
        )
    (series,) = segmentation.ReferencedSeriesSequence
    assert [item.ReferencedSOPClassUID for item in series.ReferencedInstanceSequence] == [
        LegacyConvertedEnhancedCTImageStorage
    ] * 2


def test_a_level_without_a_core_has_no_segment_and_numbers_stay_dense(series, written):
    labels = series.trabecular.labels.copy()
    labels[labels == 2] = 0
    fewer = replace(series, trabecular=replace(series.trabecular, labels=labels))
    segmentation = dcmread(written(fewer)["seg"])
    kept = [level for n, level in enumerate(series.result.levels, start=1) if n != 2]
    segments = segmentation.SegmentSequence
    assert [item.SegmentNumber for item in segments] == list(range(1, 2 * len(kept) + 2))
    assert [item.SegmentLabel for item in segments[: len(kept)]] == [tracking_name(level) for level in kept]


def test_without_any_core_the_bodies_are_shown(without_cores, written):
    segments = dcmread(written(without_cores)["seg"]).SegmentSequence
    assert [item.SegmentLabel for item in segments] == [
        f"{level} vertebral body" for level in without_cores.result.levels
    ]


def test_without_any_named_body_there_is_no_segmentation(without_cores, written):
    nameless = replace(without_cores, result=replace(without_cores.result, levels=()))
    assert set(written(nameless)) == {"sr"}


def test_without_a_frame_of_reference_there_is_no_segmentation(series, changed, written):
    def lose(dataset: Dataset) -> None:
        del dataset.FrameOfReferenceUID

    assert set(written(changed(lose))) == {"sr"}


def test_a_single_segment_is_written_too(thick, written):
    alone = replace(thick, result=replace(thick.result, levels=(VertebralLevel.L2,), quality_flags=()))
    (segment,) = dcmread(written(alone, ReportOptions(picture=False, bodies=False))["seg"]).SegmentSequence
    assert segment.SegmentLabel == "L2 trabecular core"


@pytest.mark.slow
def test_a_series_of_a_thousand_slices_costs_no_more_than_its_spine(series, tmp_path):
    """1,000 slices of 512 x 512 with 17 levels; headers only, as the report reads them."""
    levels = tuple(level for level in VertebralLevel if level not in ("L6", "S1"))
    geometry = Geometry((1000, 512, 512), (1.0, 0.8, 0.8), (0.0, 0.0, 0.0), series.volume.geometry.direction)
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    for n in range(len(levels)):
        labels[10 + 25 * n : 28 + 25 * n, 240:275, 230:285] = len(levels) - n
    template = dcmread(series.series.instances[0].path, stop_before_pixels=True)
    instances = []
    for k in range(1000):
        template.SOPInstanceUID, template.Rows, template.Columns = f"1.2.3.{k + 1}", 512, 512
        template.ImagePositionPatient, template.PixelSpacing = [0, 0, float(k)], [0.8, 0.8]
        template.save_as(tmp_path / f"{k}.dcm")
        uid = str(template.SOPInstanceUID)
        instances.append(replace(series.series.instances[0], sop_instance_uid=uid, path=str(tmp_path / f"{k}.dcm")))
    long = replace(
        series,
        series=replace(series.series, instances=tuple(instances)),
        volume=Volume(
            geometry, labels.view(np.int8).astype(np.int16), "1.2", tuple(i.sop_instance_uid for i in instances)
        ),
        bodies=Segmentation(geometry, labels, levels),
        trabecular=Segmentation(geometry, labels, levels),
        result=replace(series.result, levels=levels),
    )
    cores = measured_cores(long, with_bodies=False)
    source = read_source(long, range(cores.start, cores.start + len(cores.labels)))
    segmentation = build_segmentation(long, cores, source, ReportOptions())
    assert len(source.slices) == 1 + 17 * 25 - 7
    assert segmentation.NumberOfFrames == 17 * 18
    report = build_report(long, cores, segmentation, source, ReportOptions())
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert [len(one.ReferencedSOPSequence) for one in study.ReferencedSeriesSequence] == [1000, 1]
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools (dciodvfy) is not installed: what was written is not judged")
    for name, written in (("seg", segmentation), ("sr", report)):
        written.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
        said = subprocess.run(["dciodvfy", str(tmp_path / f"{name}.dcm")], capture_output=True, text=True, check=False)
        assert [line for line in said.stderr.splitlines() if line.startswith("Error")] == []
        assert said.returncode == 0


def test_an_unnamed_core_is_not_reported(series):
    unnamed = replace(series.trabecular, segments=(None, *series.trabecular.segments[1:]))
    found = measured_cores(replace(series, trabecular=unnamed))
    assert found.levels == series.result.levels[1:]
