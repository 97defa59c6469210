"""
What an order would bring, without fetching a pixel: counts, and an estimate of size and time.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from dicom_node.backfill.options import BackfillOptions
from dicom_node.backfill.source import Source
from engine.errors import PeerError

SLICE_BYTES = 512 * 512 * 2 + 1024
"""Of a usual CT slice, uncompressed, and its header. An archive that sends compressed images sends about half."""

SLICES_A_SECOND = 20.0
"""Over one association, where no series of the archive was measured. Our choice: what a PACS with
default settings (Nagle's algorithm, one answer an image) reaches on a local network; many are faster."""


@dataclass(slots=True)
class Estimate:
    """Counts of a search."""

    parts: int = 0
    parts_searched: int = 0
    parts_failed: int = 0
    studies: int = 0
    wanted: int = 0  # series; at most, where only samples would tell
    instances: int = 0  # of the wanted
    slices: int = 0  # of these: more, where one instance holds many
    not_wanted: Counter[str] = field(default_factory=Counter)  # series, by reason
    associations: int = 1
    measured: float | None = None  # slices a second over one association, from this archive before

    @property
    def size_bytes(self) -> int:
        """Of what would be fetched."""
        return self.slices * SLICE_BYTES

    @property
    def slices_a_second(self) -> float:
        """Over one association."""
        return self.measured or SLICES_A_SECOND

    @property
    def seconds(self) -> float:
        """That it would take, windows and pauses not counted."""
        return self.slices / (self.slices_a_second * self.associations)


def estimate(
    source: Source,
    options: BackfillOptions,
    told: Callable[[Estimate], None] = lambda _: None,
    measured: float | None = None,
) -> Estimate:
    """Search every part of an order and count. A part that can't be searched is counted as such.

    Args:
        measured: slices a second over one association, as `db.progress.measured_rate` knows it; None: it does not.

    Raises:
        PeerError: not one part could be searched.
    """
    parts = list(source.parts())
    found = Estimate(parts=len(parts), associations=options.associations, measured=measured)
    for part in parts:
        try:
            findings = source.search(part, thoroughly=False)
        except PeerError:
            found.parts_failed += 1
            if found.parts_failed == len(parts):
                raise
            continue
        found.parts_searched += 1
        found.studies += findings.studies
        for series in findings.series:
            if series.is_wanted:
                found.wanted += 1
                found.instances += series.expected or 0
                found.slices += series.slices or series.expected or 0
            else:
                found.not_wanted[str(series.reason or "not asked for")] += 1
        told(found)
    return found
