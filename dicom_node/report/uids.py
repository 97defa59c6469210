"""
UIDs that follow from what they name.

The same input under the same models, policy and program gives the same UIDs, so an analysis that is
repeated after a crash sends the same objects again and never a second report. Whatever could change
a number changes every UID.

Source: PS3.5 B.2, UUID derived UIDs (2.25.); the UUID is made of a SHA-256, as RFC 9562 5.8 lets us.
"""

import hashlib
import json
from uuid import UUID

from engine.records import ModelRef, ScreeningResult, SeriesRef


def report_uid(kind: str, series: SeriesRef, result: ScreeningResult) -> str:
    """The UID of one thing in the report on a series.

    Args:
        kind: what it names, such as "sr" or "sr series".
    """
    instances = sorted(instance.sop_instance_uid for instance in series.instances)
    return _uid([kind, instances, *_identity(result)])


def device_uid(result: ScreeningResult) -> str:
    """The UID of the software with its models; another model is another device."""
    return _uid(["device", *_identity(result)])


def model_uid(model: ModelRef) -> str:
    """The UID of one model's weights at one precision."""
    return _uid(["model", model.sha256, model.precision])


def _identity(result: ScreeningResult) -> list[object]:
    models = sorted((model.sha256, model.precision) for model in result.models)
    return [models, result.policy, result.engine_version, result.program.value]


def _uid(words: list[object]) -> str:
    """
    >>> _uid(["example"])
    '2.25.21003383906155762099955626488797717671'
    """
    text = json.dumps(words, ensure_ascii=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return f"2.25.{UUID(bytes=digest[:16], version=5).int}"  # version 5: "a hash of a name"; Python 3.11 knows no 8
