"""What tests of several rooms share: real CT where it is at hand, and a small phantom series."""

import gc
import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings

from dicom_node.logs import OURS
from engine.records import VertebralLevel
from exporters.reference.phantom_series import SeriesTruth, write_series
from exporters.reference.scanner import scanner
from exporters.reference.spine_phantom import PLAIN, draw_phantom, field_of_view

settings.register_profile("untimed", deadline=None)  # no test is held to a time: the machine may be busy
settings.load_profile("untimed")

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a process that a test starts need not compile all anew


gc.disable()  # while modules are imported: what they make stays


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def logs_as_they_begin() -> None:
    """A test or its set-up that configures logs, as every command does, changes nothing for the tests after it."""
    logging.getLogger().setLevel(logging.WARNING)
    for name in (*OURS, "pynetdicom.transport", "pynetdicom.acse"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.WARNING)  # pydicom's own; the other's as a node has it


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """The folder of real CT beside the project; the test skips where it is absent."""
    beside = Path(__file__).parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("TRABECULA_REAL_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real CT at hand")
    return folder


@pytest.fixture(scope="session")
def small_series(tmp_path_factory: pytest.TempPathFactory) -> SeriesTruth:
    """A quick phantom scan from T11 to the sacrum, cropped around the spine: about 70 slices of 128 x 128.

    Shared by all tests of a session: copy it before you change a file.
    """
    return write_small_series(tmp_path_factory.mktemp("small_series"), seed=11)


def write_small_series(folder: Path, seed: int, **more: object) -> SeriesTruth:
    phantom = draw_phantom(seed, age=66, sex="F", vbmd=105.0, options=PLAIN)
    grid = field_of_view(
        phantom, VertebralLevel.T11, VertebralLevel.L5, pixels=128, pixel_mm=1.6, slice_mm=3.0, margin_mm=25.0
    )
    return write_series(folder, phantom, scanner("ge_revolution"), grid, **more)  # type: ignore[arg-type]
