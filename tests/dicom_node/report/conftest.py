"""A phantom's CT series on disk, and the analysis of it that a perfect engine would give."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from pydicom import Dataset, config, dcmread
from scipy import ndimage

from dicom_node.report.write import ReportOptions, write_report
from engine.records import (
    CLASSES,
    Anchor,
    BoneFinding,
    Calibration,
    CalibrationMethod,
    ClassProbability,
    Evaluation,
    InstanceRef,
    Measurement,
    ModelRef,
    Numbering,
    ObjectUids,
    Program,
    QualityFlag,
    Quantity,
    Reason,
    ReferenceMaterial,
    ScreeningResult,
    SeriesRef,
    VertebralLevel,
)
from engine.volume import Analysis, Geometry, Segmentation, Volume
from exporters.reference.phantom_series import SeriesTruth, write_series
from exporters.reference.spine_phantom import SpinePhantom, draw_phantom, field_of_view

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SPINE = ModelRef("reference-spine", "0.1.0", "a1" * 32, True, "f32", "openvino 2026.4.1")
DENSITY = ModelRef("reference-vbmd", "0.1.0", "b2" * 32, True, "f32", "openvino 2026.4.1")
PROJECTED = ModelRef("reference-sagittal", "0.1.0", "c3" * 32, True, "f32", "openvino 2026.4.1")
POLICY = "vbmd@1"
PATIENT = "Marked^Patient"


@pytest.fixture(scope="session")
def phantom() -> SpinePhantom:
    return draw_phantom(5, age=66, sex="F", vbmd=96.0)


@pytest.fixture(scope="session")
def series(phantom: SpinePhantom, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """T12 to L3 at 4 mm, coarse in the plane; densities at L1 and L2, a flag of each kind."""
    geometry = field_of_view(phantom, VertebralLevel.T12, VertebralLevel.L3, pixels=128, pixel_mm=1.6, slice_mm=4.0)
    return _written(phantom, tmp_path_factory.mktemp("ct"), geometry)


@pytest.fixture(scope="session")
def former() -> ObjectUids:
    """A document that was sent before."""
    return ObjectUids("1.2.840.10008.5.1.4.1.1.88.34", "2.25.71", "2.25.72")


@pytest.fixture(scope="session")
def thick(phantom: SpinePhantom, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """Slices of 5 mm."""
    geometry = field_of_view(phantom, VertebralLevel.L1, VertebralLevel.L3, pixels=160, pixel_mm=1.6, slice_mm=5.0)
    return _written(phantom, tmp_path_factory.mktemp("thick"), geometry)


@pytest.fixture
def changed(series: Analysis, tmp_path: Path) -> Callable[..., Analysis]:
    """The series again with other headers: a function that takes what to change in each."""

    def make(change: Callable[[Dataset], None], analysis: Analysis = series) -> Analysis:
        instances = []
        for n, instance in enumerate(analysis.series.instances):
            path = tmp_path / f"{n}.dcm"
            with config.disable_value_validation():
                dataset = dcmread(instance.path, stop_before_pixels=True)
                change(dataset)
                dataset.save_as(path)
            instances.append(replace(instance, path=str(path)))
        return replace(analysis, series=replace(analysis.series, instances=tuple(instances)))

    return make


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Path]]:
    """Write the report on an analysis, once for each: the path of each kind of object."""
    done: dict[tuple[int, ReportOptions, ObjectUids | None], tuple[Analysis, dict[str, Path]]] = {}

    def write(
        analysis: Analysis, options: ReportOptions | None = None, predecessor: ObjectUids | None = None
    ) -> dict[str, Path]:
        chosen = options or ReportOptions(picture=False)
        key = (id(analysis), chosen, predecessor)
        if key not in done:
            objects = write_report(analysis, tmp_path_factory.mktemp("report"), chosen, predecessor).objects
            done[key] = analysis, {one.kind: Path(one.path) for one in objects}
        return done[key][1]

    return write


def with_result(analysis: Analysis, **changes: object) -> Analysis:
    return replace(analysis, result=replace(analysis.result, **changes))


@pytest.fixture(scope="session")
def multiframe(series: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """The same slices as two legacy converted enhanced CT instances, the upper half first and head to foot."""
    files = [dcmread(instance.path) for instance in series.series.instances]
    half, folder = len(files) // 2, tmp_path_factory.mktemp("multiframe")
    instances, uids, frames = [], [], []
    for n, part in enumerate((files[half:][::-1], files[:half][::-1]), start=1):
        uid, path = f"1.2.826.0.1.3680043.8.498.77.{n}", folder / f"{n}.dcm"
        converted = LegacyConvertedEnhancedCTImage(part, series.series.series_instance_uid, 1, uid, n)
        converted.save_as(path)
        instances.append(InstanceRef(uid, str(converted.SOPClassUID), str(path)))
        places = [float(f.PlanePositionSequence[0].ImagePositionPatient[2])
                  for f in converted.PerFrameFunctionalGroupsSequence]  # fmt: skip
        order = np.argsort(places)
        uids[:0], frames[:0] = [uid] * len(part), [int(number) + 1 for number in order]
    volume = replace(series.volume, sop_instance_uids=tuple(uids), frame_numbers=tuple(frames))
    return replace(series, series=replace(series.series, instances=tuple(instances)), volume=volume)


@pytest.fixture(scope="session")
def complete(series: Analysis) -> Analysis:
    """All that the program can say: classes with probabilities, areal density, bone score, calibrated HU."""
    result, l1, l2, l3 = series.result, VertebralLevel.L1, VertebralLevel.L2, VertebralLevel.L3
    projected = [
        Measurement(quantity, value, level, str(PROJECTED))
        for level in (l1, l2, l3, None)
        for quantity, value in ((Quantity.AREAL_BMD, 0.9131), (Quantity.TRABECULAR_BONE_SCORE, 1.2866))
    ]
    calibrated = [Measurement(Quantity.CALIBRATED_BMD, 88.0, level, str(SPINE)) for level in (l1, None)]
    table, network = CalibrationMethod.SITE_TABLE, CalibrationMethod.NETWORK
    own, rods = ReferenceMaterial.HA, ReferenceMaterial.K2HPO4
    score = Quantity.TRABECULAR_BONE_SCORE
    return with_result(
        series,
        measurements=(*result.measurements, *projected, *calibrated),
        evaluations=(
            *result.evaluations,
            Evaluation(BoneFinding.IMPAIRED_MICROARCHITECTURE, None, "tbs@1", score),
            Evaluation(BoneFinding.OSTEOPENIA, None, POLICY, Quantity.CALIBRATED_BMD),
        ),
        class_probabilities=tuple(
            ClassProbability(finding, value, level, str(DENSITY))
            for level in (l1, l2, None)
            for finding, value in zip(CLASSES, (0.1, 0.7, 0.2), strict=True)
        ),
        areal_levels=(l1, l2, l3),
        calibrated_levels=(l1,),
        numberings=(Numbering(Anchor.SACRUM, 0), Numbering(Anchor.LAST_RIBS, 1)),
        calibrations=(
            Calibration(Quantity.VOLUMETRIC_BMD, network, str(DENSITY), own, 1.0, 0.0),
            Calibration(Quantity.CALIBRATED_BMD, table, "CT 2", rods, 0.81, 3.5, ("kvp-2026",)),
        ),
        models=(*result.models, PROJECTED),
    )


@pytest.fixture
def withheld(series: Analysis) -> Analysis:
    """Contrast: attenuation everywhere, a density nowhere."""
    result = series.result
    return with_result(
        series,
        measurements=tuple(m for m in result.measurements if m.quantity is not Quantity.VOLUMETRIC_BMD),
        evaluations=(),
        aggregated_levels=(),
        quality_flags=(QualityFlag(Reason.CONTRAST, None, True),),
        reason=Reason.CONTRAST,
    )


@pytest.fixture
def without_cores(withheld: Analysis) -> Analysis:
    """Bodies were named, but no core is left in any of them: nothing is measured."""
    cores = replace(withheld.trabecular, labels=np.zeros_like(withheld.trabecular.labels))
    flags = tuple(QualityFlag(Reason.CORE_TOO_SMALL, level, True) for level in withheld.result.levels)
    emptied = with_result(withheld, measurements=(), quality_flags=flags, reason=Reason.NO_ELIGIBLE_LEVEL)
    return replace(emptied, trabecular=cores)


@pytest.fixture
def turned(series: Analysis, changed: Callable[..., Analysis]) -> Analysis:
    """The same patient lying prone, feet first, on an oblique grid, and loaded from head to foot."""
    angle = np.deg2rad(12.0)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    turn = tilt @ np.diag([-1.0, -1.0, 1.0])

    def change(dataset: Dataset) -> None:
        position = turn @ np.array([float(value) for value in dataset.ImagePositionPatient])
        rows, columns = turn @ np.array([1.0, 0, 0]), turn @ np.array([0, 1.0, 0])
        dataset.ImagePositionPatient = [f"{value:.8g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.8g}" for value in (*rows, *columns)]
        dataset.PatientPosition = "FFP"

    moved = changed(change)
    old = series.volume.geometry
    origin = turn @ old.to_patient(np.array([old.shape[0] - 1.0, 0.0, 0.0]))
    axes = np.asarray(old.direction) @ turn.T * np.array([[-1.0], [1.0], [1.0]])
    direction = tuple(tuple(float(v) for v in axis) for axis in axes)
    geometry = Geometry(old.shape, old.spacing_mm, tuple(float(v) for v in origin), direction)
    volume = replace(
        moved.volume,
        geometry=geometry,
        hounsfield=moved.volume.hounsfield[::-1],
        sop_instance_uids=moved.volume.sop_instance_uids[::-1],
    )
    bodies, cores = (
        Segmentation(geometry, part.labels[::-1], part.segments) for part in (moved.bodies, moved.trabecular)
    )
    return replace(moved, volume=volume, bodies=bodies, trabecular=cores)


def _written(phantom: SpinePhantom, folder: Path, geometry: Geometry) -> Analysis:
    truth = write_series(
        folder, phantom, geometry=geometry, patient_name=PATIENT, patient_id="MARKED-4711", accession_number="ACC-17"
    )
    numbers = np.zeros(256, dtype=np.uint8)
    for number, level in enumerate(phantom.levels, start=1):
        numbers[number] = truth.levels.index(level) + 1 if level in truth.levels else 0
    bodies = Segmentation(geometry, numbers[truth.bodies], truth.levels)
    cores = Segmentation(geometry, _eroded(bodies), truth.levels)
    volume = Volume(geometry, truth.hounsfield, truth.series_instance_uid, truth.sop_instance_uids)
    return Analysis(_series(truth, phantom), volume, bodies, cores, _result(truth, cores))


def _series(truth: SeriesTruth, phantom: SpinePhantom) -> SeriesRef:
    machine = truth.scanner
    return SeriesRef(
        study_instance_uid=truth.study_instance_uid,
        series_instance_uid=truth.series_instance_uid,
        patient_key="0" * 32,
        patient_sex=phantom.sex,
        patient_age=phantom.age,
        study_date="20240115",
        acquisition_date="20240115",
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        body_part_examined="ABDOMEN",
        manufacturer=machine.manufacturer,
        manufacturer_model_name=machine.model,
        convolution_kernel=machine.kernel,
        slice_thickness=truth.geometry.spacing_mm[0],
        kvp=120.0,
        contrast_bolus_agent=False,
        gantry_detector_tilt=0.0,
        lossy_image_compression=False,
        has_rescale=True,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        extent_mm=(truth.geometry.shape[0] - 1) * truth.geometry.spacing_mm[0],
        instances=tuple(
            InstanceRef(uid, CT_IMAGE, str(path))
            for uid, path in zip(truth.sop_instance_uids, truth.paths, strict=True)
        ),
    )


def _result(truth: SeriesTruth, cores: Segmentation) -> ScreeningResult:
    measurements, evaluations = [], []
    for number, level in enumerate(cores.segments, start=1):
        hounsfield = truth.hounsfield[cores.labels == number].astype(float)
        volume = hounsfield.size * cores.geometry.voxel_volume_mm3 / 1000
        for quantity, value in (
            (Quantity.ATTENUATION_MEAN, hounsfield.mean()),
            (Quantity.ATTENUATION_MEDIAN, np.median(hounsfield)),
            (Quantity.ATTENUATION_SD, hounsfield.std()),
            (Quantity.CORE_VOLUME, volume),
        ):
            measurements.append(Measurement(quantity, float(value), level, str(SPINE)))
    used = (VertebralLevel.L1, VertebralLevel.L2)
    for place, value in [(level, truth.vbmd[level]) for level in used] + [
        (None, np.mean([truth.vbmd[x] for x in used]))
    ]:
        measurements.append(Measurement(Quantity.VOLUMETRIC_BMD, float(value), place, str(DENSITY)))
        evaluations.append(Evaluation(BoneFinding.OSTEOPENIA, place, POLICY))
    return ScreeningResult(
        study_instance_uid=truth.study_instance_uid,
        series_instance_uid=truth.series_instance_uid,
        program=Program.VERTEBRAL,
        levels=truth.levels,
        aggregated_levels=used,
        measurements=tuple(measurements),
        evaluations=tuple(evaluations),
        quality_flags=(
            QualityFlag(Reason.NEAR_CUT, None, False),
            QualityFlag(Reason.DENSE_FOCUS, VertebralLevel.L2, False, "3 % of the core"),
            QualityFlag(Reason.DENSITY_IMPLAUSIBLE, VertebralLevel.L3, True),
        ),
        reason=None,
        models=(SPINE, DENSITY),
        policy=POLICY,
        engine_version="0.1.0",
        analysed_at=datetime(2026, 11, 21, 10, 5, 7, 123456, tzinfo=UTC),
    )


def _eroded(bodies: Segmentation) -> np.ndarray:
    """What lies more than 3 mm inside each body."""
    cores = np.zeros_like(bodies.labels)
    for number, box in enumerate(ndimage.find_objects(bodies.labels), start=1):
        mask = np.pad(bodies.labels[box] == number, 1)
        deep = ndimage.distance_transform_edt(mask, sampling=bodies.geometry.spacing_mm)[1:-1, 1:-1, 1:-1] > 3.0
        cores[box][deep] = number
    return cores
