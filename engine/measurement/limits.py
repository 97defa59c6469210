"""The limits of the quality rules."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QualityOptions:
    """Limits of the rules."""

    kvp: float = 120.0  # that models and cuts were made for (Yoshida 2023, Peng 2023)
    kvp_tolerance: float = 1.0
    youngest: int = 0  # years; Yoshida 2023 takes patients from 20
    oldest: int = 130  # years
    contrast_hounsfield: float = 90.0  # of the vessel before the spine; 42 native and 155 with contrast were measured
    smallest_core_cm3: float = 1.5  # our choice: about what a QCT region of interest holds
    noise_hounsfield: float = 40.0  # SD at 1 mm slices; our choice: low-dose chest CT has 28-50
    structure_hounsfield: float = 30.0  # SD of the trabeculae themselves: 28 measured in a native T12
    height_ratio: float = (
        0.83  # below it a body is compressed. 20 % of height (Genant), less what means over zones hide
    )
    focus_hounsfield: float = 200.0  # above the median; a measured bone island's core has 3.1 % there, others 1.2 %
    focus_share: float = 0.015  # of the core; our choice: half way, as voxels at a focus's border are lost
    cement_hounsfield: float = 1100.0  # in a core; bone islands stay below; our choice
    cement_cm3: float = 0.1
    uneven_ratio: float = 2.5  # of the core's spread to its neighbours'; our choice
    metal_hounsfield: float = 2000.0  # denser than any bone
    metal_cm3: float = 0.2  # our choice: a screw has more, a clip far off does no harm
    metal_distance_mm: float = 15.0
    scoliosis_degrees: float = 10.0  # between the bodies that lean most to the left and to the right
    severe_scoliosis_degrees: float = 25.0  # our choice: cuts and projections no longer fit (Yoshida 2023 excludes)
    edge_mm: float = 2.0  # a body so near to the first or last slice may go on beyond it
    truncated_mm: float = 30.0  # of the patient's outline that may lie outside the field of view; our choice
    lumbar_cm3: tuple[float, float] = (12.0, 90.0)  # a body of L1-L5; 30-39 measured
    piece_share: float = 0.05  # of a body, that a second piece may have
    outlier_share: float = 0.25  # from the neighbours' median; L2-L4 of 11 % of normals differ by more
    outlier_floor: float = 20.0  # mg/cm3; our choice: at low densities a quarter is less than the error

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if not (0 < self.height_ratio < 1 and 0 <= self.focus_share < 1 and 0 <= self.piece_share < 1):
            raise ValueError("height_ratio, focus_share and piece_share are shares below 1")
        limits = (self.kvp_tolerance, self.smallest_core_cm3, self.noise_hounsfield, self.outlier_floor, self.edge_mm)
        if min(limits) < 0:
            raise ValueError("tolerances and limits can't be negative")
        if not (self.youngest <= self.oldest and self.lumbar_cm3[0] < self.lumbar_cm3[1]):
            raise ValueError("youngest and oldest, and both of lumbar_cm3, must be in order")
        if not 0 < self.scoliosis_degrees <= self.severe_scoliosis_degrees:
            raise ValueError("scoliosis_degrees must be above 0 and at most severe_scoliosis_degrees")
