"""What tests of the node share."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """A command sets up the logs of its process; called in a test, that is the tests' own."""
    root = logging.getLogger()
    handlers, level, hooks = list(root.handlers), root.level, (sys.excepthook, threading.excepthook)
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    for name in ("dicom_node", "db", "engine", "exporters", "trabecula", "pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.NOTSET)
