"""
The vertebral program: from a CT series to the density of its vertebrae.

One stage a method; stages know the types that they pass on and nothing of each other. What one finds out about a
series is written into its case; engine.batch lets many cases pass the stages at the same time.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from engine.anatomy.crops import crop_vertebrae
from engine.anatomy.levels import name_levels
from engine.anatomy.posterior import whole_vertebrae
from engine.anatomy.sagittal import cut_vertebrae
from engine.anatomy.trabecular import trabecular_core
from engine.loading.dali_resampling import DaliResampler, Resampler
from engine.loading.isolation import Decoders
from engine.loading.load import load
from engine.measurement.attenuation import measure_attenuation
from engine.measurement.densities import calibrated_densities, on_line
from engine.measurement.quality import quality_flags
from engine.measurement.surroundings import slabs
from engine.prediction.bone_class import Classes, predicting_classes
from engine.prediction.bone_density import Densities, predicting_density
from engine.prediction.from_side import Scores, predicting_from_side
from engine.programs.calibrating import Calibrator, without_line
from engine.programs.stages import Stage, each
from engine.programs.vertebral_models import (
    FROM_SIDE,
    check_optional,
    check_tissues,
    needed_session,
    optional_session,
)
from engine.programs.vertebral_options import VertebralOptions as VertebralOptions
from engine.programs.vertebral_options import engine_version as engine_version
from engine.programs.vertebral_result import VertebralCase as VertebralCase
from engine.programs.vertebral_result import result_of
from engine.records import (
    ModelRef,
    Program,
    Quantity,
    SeriesRef,
)
from engine.resampling import resample
from engine.runtime.backends import RuntimeOptions
from engine.runtime.manifest import ModelManifest, SagittalCut
from engine.runtime.memory import share_heap
from engine.runtime.session import Session
from engine.runtime.sharing import Asking, ask_together
from engine.segmentation.vertebrae import network_grid, segmenting
from engine.volume import Analysis, Segmentation, VertebraCrop, VertebraCut


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
        share_heap()  # before the first thread of a library has its own
        self.options = options
        self._calibrator = Calibrator(options.calibration)
        with ExitStack() as opened:
            self._spine = opened.enter_context(needed_session("spine_segmentation", runtime))
            check_tissues(self._spine)
            self._density = opened.enter_context(needed_session("vertebral_bmd", runtime))
            self._class = optional_session("vertebral_class", runtime, opened)
            sessions = {quantity: optional_session(task, runtime, opened) for task, quantity in FROM_SIDE.items()}
            self._from_side = {quantity: one for quantity, one in sessions.items() if one}
            check_optional(self._class, self._from_side)
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
        result = result_of(case, self.options, self.models, self._calibrator.table_sha256)
        return Analysis(case.series, case.volume, case.named.bodies, case.cores, result)

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
