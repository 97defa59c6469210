"""What tests of the node share."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from .foreign import Namespace, Orthanc, need
from .papers import Papers, made_papers


@pytest.fixture
def logs_as_before() -> Iterator[None]:
    """A command sets up the logs of its process; called in a test, that is the tests' own. Levels: `tests/conftest`."""
    root = logging.getLogger()
    handlers, level, hooks = list(root.handlers), root.level, (sys.excepthook, threading.excepthook)
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace]:
    """A network of the tests' own; foreign peers that listen everywhere run in it."""
    made = Namespace()
    yield made
    made.close()


@pytest.fixture
def inside(namespace: Namespace) -> Iterator[None]:
    """The test runs in that network."""
    with namespace.entered():
        yield


@pytest.fixture(scope="session")
def running_orthanc(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """One Orthanc for all tests of a session."""
    need("Orthanc")
    with namespace.entered():
        made = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield made
    made.stop()


@pytest.fixture
def orthanc(running_orthanc: Orthanc, inside: None) -> Orthanc:
    """An empty Orthanc; the test runs in its network."""
    running_orthanc.clear()
    return running_orthanc


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Certificates of the node and of others."""
    need("openssl")
    return made_papers(tmp_path_factory.mktemp("papers"))
