"""
In which precision a model is computed: never by a library's own choice.

A manifest names the precision of its weights, and those in which its answers were shown to stay within a bound (its
variants). The fastest of them that a machine computes natively is taken, or the one that the site pins. It is written
into every result, and into its UIDs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import BackendUnavailable, UnusableModel
from engine.records import ModelRef
from engine.runtime.manifest import ModelManifest, ModelPackage

PRECISIONS = ("f32", "bf16", "f16", "int8")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a session opens."""

    precision: str
    weights: Path
    sha256: str

    def named(self, manifest: ModelManifest, backend: str) -> ModelRef:
        """What every result of the session says of its model.

        Args:
            backend: name and version of the library that computes.
        """
        reference_only = manifest.training_data.reference_only
        return ModelRef(manifest.name, manifest.version, self.sha256, reference_only, self.precision, backend)


def choose(package: ModelPackage, wanted: str, native: Sequence[str], backend: str) -> Choice:
    """The precision to compute in, and the graph for it.

    Args:
        wanted: a precision; "auto": the first of the manifest's variants that is native, else the weights' own.
        native: what the backend computes on this machine as fast as it promises, in any order.

    Raises:
        UnusableModel: the manifest names a precision that nobody knows.
        BackendUnavailable: the backend can't compute in what is wanted, or the model was never shown to bear it.
    """
    manifest = package.manifest
    own = Choice(manifest.precision, package.weights, manifest.sha256)
    known = {own.precision: own} | {
        variant.precision: Choice(
            variant.precision,
            package.weights.with_name(variant.file) if variant.file else package.weights,
            variant.sha256 if variant.file else manifest.sha256,
        )
        for variant in manifest.variants
    }
    if wanted != "auto" and wanted not in known:
        raise BackendUnavailable(f"model '{manifest.name}' was never held against {wanted}; it has {', '.join(known)}")
    strange = [name for name in known if name not in PRECISIONS]
    if strange:
        raise UnusableModel(f"model '{manifest.name}': precision '{strange[0]}' is none of {', '.join(PRECISIONS)}")
    order = [wanted] if wanted != "auto" else [*(variant.precision for variant in manifest.variants), own.precision]
    for precision in order:
        if precision in native:
            return known[precision]
    raise BackendUnavailable(
        f"model '{manifest.name}' needs {' or '.join(order)}; {backend} computes in {', '.join(native)} here"
    )
