"""
Files of a series to one volume in Hounsfield units.

Headers must agree before their pixels count; slices are unpacked side by side, each straight into its place. A slice
is an image, or a frame of an enhanced multi-frame image.
"""

from contextlib import nullcontext

from engine.errors import UndecodableSeries, UnsupportedSeries
from engine.loading.isolation import Decoders
from engine.loading.members import Slice, images_of, members
from engine.loading.options import Decoder as Decoder
from engine.loading.options import LoadingOptions as LoadingOptions
from engine.loading.slices import stack
from engine.loading.unpacking import Unpacking
from engine.records import Reason, SeriesRef
from engine.volume import Volume


def load(series: SeriesRef, options: LoadingOptions, decoders: Decoders | None = None) -> Volume:
    """Read a series.

    Localizers and captures that share its UID are left out. Copies of a slice count once.

    Args:
        decoders: processes that decode, as the options want it; None: they are started for this series alone, which
            takes half a second where any are needed.

    Returns:
        HU between -1024 and 32767; k grows along the slice normal.

    Raises:
        SeriesError: the series can't be read as one regular grid of HU; the reason says why.
    """
    images = images_of(series, options.max_instances)
    slices: list[Slice] = []
    with (
        nullcontext(decoders) if decoders else Decoders(options.isolation) as those,
        Unpacking(options, those, len(images)) as pixels,
    ):
        for some in members(series, images, options.max_instances):
            slices += some
            pixels.offer(some)
        if not slices:
            raise UnsupportedSeries(Reason.LOCALIZER, "there are only localizers and captures")
        if len(slices) < options.slices.min_slices:
            least = options.slices.min_slices
            raise UnsupportedSeries(Reason.GRID_TOO_SMALL, f"{len(slices)} slices, at least {least}")
        found = stack([one.plane for one in slices], options.slices)
        k, j, i = found.geometry.shape
        if k * j * i > options.max_voxels:
            raise UndecodableSeries(Reason.IMAGE_TOO_LARGE, f"{k} x {j} x {i} voxels, at most {options.max_voxels}")
        hounsfield = pixels.volume(slices, found)
    firsts = [slices[place[0]] for place in found.places]
    return Volume(
        found.geometry,
        hounsfield,
        series.series_instance_uid,
        tuple(one.sop_instance_uid for one in firsts),
        tuple(one.number + 1 for one in firsts),
    )
