"""
The vertebral program: from a CT series to the density of its vertebrae.

One stage a line; stages know the types that they pass on and nothing of each other.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from types import TracebackType
from typing import Self

from engine.anatomy.crops import crop_vertebrae
from engine.anatomy.levels import LevelOptions, name_levels
from engine.anatomy.trabecular import trabecular_core
from engine.errors import UnusableModel
from engine.loading.load import LoadingOptions, load
from engine.measurement.attenuation import measure_attenuation
from engine.measurement.quality import QualityOptions, outliers, quality_flags
from engine.prediction.bone_density import predict_density
from engine.prediction.policy import DensityPolicy, aggregated_levels, evaluate
from engine.records import (
    Evaluation,
    Measurement,
    ModelRef,
    Program,
    QualityFlag,
    Quantity,
    Reason,
    ScreeningResult,
    SeriesRef,
)
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import find_package
from engine.runtime.session import Session
from engine.segmentation.vertebrae import SegmentationOptions, segment
from engine.volume import Analysis, Segmentation, Volume

TISSUES = ("vertebral_body", "disc", "rib", "sacrum")
"""What the spine network must tell apart for vertebrae to be found and named."""


@dataclass(frozen=True, slots=True)
class VertebralOptions:
    """All options of the program, a table a stage."""

    erosion_mm: float = 3.0  # from a body's surface to its trabecular core (Peng 2023)
    loading: LoadingOptions = field(default_factory=LoadingOptions)
    segmentation: SegmentationOptions = field(default_factory=SegmentationOptions)
    levels: LevelOptions = field(default_factory=LevelOptions)
    quality: QualityOptions = field(default_factory=QualityOptions)
    policy: DensityPolicy = field(default_factory=DensityPolicy)

    def __post_init__(self) -> None:
        """Refuse an erosion without meaning."""
        if self.erosion_mm < 0:
            raise ValueError(f"erosion_mm must be 0 or more, not {self.erosion_mm}")


class VertebralProgram:
    """The program with its models open. Use it in a `with`; one thread at a time."""

    program = Program.VERTEBRAL

    def __init__(self, options: VertebralOptions, runtime: RuntimeOptions) -> None:
        """Open the models.

        Raises:
            UnusableModel: a package is missing, damaged, or serves something else.
            BackendUnavailable: nothing can run them here.
        """
        self.options = options
        with ExitStack() as opened:
            self._spine = opened.enter_context(_session("spine_segmentation", runtime))
            _check_tissues(self._spine)
            self._density = opened.enter_context(_session("vertebral_bmd", runtime))
            self._opened = opened.pop_all()

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """What the numbers come from."""
        return self._spine.model, self._density.model

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the models."""
        self._opened.close()

    def analyse(self, series: SeriesRef, told: Callable[[str], object] = str) -> Analysis:
        """Take one series from its files to its result.

        Args:
            told: called with the name of each stage when it begins, for people who wait.

        Raises:
            SeriesError: it can't be analysed; the reason says why.
        """
        options, watch = self.options, _Watch(told)
        with watch("load"):
            volume = load(series, options.loading)
        with watch("segment"):
            tissues = segment(volume, self._spine, options.segmentation)
        with watch("anatomy"):
            named = name_levels(tissues, volume.geometry, options.levels)
            cores = trabecular_core(named.bodies, options.erosion_mm)
        with watch("measure"):
            measured = measure_attenuation(volume, cores, str(self._spine.model))
            flags = named.flags + quality_flags(series, volume, named.bodies, cores, options.quality)
        with watch("predict"):
            density = self._densities(volume, cores, flags)
        result = self._result(series, named.bodies, measured, flags, density, watch)
        return Analysis(series, volume, named.bodies, cores, result)

    def _densities(
        self, volume: Volume, cores: Segmentation, flags: tuple[QualityFlag, ...]
    ) -> tuple[tuple[Measurement, ...], tuple[QualityFlag, ...]]:
        """Densities of the levels that nothing speaks against."""
        withheld = {flag.finding_site for flag in flags if flag.withholds}
        if None in withheld:
            return (), ()
        manifest = self._density.manifest
        crops = crop_vertebrae(volume, cores, manifest.tile, manifest.spacing_mm)
        return predict_density([crop for crop in crops if crop.level not in withheld], self._density)

    def _result(
        self,
        series: SeriesRef,
        bodies: Segmentation,
        measured: tuple[Measurement, ...],
        flags: tuple[QualityFlag, ...],
        predicted: tuple[tuple[Measurement, ...], tuple[QualityFlag, ...]],
        watch: "_Watch",
    ) -> ScreeningResult:
        densities, implausible = predicted
        by_level = {one.finding_site: one.value for one in densities if one.finding_site is not None}
        odd = outliers(by_level, self.options.quality)
        flags = (*flags, *implausible, *odd)
        eligible = [level for level in by_level if level not in {flag.finding_site for flag in odd}]
        chosen = aggregated_levels(eligible, self.options.policy)
        evaluations: tuple[Evaluation, ...] = ()
        if chosen:
            mean, evaluation, near = evaluate(by_level, chosen, self.options.policy)
            densities = (*densities, Measurement(Quantity.VOLUMETRIC_BMD, mean, None, str(self._density.model)))
            evaluations, flags = (evaluation,), (*flags, *near)
        return ScreeningResult(
            study_instance_uid=series.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            program=Program.VERTEBRAL,
            levels=tuple(level for level in bodies.segments if level is not None),
            aggregated_levels=chosen,
            measurements=(*measured, *densities),
            evaluations=evaluations,
            quality_flags=flags,
            reason=None if chosen else _why_none(flags),
            models=self.models,
            policy=str(self.options.policy),
            engine_version=engine_version(self.options),
            analysed_at=datetime.now(UTC),
            stage_seconds=watch.seconds,
        )


def _session(task: str, runtime: RuntimeOptions) -> Session:
    return open_session(find_package(runtime.model_folder, task), runtime)


def _check_tissues(session: Session) -> None:
    missing = [tissue for tissue in TISSUES if tissue not in session.manifest.labels]
    if missing:
        raise UnusableModel(f"model '{session.manifest.name}' does not tell {', '.join(missing)} apart")


def _why_none(flags: tuple[QualityFlag, ...]) -> Reason:
    """What takes the patient's density away: what speaks against the whole series, or against too many levels."""
    return next(
        (flag.reason for flag in flags if flag.withholds and flag.finding_site is None), Reason.NO_ELIGIBLE_LEVEL
    )


def engine_version(options: VertebralOptions) -> str:
    """The version of the program; a digest tells options that are not the defaults, as they change numbers.

    >>> engine_version(VertebralOptions()) == engine_version(VertebralOptions(erosion_mm=2.0))
    False
    """
    try:
        number = version("trabecula")
    except PackageNotFoundError:  # a bare clone
        number = "unknown"
    if options == VertebralOptions():
        return number
    return f"{number}+{sha256(repr(options).encode()).hexdigest()[:8]}"


class _Watch:
    """Seconds of each stage."""

    def __init__(self, told: Callable[[str], object]) -> None:
        self.seconds: tuple[tuple[str, float], ...] = ()
        self._told = told

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._told(stage)
        begun = perf_counter()
        yield
        self.seconds += ((stage, perf_counter() - begun),)
