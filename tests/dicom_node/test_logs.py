"""What is logged names no patient, whoever logs it."""

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node import logs
from dicom_node.logs import LogFormat, LogOptions, configure_logs, short_uid, shown
from engine.errors import BadOption, DeploymentError, UnreadableInstance
from engine.options import read_options
from engine.records import Reason

UID = "1.2.840.113619.2.55.3.604688"
PATIENT = "ZZMARK^PATIENT"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A log file that this process writes to; logging is as before afterwards."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    levels = {name: logging.getLogger(name).level for name in (*logs.OURS, "pydicom", "pynetdicom")}
    with warnings.catch_warnings():
        yield tmp_path / "node.log"
        logging.captureWarnings(False)
        logging.raiseExceptions = True
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_of_ours_shows_numbers_words_and_short_uids(file):
    configure_logs(LogOptions(format=LogFormat.JSON, file=str(file)))
    logging.getLogger("dicom_node.worker").info("series %s: %d levels, %s", UID, 5, Reason.NO_VERTEBRA)
    (told,) = lines(file)
    assert told["text"] == f"series {short_uid(UID)}: 5 levels, no_vertebra"
    assert (told["level"], told["logger"]) == ("INFO", "dicom_node.worker")
    assert UID not in file.read_text()


def test_of_anothers_line_only_the_place_is_told(file):
    configure_logs(LogOptions(format=LogFormat.JSON, file=str(file)))
    for name in ("pynetdicom.dul", "sqlalchemy.pool", "somebody"):
        logging.getLogger(name).error(f"Invalid value '{PATIENT}'")
        logging.getLogger(name).error("Invalid value '%s'", PATIENT)
    text = file.read_text()
    assert "ZZMARK" not in text
    assert len(lines(file)) == 6
    assert "test_of_anothers_line_only_the_place_is_told" in text


def test_a_log_file_that_can_not_be_written_is_told_in_words(tmp_path):
    with pytest.raises(DeploymentError, match=r"the log file can't be written .*'logs.file'"):
        configure_logs(LogOptions(file=str(tmp_path / "nowhere" / "node.log")))


def test_of_anothers_exception_only_type_and_place_are_told_and_ours_is_told_whole(file):
    configure_logs(LogOptions(format=LogFormat.JSON, file=str(file)))
    try:
        try:
            raise ValueError(f"Invalid value for VR PN: {PATIENT}")
        except ValueError as bad:
            raise UnreadableInstance(Reason.HEADER_UNREADABLE, "the header breaks off") from bad
    except UnreadableInstance:
        logging.getLogger("dicom_node").exception("it failed")
    (told,) = lines(file)
    assert told["error"] == "UnreadableInstance: header_unreadable: the header breaks off < ValueError"
    assert str(told["at"]).startswith(f"{__name__}:")
    assert "ZZMARK" not in file.read_text()


def test_warnings_and_uncaught_exceptions_go_the_same_way(file):
    configure_logs(LogOptions(format=LogFormat.JSON, file=str(file)))
    warnings.simplefilter("always")
    warnings.warn(f"Invalid value {PATIENT}", UserWarning, stacklevel=1)

    def fail() -> None:
        raise ValueError(PATIENT)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError(PATIENT), None)
    assert len(lines(file)) == 3
    assert "ZZMARK" not in file.read_text()


def test_what_pydicom_says_of_values_is_not_told(file):
    import pydicom

    configure_logs(LogOptions(level="DEBUG", format=LogFormat.JSON, file=str(file)))
    dataset = pydicom.Dataset()
    dataset.StudyDate = PATIENT  # warns, and logs the value
    assert dataset.StudyDate == PATIENT
    assert "ZZMARK" not in file.read_text()


def test_a_line_that_cannot_be_written_is_not_printed_instead(file, capsys, monkeypatch):
    configure_logs(LogOptions(format=LogFormat.JSON, file=str(file)))
    monkeypatch.setattr(logs, "line", lambda record: 1 / 0)
    logging.getLogger("dicom_node").error("of %s", PATIENT)
    assert capsys.readouterr().err == file.read_text() == ""


def test_fields_that_are_not_on_the_list_are_left_out(file):
    configure_logs(LogOptions(format=LogFormat.JSON, file=str(file)))
    more = {"patient_id": "ZZMARKID", "series_instance_uid": UID, "peer": "SENDER", "count": 3}
    logging.getLogger("dicom_node").info("received", extra=more)
    (told,) = lines(file)
    assert (told["series_instance_uid"], told["peer"], told["count"]) == (short_uid(UID), "SENDER", 3)
    assert "ZZMARKID" not in file.read_text()


def test_a_place_that_warns_all_the_time_is_counted_instead(file, monkeypatch):
    monkeypatch.setattr(logs, "FLOOD_S", 0.2)
    configure_logs(LogOptions(format=LogFormat.JSON, file=str(file)))
    log, slept = logging.getLogger("dicom_node"), threading.Event()

    def warn(times: int) -> None:
        for _ in range(times):
            log.warning("refused")

    warn(500)
    assert len(lines(file)) == logs.FLOOD_COUNT
    slept.wait(0.25)
    warn(1)
    assert lines(file)[-1]["more_of_these"] == 500 - logs.FLOOD_COUNT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"CT.{UID}.dcm", f"CT.{short_uid(UID)}.dcm"),
        ("at /archive/ZZ MARK/1.dcm", "at (path) MARK/1.dcm"),
        ("~/archive/x", "(path)"),
        ("sqlite:////srv/trabecula.db stayed locked", "sqlite:(path) stayed locked"),
        ("name is DOE^JANE^^ here", "name is (withheld) here"),
        ("120 mg/cm3, 0.5 mm", "120 mg/cm3, 0.5 mm"),
        ("127.0.0.1 and 2026.4.1", "127.0.0.1 and 2026.4.1"),
        ("two\nlines\x1b[2J", "two lines [2J"),
        (Path("/archive/x"), "(path)"),
        ({"PatientID": "ZZMARKID"}, "(not shown)"),
        (b"ZZMARK", "(not shown)"),
        (None, None),
        (ValueError, "ValueError"),
        (BadOption("unknown option"), "BadOption: unknown option"),
    ],
)
def test_a_value_is_shown_by_its_kind(value, expected):
    assert shown(value) == expected


@given(st.text(), st.text(), st.integers(0, 5))
def test_no_text_breaks_a_line_or_the_formatter(name, text, count):
    args = (text,) * count
    record = logging.LogRecord("dicom_node" + name, logging.ERROR, "file", 1, text, args, None)
    for formatter in (logs.PlainFormatter(), logs.JsonFormatter(), logs.RichFormatter()):
        told = formatter.format(record)
        assert "\n" not in told
        assert len(told) < 6 * (len(name) + (count + 1) * (logs.LONGEST_TEXT + 10)) + 1000


def test_every_format_tells_the_same_text(file, capsys):
    for kind in LogFormat:
        configure_logs(LogOptions(format=kind))
        logging.getLogger("dicom_node").warning("disk is %s", "full")
        assert "disk is full" in capsys.readouterr().err
    configure_logs(LogOptions(level="ERROR"))
    logging.getLogger("dicom_node").warning("disk is %s", "full")
    logging.getLogger("pynetdicom.acse").info("hello")
    assert capsys.readouterr().err == ""


def test_options_come_from_a_table():
    assert read_options(LogOptions, {"level": "DEBUG", "format": "json"}) == LogOptions("DEBUG", LogFormat.JSON)
    with pytest.raises(BadOption, match="level must be"):
        read_options(LogOptions, {"level": "loud"}, "logs")


def test_no_text_is_made_before_the_formatter_sees_it():
    root = Path(__file__).parents[2]
    ruff = Path(sys.executable).parent / "ruff"
    rooms = [root / name for name in ("engine", "db", "dicom_node", "exporters")]
    ran = subprocess.run(
        [ruff, "check", "--no-cache", "--isolated", "--select", "G001,G002,G003,G004", *rooms],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
