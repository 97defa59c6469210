"""
What the node tells people while it runs: one formatter, through which no patient gets.

A line of ours is a constant text whose arguments are shown by kind: numbers, our own words and our own errors as they
are, UIDs as a short hash, paths not at all. Of another library's line only the place is shown, for such lines quote
header values; of an exception that is not ours only its type and where it was raised.
"""

import hashlib
import json
import logging
import logging.handlers
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from pathlib import PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any

from engine.errors import DeploymentError, ScreeningError

OURS = ("dicom_node", "db", "engine", "exporters", "trabecula")
"""Loggers whose texts are ours."""

FIELDS = frozenset({"study_instance_uid", "series_instance_uid", "reason", "peer", "status", "count", "seconds"})
"""What a line may carry beside its text, as `extra`; anything else is left out."""

LONGEST_TEXT = 400  # characters of one argument; our choice
FLOOD_COUNT, FLOOD_S = 20, 60.0  # warnings from one place in so many seconds; further ones are counted. Our choice

_UID = re.compile(r"(?<![0-9])(?:[0-2](?:\.[0-9]+){4,}|2\.25\.[0-9]{9,})")  # long ones, and those made of a UUID
_PATH = re.compile(r"(?<![\w.])(?:~|\.{1,2})?/+[^\s'\",;)]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_PERSON = re.compile(r"\S*\^\S*")  # DICOM parts a person's name by ^


class LogFormat(StrEnum):
    """How a line looks."""

    PLAIN = "plain"
    JSON = "json"  # an object a line
    RICH = "rich"  # coloured, for a person at a terminal


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What is told, how, and where."""

    level: str = "INFO"  # DEBUG, INFO, WARNING or ERROR
    format: LogFormat = LogFormat.PLAIN
    file: str = ""  # empty: standard error. It may be renamed while the node runs (logrotate)

    def __post_init__(self) -> None:
        """Refuse levels that do not exist."""
        if self.level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"level must be DEBUG, INFO, WARNING or ERROR, not {self.level!r}")


def configure_logs(options: LogOptions) -> None:
    """Send every line of this process through the formatter, warnings and uncaught exceptions too.

    Raises:
        DeploymentError: the log file can't be written.
    """
    handler = _handler(options)
    handler.addFilter(_Flood())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, logging.getLevelName(options.level)))
    for name in OURS:
        logging.getLogger(name).setLevel(options.level)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # speaks of values only
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)
    for name in ("transport", "acse"):  # peers.association says why, in our words
        logging.getLogger(f"pynetdicom.{name}").setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # what can't be written would be printed with its arguments
    warnings.filterwarnings("ignore", module=r"(pydicom|pynetdicom|highdicom)\b")
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def short_uid(uid: str) -> str:
    """A UID as lines show it: enough to recognise it, not enough to look it up.

    >>> short_uid("1.2.840.10008.1.2")
    'uid-76708661'
    """
    return "uid-" + hashlib.sha256(uid.encode("utf-8", "replace")).hexdigest()[:8]


def shown(value: object) -> object:
    """A value as it may stand in a line.

    >>> shown("1.2.840.10008.1.2 is at /archive/DOE^JANE/1.dcm")
    'uid-76708661 is at (path)'
    >>> shown("2.25.193028915418363870436268725517715648984")
    'uid-fcafefe8'
    >>> shown(ValueError("DOE^JANE"))
    'ValueError'
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, ScreeningError):
        return _clean(f"{type(value).__name__}: {value}")
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, type):
        return value.__name__
    return _clean(value) if isinstance(value, str) else "(path)" if isinstance(value, PurePath) else "(not shown)"


class PlainFormatter(logging.Formatter):
    """A line for people: time, level, room, text, then what else is known."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts = line(record)
        head = [str(facts.pop(key)) for key in ("time", "level", "logger", "text")]
        return " ".join([*head, *(f"{key}={value}" for key, value in facts.items())])


class JsonFormatter(logging.Formatter):
    """The same as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return json.dumps(line(record))


class RichFormatter(logging.Formatter):
    """The same without time and level, which rich shows itself."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts = line(record)
        rest = (f"{key}={value}" for key, value in facts.items() if key not in ("time", "level", "logger", "text"))
        return " ".join([str(facts["text"]), *rest])


def line(record: logging.LogRecord) -> dict[str, object]:
    """All that may be told of a record: time (UTC), level, logger, text, and fields."""
    ours = record.name.split(".", 1)[0] in OURS
    facts: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name if ours else _clean(record.name),
        "text": _text(record) if ours else f"(text withheld; from {record.module}.{record.funcName}:{record.lineno})",
    }
    if ours:
        for key in sorted(FIELDS & record.__dict__.keys()):
            value = record.__dict__[key]
            facts[key] = short_uid(value) if key.endswith("_uid") and isinstance(value, str) else shown(value)
    if more := record.__dict__.get("more_of_these"):
        facts["more_of_these"] = more
    if record.exc_info and record.exc_info[1] is not None:
        facts["error"] = " < ".join(str(shown(error)) for error in _chain(record.exc_info[1]))
        facts["at"] = _places(record.exc_info[1].__traceback__)
    return facts


def _text(record: logging.LogRecord) -> str:
    """The constant text with its arguments, each as it may be shown."""
    if not record.args:
        return _clean(str(record.msg))
    given = record.args
    try:
        if isinstance(given, Mapping):
            return str(record.msg) % {key: shown(value) for key, value in given.items()}
        return str(record.msg) % tuple(shown(value) for value in given)
    except (TypeError, ValueError, KeyError):
        return f"(text can't be made; from {record.module}.{record.funcName}:{record.lineno})"


def _clean(text: str) -> str:
    """Text without UIDs, paths, persons' names and control characters, of bounded length."""
    text = _CONTROL.sub(" ", text[: 4 * LONGEST_TEXT])
    text = _PATH.sub("(path)", text)
    text = _UID.sub(lambda found: short_uid(found[0]), text)
    text = _PERSON.sub("(withheld)", text)
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "..."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what caused it, at most five."""
    for _ in range(5):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _places(trace: TracebackType | None) -> str:
    """Where an exception passed, the innermost last, at most eight."""
    frames = [f"{frame.f_globals.get('__name__', '?')}:{number}" for frame, number in walk_tb(trace)]
    return " > ".join(frames[-8:])


class _Flood(logging.Filter):
    """Lets a place warn so often in a while; then counts, and tells the count with the next line from there."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[tuple[str, int], list[float]] = {}  # since when, how many

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        place = self._places.setdefault((record.name, record.lineno), [now, 0])
        if now - place[0] > FLOOD_S:
            if place[1] > FLOOD_COUNT:
                record.more_of_these = int(place[1]) - FLOOD_COUNT
            place[0], place[1] = now, 0
        place[1] += 1
        return place[1] <= FLOOD_COUNT


def _handler(options: LogOptions) -> logging.Handler:
    handler: logging.Handler
    if options.file:
        try:
            handler = logging.handlers.WatchedFileHandler(options.file, encoding="utf-8")
        except OSError as bad:
            raise DeploymentError(f"the log file can't be written ({bad.strerror}); see 'logs.file'") from None
    elif options.format is LogFormat.RICH:
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False, rich_tracebacks=False)
        handler.setFormatter(RichFormatter())
        return handler
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if options.format is LogFormat.JSON else PlainFormatter())
    return handler


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("dicom_node").critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(caught: Any) -> None:
    if caught.exc_value is not None:
        _log_uncaught(caught.exc_type, caught.exc_value, caught.exc_traceback)
