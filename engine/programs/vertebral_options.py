"""What a site may choose about the vertebral program, and the version that its choice gives the program."""

from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version

from engine.anatomy.levels import LevelOptions
from engine.loading.dali_resampling import ResamplingOptions
from engine.loading.load import LoadingOptions
from engine.measurement.calibration import CalibrationOptions
from engine.measurement.quality import QualityOptions
from engine.prediction.from_side import ArealPolicy
from engine.prediction.policy import DensityPolicy
from engine.segmentation.vertebrae import SegmentationOptions


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
