"""Pixels are unpacked while headers are still walked; whatever is guessed wrong counts for nothing."""

from dataclasses import replace

import imagecodecs
import numpy as np
import pytest

from engine.errors import SeriesError
from engine.loading.decode import read_pixels
from engine.loading.hounsfield import Rescale, read_hounsfield, to_hounsfield
from engine.loading.load import LoadingOptions, load
from engine.loading.members import images_of, members
from engine.loading.unpacking import shares
from engine.records import Reason
from engine.selection import DEFLATED, EXPLICIT_BIG_ENDIAN, EXPLICIT_LITTLE_ENDIAN, JPEG_LS

TWO, ONE = LoadingOptions(threads=2), LoadingOptions(threads=1)  # one thread guesses nothing


def values(k, rows=10, columns=9):
    j, i = np.mgrid[:rows, :columns]
    return 1000 + 100 * k + 7 * j + i - 1024


def swapped(dataset, k):
    dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
    dataset["PixelData"].VR = "OW"


def slices_of(series):
    return [one for some in members(series, images_of(series, 99), 99) for one in some]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 15, 40, 300])
def test_tasks_are_all_slices_once_and_none_is_too_large(count, threads):
    parts = shares(count, 16, threads)
    assert [n for part in parts for n in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start <= 16 for part in parts)


def test_a_list_in_no_order_gives_the_same_volume(ct):
    ct.write(28)
    series = ct.series()
    mixed = replace(series, instances=tuple(reversed(series.instances)))
    for options in (ONE, TWO):
        volume = load(mixed, options)
        assert np.array_equal(volume.hounsfield, np.stack([values(k) for k in range(28)]))
        assert volume.sop_instance_uids == tuple(one.sop_instance_uid for one in series.instances)


def test_a_series_that_ends_in_a_localizer_gives_the_same_volume(ct):
    def change(dataset, k):
        if k == 27:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    ct.write(28, change)
    assert np.array_equal(load(ct.series(), TWO).hounsfield, np.stack([values(k) for k in range(27)]))


def test_a_series_in_many_encodings_gives_one_volume(ct, tmp_path):
    many = (EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN, DEFLATED)
    found = []
    for n, syntax in enumerate(many):
        folder = type(ct)(tmp_path / str(n))
        folder.folder.mkdir()
        folder.write(28, swapped if syntax == EXPLICIT_BIG_ENDIAN else None, transfer_syntax_uid=syntax)
        found.append(folder.series())
    folder = type(ct)(tmp_path / "coded")
    folder.folder.mkdir()
    folder.write(28, transfer_syntax_uid=JPEG_LS[0], encode=imagecodecs.jpegls_encode)
    found.append(folder.series())
    instances = tuple(found[k % 4].instances[k] for k in range(28))
    volume = load(replace(found[0], instances=instances), TWO)
    assert np.array_equal(volume.hounsfield, np.stack([values(k) for k in range(28)]))


@pytest.mark.parametrize("which", [0, 7, 27])
def test_a_file_cut_in_its_pixels_is_refused_as_without_a_guess(ct, which):
    paths = ct.write(28)
    series = ct.series()
    paths[which].write_bytes(paths[which].read_bytes()[:-3])
    said = []
    for options in (ONE, TWO):
        with pytest.raises(SeriesError) as caught:
            load(series, options)
        said.append((caught.value.reason, caught.value.message))
    assert said[0] == said[1]
    assert said[0][0] is Reason.PIXELS_UNREADABLE


def test_of_two_faults_the_first_slice_s_is_told_whoever_found_it(ct):
    def change(dataset, k):
        if k == 21:
            dataset.PixelData = bytes(len(dataset.PixelData))

    paths = ct.write(28, change)
    series = ct.series()
    paths[25].write_bytes(paths[25].read_bytes()[:-3])
    for _ in range(5):
        with pytest.raises(SeriesError) as caught:
            load(series, TWO)
        assert caught.value.reason is Reason.PIXELS_IMPLAUSIBLE


def test_a_gap_is_told_though_pixels_behind_it_are_broken(ct):
    paths = ct.write(28)
    paths[20].unlink()
    series = ct.series()
    paths[3].write_bytes(paths[3].read_bytes()[:-3])
    with pytest.raises(SeriesError) as caught:
        load(series, TWO)
    assert caught.value.reason is Reason.SLICES_MISSING


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [9, 12, 16])
@pytest.mark.parametrize("rescale", [Rescale(1, -1024, None), Rescale(0.37, -1000.5, (3, 40)), Rescale(1, 0, (-9, 9))])
def test_what_is_read_in_one_go_is_what_is_read_slice_by_slice(ct, bits, signed, rescale):
    stored = np.random.default_rng(bits).integers(0, 2**16, (12, 10, 9), dtype=np.uint16)

    def change(dataset, k):
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
        dataset.PixelData = stored[k].tobytes()

    ct.write(12, change)
    slices = slices_of(ct.series())
    found = np.zeros((12, 10, 9), np.int16)
    assert read_hounsfield([(one.frames, rescale) for one in slices], found)
    due = np.zeros_like(found)
    for one, out in zip(slices, due, strict=True):
        raw = read_pixels(one.frames.path, one.frames.form)
        to_hounsfield((raw.view(np.uint16), bits), one.frames.form, rescale, out)
    assert np.array_equal(found, due)


def test_what_does_not_fit_is_not_read_in_one_go(ct):
    paths = ct.write(12)
    slices = [(one.frames, one.rescale) for one in slices_of(ct.series())]
    assert not read_hounsfield(slices, np.zeros((12, 10, 8), np.int16))
    assert not read_hounsfield(slices, np.zeros((11, 10, 9), np.int16))
    assert read_hounsfield(slices, np.zeros((12, 10, 9), np.int16))
    paths[5].unlink()
    assert not read_hounsfield(slices, np.zeros((12, 10, 9), np.int16))
