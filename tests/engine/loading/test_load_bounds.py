"""Loading takes no more memory than its bounds allow, whatever files claim."""

import struct
import subprocess
import sys
import tracemalloc

import imagecodecs
import pytest

from engine.errors import BadOption
from engine.loading.load import LoadingOptions, load
from engine.loading.slices import SliceOptions
from engine.options import read_options
from engine.records import Reason
from engine.selection import JPEG_LS

from .refused import OPTIONS, refusal


def test_memory_is_bounded_before_it_is_taken(ct):
    ct.write(12)
    series = ct.series()
    assert refusal(series, LoadingOptions(max_voxels=12 * 90 - 1)).reason is Reason.IMAGE_TOO_LARGE
    assert load(series, LoadingOptions(max_voxels=12 * 90)).geometry.shape == (12, 10, 9)
    assert refusal(series, LoadingOptions(max_instances=11)).reason is Reason.IMAGE_TOO_LARGE


def test_loading_takes_little_more_memory_than_the_volume(ct):
    ct.write(80, rows=256, columns=256)
    series = ct.series()
    load(series, OPTIONS)  # imports
    tracemalloc.start()
    try:
        volume = load(series, OPTIONS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < volume.hounsfield.nbytes + 4 * 2**20


WORST = """
import resource, sys
from pathlib import Path
from dataclasses import replace
from engine.errors import SeriesError
from engine.loading.load import LoadingOptions, load
from engine.loading.headers import read_header
from engine.series import series_of
import imagecodecs, scipy.ndimage
imagecodecs.jpegls_decode
(series,) = series_of((read_header(path, b"k"), str(path)) for path in Path(sys.argv[1]).glob("*.dcm"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load(series, LoadingOptions(max_voxels=2**26))
except SeriesError as bad:
    print(bad.reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("claim", [65535, 4096])
def test_a_series_that_claims_terabytes_costs_nothing(ct, claim, tmp_path):
    """Each slice is a few hundred bytes whose header and code stream both claim a huge image."""

    def lie(dataset, k):
        dataset.Rows = dataset.Columns = claim

    def stream(values):
        coded = bytearray(imagecodecs.jpegls_encode(values))
        at = bytes(coded).index(struct.pack(">HH", *values.shape))
        coded[at : at + 4] = struct.pack(">HH", claim, claim)
        return bytes(coded)

    ct.write(40, lie, transfer_syntax_uid=JPEG_LS[0], encode=stream)
    done = subprocess.run(
        [sys.executable, "-c", WORST, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    reason, grown_mib = done.stdout.split()
    assert reason == Reason.IMAGE_TOO_LARGE
    assert int(grown_mib) < 20


@pytest.mark.parametrize("table", [{"max_voxels": 0}, {"threads": -1}, {"slices": {"min_slices": 0}}, {"thread": 2}])
def test_options_without_meaning_are_refused(table):
    with pytest.raises(BadOption):
        read_options(LoadingOptions, table)
    assert read_options(LoadingOptions, {"slices": {"min_slices": 5}}) == LoadingOptions(slices=SliceOptions(5))
