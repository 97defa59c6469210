"""The models of the vertebral program: which it needs, which it can do without, and what each must be."""

from collections.abc import Mapping
from contextlib import ExitStack

from engine.errors import UnusableModel
from engine.records import CLASSES, Quantity
from engine.runtime.backends import RuntimeOptions, open_session
from engine.runtime.manifest import find_optional, find_package
from engine.runtime.session import Session

TISSUES = ("vertebral_body", "disc", "rib", "sacrum")
"""What the spine network must tell apart for vertebrae to be found and named."""
FROM_SIDE = {"areal_bmd": Quantity.AREAL_BMD, "bone_score": Quantity.TRABECULAR_BONE_SCORE}
"""Tasks of models that read a picture from the side, and what they tell. A site may do without them."""


def needed_session(task: str, runtime: RuntimeOptions) -> Session:
    """Open the model of a task that the program can't do without."""
    return open_session(find_package(runtime.model_folder, task), runtime)


def optional_session(task: str, runtime: RuntimeOptions, opened: ExitStack) -> Session | None:
    """Open the model of a task, if the site has one; it is closed with what else was opened."""
    package = find_optional(runtime.model_folder, task)
    return opened.enter_context(open_session(package, runtime)) if package else None


def check_optional(classifier: Session | None, from_side: Mapping[Quantity, Session]) -> None:
    """Refuse optional models that don't say what they are here for."""
    if classifier and set(classifier.manifest.labels) != set(CLASSES):
        raise UnusableModel(f"model '{classifier.manifest.name}' does not tell {', '.join(CLASSES)} apart")
    for session in from_side.values():
        if session.manifest.cut is None:
            raise UnusableModel(f"model '{session.manifest.name}' does not say how its pictures are cut")


def check_tissues(session: Session) -> None:
    """Refuse a spine network that does not tell apart what vertebrae are found by."""
    missing = [tissue for tissue in TISSUES if tissue not in session.manifest.labels]
    if missing:
        raise UnusableModel(f"model '{session.manifest.name}' does not tell {', '.join(missing)} apart")
