"""What tests of the worker share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.reference.phantom_series import SeriesTruth

from .workplace import Memory


@pytest.fixture
def memory(tmp_path: Path, small_series: SeriesTruth) -> Iterator[Memory]:
    """With a few slices, for tests that look at none."""
    made = Memory(tmp_path, small_series, slices=3)
    yield made
    made.close()


@pytest.fixture
def whole(tmp_path: Path, small_series: SeriesTruth) -> Iterator[Memory]:
    """With a series that can be analysed."""
    made = Memory(tmp_path, small_series)
    yield made
    made.close()
