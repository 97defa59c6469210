"""A folder is accounted for to the last file, and every series in it ends in a result or a reason."""

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from typer.testing import CliRunner

from dicom_node import cli
from dicom_node.config import read_config, site_key
from dicom_node.folder import analyse_folder
from engine.errors import BadOption, DeploymentError
from exporters.reference.phantom_series import SeriesTruth

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "result.md").read_text()
CONFIG = read_config(None)
NAME, IDENTIFIER = "ZZMARKED^PATIENT", "ZZMARKEDID"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, small_series: SeriesTruth) -> Path:
    """A series under odd names in odd folders, and around it what lies about in archives."""
    folder = tmp_path_factory.mktemp("archive")
    study, thick = generate_uid(), generate_uid()
    for n, path in enumerate(small_series.paths):
        one = dcmread(path)
        one.PatientName, one.PatientID = NAME, IDENTIFIER
        place = folder / "deep" / str(n % 3)
        place.mkdir(parents=True, exist_ok=True)
        one.save_as(place / f"IM{(7 * n) % 97}")
        if n < 20:  # the same study in slices that are too thick, and another study's localizer
            one.SeriesInstanceUID, one.SOPInstanceUID, one.SliceThickness = thick, generate_uid(), 8
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
            one.save_as(folder / f"thick {n}.dcm")
        if n == 30:
            one.StudyInstanceUID, one.SeriesInstanceUID = study, generate_uid()
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            one.save_as(folder / "scout")
    (folder / "read me.txt").write_text("no DICOM")
    (folder / "empty").touch()
    first = folder / "deep" / "0" / "IM0"
    shutil.copy(first, folder / "zz copy of the first")
    other = dcmread(first)
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(folder / "zz other pixels of the first")
    (folder / "cut short").write_bytes(first.read_bytes()[:400])
    return folder


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def outcome(archive: Path, output: Path) -> dict[str, Any]:
    stages: list[str] = []
    table = analyse_folder(archive, output, CONFIG, None, lambda stage, done, total: stages.append(stage))
    named = list(dict.fromkeys(stages))
    assert named[:3] == ["finding files", "reading headers", "opening models"]
    assert named[3] == "analysing: load"
    assert named[-2:] == ["analysing: report", "analysed"]
    return table


def entry_of(outcome: dict[str, Any], outcome_is: str) -> dict[str, Any]:
    (entry,) = [entry for entry in outcome["series"] if entry["outcome"] == outcome_is]
    return dict(entry)


def test_every_file_is_accounted_for(outcome: dict[str, Any], archive: Path):
    files = outcome["files"]
    assert files["found"] == sum(path.is_file() for path in archive.rglob("*"))
    assert files["not_dicom"] == 2
    assert files["repeated"] == 1
    assert files["refused"].pop("instance_conflict") == 1
    assert sum(files["refused"].values()) == 1
    grouped = sum(entry["instances"] for entry in outcome["series"])
    assert grouped + 2 + 1 + 2 == files["found"]


def test_one_series_of_a_study_is_analysed_and_the_others_say_why_not(
    outcome: dict[str, Any], small_series: SeriesTruth
):
    chosen = entry_of(outcome, "analysed")
    assert chosen["series_instance_uid"] == small_series.series_instance_uid
    assert {entry["reason"] for entry in outcome["series"] if entry["outcome"] == "not_selected"} == {
        "slices_too_thick",
        "localizer",
    }
    assert len(outcome["series"]) == 3


def test_the_result_names_levels_units_and_models(outcome: dict[str, Any]):
    result = entry_of(outcome, "analysed")["result"]
    assert result["levels"]
    for level in result["levels"]:
        assert level["measurements"]["attenuation_mean"]["unit"] == "[hnsf'U]"
    assert {model["name"] for model in result["models"]}
    assert result["reference_only"] is True
    assert result["stage_seconds"]


def test_the_report_lies_where_the_result_says(outcome: dict[str, Any], output: Path):
    chosen = entry_of(outcome, "analysed")
    assert {"sr", "picture"} <= {item["kind"] for item in chosen["objects"]}
    for item in chosen["objects"]:
        assert dcmread(output / item["path"]).SOPInstanceUID == item["sop_instance_uid"]
    assert (output / chosen["picture"]).read_bytes().startswith(b"\x89PNG")


def test_what_is_returned_is_what_is_written(outcome: dict[str, Any], output: Path):
    written = json.loads((output / "result.json").read_text())
    written["files"]["refused"].pop("instance_conflict", None)
    assert written == outcome


def test_no_identity_is_in_the_result(outcome: dict[str, Any], output: Path):
    text = (output / "result.json").read_text().upper()
    assert "ZZMARKED" not in text
    assert "ZZMARKED" not in " ".join(str(path) for path in output.rglob("*")).upper()


def test_a_key_of_the_run_links_nothing_beyond_it(
    outcome: dict[str, Any], archive: Path, tmp_path: Path, small_series: SeriesTruth
):
    scout = tmp_path / "scout"
    scout.mkdir()
    shutil.copy(archive / "scout", scout)
    again = analyse_folder(scout, tmp_path / "again", CONFIG, None)
    site = analyse_folder(scout, tmp_path / "site", CONFIG, b"a key of the site, for all its runs!")
    same = analyse_folder(scout, tmp_path / "same", CONFIG, b"a key of the site, for all its runs!")
    keys = [table["series"][0]["patient_key"] for table in (again, site, same)]
    assert outcome["series"][0]["patient_key"] not in keys
    assert keys[0] != keys[1] == keys[2]
    assert [table["patient_key_scope"] for table in (again, site)] == ["run", "site"]


def keys_of(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys_of, value)) if value else set()
    if isinstance(value, dict):
        return set(value) | set().union(*map(keys_of, value.values())) if value else set()
    return set()


def test_every_key_is_on_its_page(outcome: dict[str, Any]):
    free = {"files": ("refused",), "result": ("stage_seconds",)}  # keys that are reasons, or stages
    table = json.loads(json.dumps(outcome))
    table["files"]["refused"] = None
    for entry in table["series"]:
        if entry["result"]:
            entry["result"]["stage_seconds"] = None
    told = set(re.findall(r"`\"?(\w+)\"?`", PAGE))
    assert keys_of(table) - told == set()
    assert all(name in told for names in free.values() for name in names)


def test_a_folder_without_ct_is_no_error_but_says_so(tmp_path: Path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.txt").write_text("nothing")
    told = CliRunner().invoke(cli.app, ["analyse", str(folder), "--output", str(output)])
    assert told.exit_code == 3
    assert json.loads((output / "result.json").read_text())["files"] == {
        "found": 1,
        "not_dicom": 1,
        "repeated": 0,
        "refused": {},
    }


@pytest.mark.usefixtures("logs_as_before")
def test_the_command_shows_what_was_found(small_series: SeriesTruth, tmp_path: Path):
    config = tmp_path / "node.toml"
    config.write_text("")
    arguments = ["analyse", str(small_series.paths[0].parent), "--output", str(tmp_path / "out"), "-c", str(config)]
    told = CliRunner().invoke(cli.app, arguments)
    assert told.exit_code == 0, told.output
    assert "analysed" in told.output
    assert "not for diagnosis" in told.output
    table = json.loads((tmp_path / "out" / "result.json").read_text())
    assert table["patient_key_scope"] == "site"
    assert site_key(read_config(config))
    assert not (tmp_path / "trabecula.db").exists()


def test_series_of_a_folder_are_under_way_at_the_same_time(small_series: SeriesTruth, tmp_path: Path):
    """While one is segmented the next is loaded; each of them ends in its reason, in the order of the series."""
    random = np.random.default_rng(1)
    for study in ("1", "2", "3"):
        (tmp_path / "in" / study).mkdir(parents=True)
        for n, path in enumerate(small_series.paths):
            one = dcmread(path)
            one.StudyInstanceUID, one.SeriesInstanceUID = f"1.2.826.0.1.{study}", f"1.2.826.0.1.{study}.1"
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{study}.1.{n + 1}"
            one.PixelData = random.integers(0, 20, len(one.PixelData) // 2, np.uint16).tobytes()  # air
            one.save_as(tmp_path / "in" / study / f"{n}")
    loads, second = [], threading.Event()

    def told(stage: str, done: int, total: int) -> None:
        if stage == "analysing: load":
            loads.append(stage)
            if len(loads) == 2:
                second.set()
        if stage == "analysing: segment":
            assert second.wait(20)

    table = analyse_folder(tmp_path / "in", tmp_path / "out", CONFIG, None, told)
    assert [(one["series_instance_uid"], one["reason"]) for one in table["series"]] == [
        (f"1.2.826.0.1.{study}.1", "no_vertebra") for study in ("1", "2", "3")
    ]


def test_an_output_inside_the_folder_is_not_read_again(archive: Path, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(archive / "scout", folder)
    first = analyse_folder(folder, folder / "out", CONFIG, None)
    shutil.copy(archive / "scout", folder / "out")
    second = analyse_folder(folder, folder / "out", CONFIG, None)
    assert first["files"] == second["files"] == {"found": 1, "not_dicom": 0, "repeated": 0, "refused": {}}


def test_an_old_answer_is_gone_before_the_new_one_is_sought(tmp_path: Path, archive: Path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "result.json").write_text("old")
    nothing = tmp_path / "models"
    nothing.mkdir()
    config = tmp_path / "node.toml"
    config.write_text("[runtime]\nmodels = 'models'")
    with pytest.raises(DeploymentError, match="must hold exactly one package"):
        analyse_folder(archive, output, read_config(config), None)
    assert not (output / "result.json").exists()


def test_a_folder_that_is_none_or_the_output_itself_is_refused(tmp_path: Path):
    with pytest.raises(DeploymentError, match="is no folder"):
        analyse_folder(tmp_path / "nowhere", tmp_path / "out", CONFIG, None)
    with pytest.raises(BadOption, match="another folder"):
        analyse_folder(tmp_path, tmp_path, CONFIG, None)
    assert list(tmp_path.iterdir()) == []


def test_real_ct_ends_in_a_result_or_a_reason(real_ct: Path, tmp_path: Path):
    table = analyse_folder(real_ct / "ct_abdomen_j2k_empty_uids", tmp_path / "out", CONFIG, None)
    assert table["series"] == []
    assert table["files"]["refused"] == {"identity_missing": table["files"]["found"]}
