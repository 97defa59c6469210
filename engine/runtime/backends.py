"""The best session that can run a model here, and why the others can't."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BackendUnavailable
from engine.runtime import onnxruntime_session, openvino_session, tensorrt_session
from engine.runtime.manifest import PACKAGED_MODELS, ModelPackage
from engine.runtime.precision import PRECISIONS
from engine.runtime.session import Session


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """Where models lie and what runs them."""

    models: str = ""  # folder of model packages; empty: the packaged reference models
    backend: str = "auto"  # "auto": the first that can run of "tensorrt", "openvino", "onnxruntime"
    threads: int = 0  # that one model may use; 0: all
    batch: int = 0  # inputs of a network in one run; 0: what the backend thinks best
    precision: str = (
        "auto"  # "auto": the best that a model's manifest allows and the machine has; or "f32", "bf16", ...
    )
    plans: str = ""  # folder of TensorRT's plans, this account's own; empty: in its cache folder

    def __post_init__(self) -> None:
        """Refuse a backend that is not known."""
        if self.backend not in ("auto", *_BACKENDS):
            raise ValueError(f"backend must be one of auto, {', '.join(_BACKENDS)}, not '{self.backend}'")
        if self.precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision must be one of auto, {', '.join(PRECISIONS)}, not '{self.precision}'")
        if self.threads < 0:
            raise ValueError(f"threads must be 0 (all) or more, not {self.threads}")
        if not 0 <= self.batch <= 64:
            raise ValueError(f"batch must be 0 (the backend's own choice) to 64, not {self.batch}")

    @property
    def model_folder(self) -> Path:
        """The folder of model packages."""
        return Path(self.models) if self.models else PACKAGED_MODELS

    @property
    def plan_folder(self) -> Path:
        """The folder of TensorRT's plans."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(self.plans) if self.plans else Path(cache) / "trabecula" / "plans"


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Whether a backend can run here."""

    name: str
    version: str  # empty: not installed
    can_run: bool
    why_not: str  # empty: it can


@dataclass(frozen=True, slots=True)
class _Backend:
    version: Callable[[], str]
    why_not: Callable[[], str]
    open: Callable[[ModelPackage, RuntimeOptions], Session]


def _openvino(package: ModelPackage, options: RuntimeOptions) -> Session:
    return openvino_session.OpenVinoSession(package, options.threads, options.batch, options.precision)


def _onnxruntime(package: ModelPackage, options: RuntimeOptions) -> Session:
    return onnxruntime_session.OnnxRuntimeSession(package, options.threads, options.batch, options.precision)


def _tensorrt(package: ModelPackage, options: RuntimeOptions) -> Session:
    return tensorrt_session.TensorRtSession(package, options.plan_folder, options.batch, options.precision)


_BACKENDS = {
    "tensorrt": _Backend(tensorrt_session.version, tensorrt_session.why_not, _tensorrt),
    "openvino": _Backend(openvino_session.version, openvino_session.why_not, _openvino),
    "onnxruntime": _Backend(onnxruntime_session.version, onnxruntime_session.why_not, _onnxruntime),
}
"""In the order of preference: a GPU first; OpenVINO was the faster on every network measured on a CPU."""


def backend_statuses() -> tuple[BackendStatus, ...]:
    """Every backend, in the order of preference."""
    return tuple(
        BackendStatus(name, backend.version(), not backend.why_not(), backend.why_not())
        for name, backend in _BACKENDS.items()
    )


def open_session(package: ModelPackage, options: RuntimeOptions) -> Session:
    """Open a model with the backend that is wanted, or the best that can run.

    Raises:
        BackendUnavailable: none can; the message says why for each.
        UnusableModel: the model file is damaged, or not what its manifest says.
    """
    wanted = tuple(_BACKENDS) if options.backend == "auto" else (options.backend,)
    reasons = []
    for name in wanted:
        reason = _BACKENDS[name].why_not()
        if not reason:
            try:
                return _BACKENDS[name].open(package, options)
            except BackendUnavailable as unable:
                reason = str(unable)
        reasons.append(f"{name}: {reason}")
    raise BackendUnavailable(f"no session can run model '{package.manifest.name}' here; {'; '.join(reasons)}")
