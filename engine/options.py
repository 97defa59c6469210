"""
A TOML table becomes a frozen value that refuses what it doesn't know.

Options are frozen dataclasses that live beside the code they steer. Their defaults are the only
defaults; a nested dataclass is a nested table.
"""

import types
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from engine.errors import BadOption

Options = TypeVar("Options")


def read_options(kind: type[Options], table: dict[str, Any], where: str = "") -> Options:
    """Read a table into an options dataclass.

    Args:
        kind: a frozen dataclass; every field has a default, or is required.
        table: as tomllib gives it.
        where: dotted name of the table, for messages.

    Raises:
        BadOption: a key is unknown (the nearest known one is named), missing, or of the wrong type.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Door:
    ...     port: int = 11112
    >>> read_options(Door, {"prot": 104}, "receiver")
    Traceback (most recent call last):
    ...
    engine.errors.BadOption: unknown option 'receiver.prot'; did you mean 'receiver.port'?
    """
    hints = get_type_hints(kind)
    known: dict[str, Field[Any]] = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise BadOption(_unknown(key, list(known), where))
        values[key] = _read_value(hints[key], value, _dotted(where, key))
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise BadOption(f"option '{_dotted(where, name)}' is required")
    try:
        return kind(**values)
    except ValueError as bad:
        raise BadOption(f"{where or 'options'}: {bad}") from bad


def write_options(options: Any) -> dict[str, Any]:
    """The table that reads back as these options; None values are left out, as TOML has no null."""
    table: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if value is None:
            continue
        table[field.name] = _write_value(value)
    return table


def _write_value(value: Any) -> Any:
    if is_dataclass(value):
        return write_options(value)
    if isinstance(value, tuple):
        return [_write_value(item) for item in value]
    return value


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _unknown(key: str, known: list[str], where: str) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"did you mean '{_dotted(where, near[0])}'?" if near else f"known are: {', '.join(sorted(known))}"
    return f"unknown option '{_dotted(where, key)}'; {hint}"


def _read_value(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        (hint,) = [choice for choice in get_args(hint) if choice is not type(None)]
        origin = get_origin(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise BadOption(f"option '{where}' is a table, not {value!r}")
        return read_options(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise BadOption(f"option '{where}' is a list, not {value!r}")
        return _read_list(get_args(hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not isfinite(value):
        raise BadOption(f"option '{where}' must be a finite number, not {value!r}")
    if isinstance(hint, type) and issubclass(hint, str) and hint is not str:
        return _read_choice(hint, value, where)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise BadOption(f"option '{where}' must be {hint.__name__}, not {value!r}")
    return value


def _read_list(hints: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    """Of any length, where the hint ends in dots; else of as many values as the hint has."""
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(value) != len(hints):
        raise BadOption(f"option '{where}' has {len(hints)} values, not {len(value)}")
    return tuple(
        _read_value(hint, item, f"{where}[{n}]") for n, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _read_choice(hint: type, value: Any, where: str) -> Any:
    try:
        return hint(value)
    except ValueError:
        choices = ", ".join(str(choice) for choice in hint)  # type: ignore[attr-defined]
        raise BadOption(f"option '{where}' must be one of {choices}, not {value!r}") from None
