"""
The vertebral program: from a CT series to the density of its vertebrae.

One stage a method; stages know the types that they pass on and nothing of each other. What one finds out about a
series is written into its case; engine.batch lets many cases pass the stages at the same time.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.anatomy.crops import crop_vertebrae
from engine.anatomy.levels import LevelOptions, NamedVertebrae, name_levels
from engine.anatomy.posterior import whole_vertebrae
from engine.anatomy.sagittal import cut_vertebrae
from engine.anatomy.trabecular import trabecular_core
from engine.errors import UnusableModel
from engine.loading.dali_resampling import DaliResampler, Resampler, ResamplingOptions
from engine.loading.isolation import Decoders
from engine.loading.load import LoadingOptions, load
from engine.measurement.attenuation import measure_attenuation
from engine.measurement.calibration import CalibrationOptions
from engine.measurement.densities import calibrated_densities, on_line
from engine.measurement.quality import QualityOptions, quality_flags
from engine.measurement.surroundings import slabs
from engine.prediction.bone_class import Classes, Probabilities, patient_classes, predicting_classes
from engine.prediction.bone_density import Densities, predicting_density
from engine.prediction.from_side import ArealPolicy, Scores, judge, patient_means, predicting_from_side
from engine.prediction.policy import DensityPolicy
from engine.programs.aggregation import patients_value
from engine.programs.calibrating import Calibrator, without_line
from engine.programs.stages import Stage, each
from engine.records import (
    CLASSES,
    Calibration,
    Measurement,
    ModelRef,
    Program,
    QualityFlag,
    Quantity,
    Reason,
    ScreeningResult,
    SeriesRef,
)
from engine.resampling import resample
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import ModelManifest, SagittalCut, find_optional, find_package
from engine.runtime.session import Session
from engine.runtime.sharing import Asking, ask_together
from engine.segmentation.vertebrae import SegmentationOptions, network_grid, segmenting
from engine.volume import Analysis, Segmentation, TissueMap, VertebraCrop, VertebraCut, Volume

TISSUES = ("vertebral_body", "disc", "rib", "sacrum")
"""What the spine network must tell apart for vertebrae to be found and named."""
FROM_SIDE = {"areal_bmd": Quantity.AREAL_BMD, "bone_score": Quantity.TRABECULAR_BONE_SCORE}
"""Tasks of models that read a picture from the side, and what they tell. A site may do without them."""


@dataclass(frozen=True, slots=True)
class VertebralOptions:
    """All options of the program, a table a stage."""

    erosion_mm: float = 3.0  # from a body's surface to its trabecular core (Peng 2023)
    loading: LoadingOptions = field(default_factory=LoadingOptions)
    resampling: ResamplingOptions = field(default_factory=ResamplingOptions)
    segmentation: SegmentationOptions = field(default_factory=SegmentationOptions)
    levels: LevelOptions = field(default_factory=LevelOptions)
    quality: QualityOptions = field(default_factory=QualityOptions)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    policy: DensityPolicy = field(default_factory=DensityPolicy)
    areal: ArealPolicy = field(default_factory=ArealPolicy)

    def __post_init__(self) -> None:
        """Refuse an erosion without meaning."""
        if self.erosion_mm < 0:
            raise ValueError(f"erosion_mm must be 0 or more, not {self.erosion_mm}")


@dataclass(slots=True, eq=False)
class VertebralCase:
    """One series on its way through the program: each stage adds what the next ones need."""

    series: SeriesRef
    seconds: tuple[tuple[str, float], ...] = ()  # of the stages that it passed
    volume: Volume = field(init=False)
    image: NDArray[np.float32] | None = None  # on the spine network's grid, where DALI made it
    tissues: TissueMap = field(init=False)
    named: NamedVertebrae = field(init=False)
    cores: Segmentation = field(init=False)
    measured: tuple[Measurement, ...] = field(init=False)
    flags: tuple[QualityFlag, ...] = field(init=False)
    calibrated: tuple[Measurement, ...] = ()  # from HU by a line
    calibrations: tuple[Calibration, ...] = field(init=False)
    densities: tuple[Measurement, ...] = field(init=False)
    implausible: tuple[QualityFlag, ...] = field(init=False)
    probabilities: Probabilities = ()
    scores: tuple[Measurement, ...] = ()  # areal density, bone score


@dataclass(slots=True)
class _Pictures:
    """What models that look from the side share of one series."""

    whole: Segmentation | None = None
    cuts: dict[tuple[SagittalCut, tuple[float, ...]], tuple[VertebraCut, ...]] = field(default_factory=dict)


class VertebralProgram:
    """The program with its models open. Use it in a `with`; one thread at a time."""

    program = Program.VERTEBRAL

    def __init__(self, options: VertebralOptions, runtime: RuntimeOptions) -> None:
        """Open the models.

        Raises:
            UnusableModel: a package is missing, damaged, or serves something else.
            BackendUnavailable: nothing can run them here.
            BadOption: the site's calibration table can't be used.
        """
        self.options = options
        self._calibrator = Calibrator(options.calibration)
        with ExitStack() as opened:
            self._spine = opened.enter_context(_session("spine_segmentation", runtime))
            _check_tissues(self._spine)
            self._density = opened.enter_context(_session("vertebral_bmd", runtime))
            self._class = _optional("vertebral_class", runtime, opened)
            sessions = {quantity: _optional(task, runtime, opened) for task, quantity in FROM_SIDE.items()}
            self._from_side = {quantity: one for quantity, one in sessions.items() if one}
            _check_optional(self._class, self._from_side)
            self._dali = DaliResampler(options.resampling) if options.resampling.by is Resampler.DALI else None
            self._decoders = opened.enter_context(Decoders(options.loading.isolation))
            self._opened = opened.pop_all()

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """What the numbers come from."""
        optional = [self._class, *self._from_side.values()]
        return self._spine.model, self._density.model, *(one.model for one in optional if one)

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the models."""
        self._opened.close()

    @property
    def stages(self) -> tuple[Stage[VertebralCase], ...]:
        """The trip. A stage with a network takes several series at once where its session computes in batches."""
        stages = [
            Stage("load", each(self._load)),
            *([Stage("prepare", each(self._prepare))] if self._dali else []),
            Stage("segment", self._segment, together=self._spine.batch),
            Stage("anatomy", each(self._anatomy)),
            Stage("measure", each(self._measure)),
            Stage("predict", self._predict, together=self._density.batch),
        ]
        if self._from_side:
            together = max(session.batch for session in self._from_side.values())
            stages.append(Stage("from_side", self._look_from_side, together=together))
        return tuple(stages)

    def begin(self, series: SeriesRef) -> VertebralCase:
        """A series before its first stage."""
        return VertebralCase(series)

    def analyse(self, series: SeriesRef, told: Callable[[str], object] = str) -> Analysis:
        """Take one series from its files to its result.

        Args:
            told: called with the name of each stage when it begins, for people who wait.

        Raises:
            SeriesError: it can't be analysed; the reason says why.
        """
        case = self.begin(series)
        for stage in self.stages:
            told(stage.name)
            (failure,) = stage.run([case])
            if failure is not None:
                raise failure
        return self.end(case)

    def end(self, case: VertebralCase) -> Analysis:
        """What a series that passed all stages yields."""
        return Analysis(case.series, case.volume, case.named.bodies, case.cores, self._result(case))

    def _load(self, case: VertebralCase) -> None:
        case.volume = load(case.series, self.options.loading, self._decoders)

    def _prepare(self, case: VertebralCase) -> None:
        """The whole volume by DALI's graph, as the spine network wants to see it."""
        if self._dali:
            grid = network_grid(case.volume, self._spine.manifest, self.options.segmentation)
            low, high = self._spine.manifest.hounsfield_window
            case.image = self._dali.image(case.volume, grid, (low, high))

    def _segment(self, cases: Sequence[VertebralCase]) -> list[Exception | None]:
        manifest, options = self._spine.manifest, self.options.segmentation
        askings = [segmenting(case.volume, manifest, options, case.image) for case in cases]
        ends = ask_together(askings, self._spine)
        for case, end in zip(cases, ends, strict=True):
            case.image = None
            if not isinstance(end, Exception):
                case.tissues = end
        return [end if isinstance(end, Exception) else None for end in ends]

    def _anatomy(self, case: VertebralCase) -> None:
        case.named = name_levels(case.tissues, case.volume.geometry, self.options.levels)
        case.cores = trabecular_core(case.named.bodies, self.options.erosion_mm)

    def _measure(self, case: VertebralCase) -> None:
        case.measured = measure_attenuation(case.volume, case.cores, str(self._spine.model))
        bodies = case.named.bodies
        around = slabs(case.volume, bodies)
        case.flags = case.named.flags + quality_flags(
            case.series, case.volume, bodies, case.cores, around, self.options.quality
        )
        network, unknown = self._calibrator.network(case.series, self._density.manifest)
        if not any(flag.withholds and flag.finding_site is None for flag in case.flags):
            case.flags += unknown  # where nothing is given anyway, there is nothing to say of it
        line = self._calibrator.hounsfield(case.series, case.flags, around)
        case.calibrations = (network,) if line is None else (network, line)
        if line is not None:
            case.calibrated = calibrated_densities(case.measured, line, without_line(line, case.flags))

    def _predict(self, cases: Sequence[VertebralCase]) -> list[Exception | None]:
        """Densities and classes of the levels that nothing speaks against."""
        manifest, model = self._density.manifest, str(self._density.model)
        crops: list[list[VertebraCrop]] = [[] for _ in cases]

        def asking(case: VertebralCase, own: list[VertebraCrop]) -> Asking[Densities]:
            own += self._crops(case, manifest)
            return (yield from predicting_density(own, manifest, model))

        askings = [asking(case, own) for case, own in zip(cases, crops, strict=True)]
        failures: list[Exception | None] = []
        for case, own, end in zip(cases, crops, ask_together(askings, self._density), strict=True):
            if isinstance(end, Exception):
                failures.append(end)
                continue
            case.densities, case.implausible = end
            case.densities = on_line(case.densities, case.calibrations[0])
            failures.append(self._classify(case, own))
        return failures

    def _classify(self, case: VertebralCase, crops: Sequence[VertebraCrop]) -> Exception | None:
        """Classes of the levels whose density is told; the density's crops are the classifier's where they fit."""
        if self._class is None:
            return None
        (end,) = ask_together([self._asking_classes(case, crops, self._class)], self._class)
        if isinstance(end, Exception):
            return end
        case.probabilities, flags = end
        case.implausible += flags
        return None

    def _asking_classes(self, case: VertebralCase, crops: Sequence[VertebraCrop], session: Session) -> Asking[Classes]:
        manifest = session.manifest
        if (manifest.tile, manifest.spacing_mm) != (self._density.manifest.tile, self._density.manifest.spacing_mm):
            crops = self._crops(case, manifest)
        told = {one.finding_site for one in case.densities}
        some = [crop for crop in crops if crop.level in told]
        return (yield from predicting_classes(some, manifest, str(session.model)))

    def _crops(self, case: VertebralCase, manifest: ModelManifest) -> list[VertebraCrop]:
        """Around each level whose density will be told; none is cut out for nothing."""
        withheld = {flag.finding_site for flag in case.flags if flag.withholds}
        if None in withheld:
            return []
        by = self._dali.resample if self._dali else resample
        crops = crop_vertebrae(case.volume, case.cores, manifest.tile, manifest.spacing_mm, by)
        return [crop for crop in crops if crop.level not in withheld]

    def _look_from_side(self, cases: Sequence[VertebralCase]) -> list[Exception | None]:
        """Areal density and bone score of the levels whose density was told."""
        failures: list[Exception | None] = [None] * len(cases)
        pictures = [_Pictures() for _ in cases]
        for quantity, session in self._from_side.items():
            askings = [self._asking_from_side(case, kept, quantity, session)
                       for case, kept in zip(cases, pictures, strict=True)]  # fmt: skip
            for n, (case, end) in enumerate(zip(cases, ask_together(askings, session), strict=True)):
                if isinstance(end, Exception):
                    failures[n] = end
                else:
                    case.scores += end[0]
                    case.implausible += end[1]
        return failures

    def _asking_from_side(
        self, case: VertebralCase, kept: "_Pictures", quantity: Quantity, session: Session
    ) -> Asking[Scores]:
        """Models that want the same pictures share them."""
        manifest = session.manifest
        how = manifest.cut or SagittalCut(), tuple(manifest.hounsfield_window)
        if how not in kept.cuts:
            if kept.whole is None:
                kept.whole = self._whole(case)
            told = {one.finding_site for one in case.densities}
            levels = [level for level in self.options.areal.levels if level in told]
            kept.cuts[how] = cut_vertebrae(case.volume, case.named.bodies, kept.whole, levels, *how)
        return (yield from predicting_from_side(kept.cuts[how], quantity, manifest, str(session.model)))

    def _whole(self, case: VertebralCase) -> Segmentation:
        """Bodies with their posterior elements; without a density nobody looks, and nothing is sought."""
        return whole_vertebrae(case.named.bodies, case.tissues) if case.densities else case.named.bodies

    def _result(self, case: VertebralCase) -> ScreeningResult:
        policy, quality = self.options.policy, self.options.quality
        network = patients_value(case.densities, policy, quality)
        odd = {flag.finding_site for flag in network.flags if flag.reason is Reason.OUTLIER_LEVEL}
        by_line = patients_value(case.calibrated, policy, quality, odd)
        means, areal_levels = patient_means(case.scores, odd, self.options.areal)
        called = judge(means, case.series.patient_sex, self.options.areal)
        flags = (*case.flags, *case.implausible, *network.flags, *by_line.flags)
        measurements = (*case.measured, *network.densities, *by_line.densities, *case.scores, *means)
        told = {one.quantity for one in measurements}
        return ScreeningResult(
            study_instance_uid=case.series.study_instance_uid,
            series_instance_uid=case.series.series_instance_uid,
            program=Program.VERTEBRAL,
            levels=tuple(level for level in case.named.bodies.segments if level is not None),
            aggregated_levels=network.levels,
            measurements=measurements,
            evaluations=(*network.evaluations, *by_line.evaluations, *called),
            quality_flags=flags,
            reason=None if network.levels else _why_none(flags),
            models=self.models,
            policy=str(self.options.policy),
            engine_version=engine_version(self.options, self._calibrator.table_sha256),
            analysed_at=datetime.now(UTC),
            stage_seconds=case.seconds,
            calibrations=tuple(one for one in case.calibrations if one.quantity in told),
            calibrated_levels=by_line.levels,
            numberings=case.named.numberings,
            class_probabilities=(*case.probabilities, *patient_classes(case.probabilities, network.levels)),
            areal_levels=areal_levels,
        )


def _session(task: str, runtime: RuntimeOptions) -> Session:
    return open_session(find_package(runtime.model_folder, task), runtime)


def _optional(task: str, runtime: RuntimeOptions, opened: ExitStack) -> Session | None:
    package = find_optional(runtime.model_folder, task)
    return opened.enter_context(open_session(package, runtime)) if package else None


def _check_optional(classifier: Session | None, from_side: Mapping[Quantity, Session]) -> None:
    if classifier and set(classifier.manifest.labels) != set(CLASSES):
        raise UnusableModel(f"model '{classifier.manifest.name}' does not tell {', '.join(CLASSES)} apart")
    for session in from_side.values():
        if session.manifest.cut is None:
            raise UnusableModel(f"model '{session.manifest.name}' does not say how its pictures are cut")


def _check_tissues(session: Session) -> None:
    missing = [tissue for tissue in TISSUES if tissue not in session.manifest.labels]
    if missing:
        raise UnusableModel(f"model '{session.manifest.name}' does not tell {', '.join(missing)} apart")


def _why_none(flags: tuple[QualityFlag, ...]) -> Reason:
    """What takes the patient's density away: what speaks against the whole series, or against too many levels."""
    return next(
        (flag.reason for flag in flags if flag.withholds and flag.finding_site is None), Reason.NO_ELIGIBLE_LEVEL
    )


def engine_version(options: VertebralOptions, table_sha256: str = "") -> str:
    """The version of the program; a digest tells options that are not the defaults, as they change numbers.

    Args:
        table_sha256: of the calibration table; what is in it counts, not where it lies.

    >>> engine_version(VertebralOptions()) == engine_version(VertebralOptions(erosion_mm=2.0))
    False
    """
    try:
        number = version("trabecula")
    except PackageNotFoundError:  # a bare clone
        number = "unknown"
    options = replace(options, calibration=replace(options.calibration, table=table_sha256))
    if options == VertebralOptions():
        return number
    return f"{number}+{sha256(repr(options).encode()).hexdigest()[:8]}"
