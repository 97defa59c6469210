"""What tests of the sender share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .reports import Reports


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Reports]:
    made = Reports(tmp_path)
    yield made
    made.database.close()
