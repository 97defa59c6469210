"""Memory comes back only when nothing stands on it any more, and little of it is kept."""

import gc

import numpy as np

from engine import buffers
from engine.buffers import LARGEST_KEPT, MOST_KEPT, volume_memory

SHAPE = (60, 256, 256)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_serves_again_once_its_last_view_is_gone():
    buffers._free.clear()
    first = volume_memory(SHAPE, np.int16)
    first[:] = 7
    place, part = address(first), first[3, 5:9]
    del first
    gc.collect()
    second = volume_memory(SHAPE, np.int16)
    assert address(second) != place
    second[:] = 1
    assert (part == 7).all()
    del part
    gc.collect()
    assert address(volume_memory(SHAPE, np.int16)) == place


def test_a_block_serves_a_somewhat_smaller_volume_and_no_tiny_one():
    buffers._free.clear()
    place = address(volume_memory(SHAPE, np.int16))
    gc.collect()
    assert address(volume_memory((40, 256, 256), np.int16)) == place
    gc.collect()
    kept = volume_memory((50, 256, 256), np.int16)
    assert kept.shape == (50, 256, 256)
    assert kept.flags.c_contiguous
    assert kept.flags.writeable


def test_little_is_kept():
    buffers._free.clear()
    several = [volume_memory(SHAPE, np.int16) for _ in range(MOST_KEPT + 3)]
    assert len({address(one) for one in several}) == MOST_KEPT + 3
    several.clear()
    gc.collect()
    assert len(buffers._free) == MOST_KEPT
    volume_memory((2, 8, 8), np.int16)
    assert volume_memory((LARGEST_KEPT // 2**17 + 1, 256, 256), np.int16).base is None
    gc.collect()
    assert len(buffers._free) == MOST_KEPT


def test_memory_of_one_kind_serves_another():
    buffers._free.clear()
    place = address(volume_memory(SHAPE, np.int16))
    gc.collect()
    grid = volume_memory((30, 256, 256), np.float32)
    assert (grid.dtype, grid.shape, address(grid)) == (np.float32, (30, 256, 256), place)
