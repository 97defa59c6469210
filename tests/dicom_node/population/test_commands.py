"""The commands that ask the archive: they answer, they can change nothing, and say in a line what is wrong."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from db.connection import DatabaseOptions, open_database
from db.migrate import upgrade
from db.population import views
from db.population.query import ask
from dicom_node.cli import app


@pytest.fixture
def run(site, logs_as_before):
    """What a command printed; of one that was refused, the line that says why."""

    def command(*arguments: str, config: bool = True, refused: bool | int = False) -> str:
        asked = [arguments[0], *(site.config if config else []), *arguments[1:]]
        ran = CliRunner().invoke(app, asked)
        assert ran.exit_code == (2 if refused is True else int(refused)), ran.output
        return ran.stderr if refused else ran.stdout

    return command


def test_a_view_is_listed_shown_and_written(run, tmp_path, site):
    listed = run("query", config=False)
    assert all(name in listed for name in views.definitions())
    assert "normal" in run("query", "prevalence", "--limit", "3")
    run("query", "cohort", "--output", str(tmp_path / "cohort.csv"))
    run("query", "cohort", "--output", str(tmp_path / "cohort.parquet"))
    with (tmp_path / "cohort.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "cohort.parquet")
    assert len(rows) == table.num_rows == len(site.truth)
    assert list(rows[0]) == table.column_names
    assert [float(row["volumetric_bmd"]) for row in rows] == table.column("volumetric_bmd").to_pylist()


def test_a_long_answer_is_cut_on_the_screen_and_says_so(run):
    assert "the first 100 rows" in run("query", "measurement")


def test_an_answer_without_rows_says_so(run):
    assert run("query", "SELECT * FROM cohort WHERE attenuation_mean < -5000").strip() == "no rows"


@pytest.mark.parametrize(("width", "stands"), [(200, "table"), (90, "broken"), (40, "records")])
def test_no_line_is_wider_than_the_screen_and_no_value_is_broken(run, site, width, stands, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run("query", "SELECT * FROM prevalence", "--limit", "2").splitlines()
    values = [f"{value:.4g}" for value in ask(site.database, "SELECT share_low FROM prevalence LIMIT 1").rows[0]]
    assert all(len(line) <= width for line in shown)
    assert all(any(value in line for line in shown) for value in values)
    assert any("patient_sex" in line for line in shown) == (stands != "broken")
    assert any(line.startswith("row 2") for line in shown) == (stands == "records")


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("DELETE FROM population", "readonly"),
        ("SELEC 1", "syntax error"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("cohorts", "there is no view 'cohorts'; there are cohort"),
        ("SELECT weight FROM cohort", "no such column"),
    ],
)
def test_what_is_no_question_is_refused_and_changes_nothing(run, site, question, told):
    assert told in run("query", question, refused=True)
    assert ask(site.database, "SELECT COUNT(*) > 0 FROM population").rows == ((1,),)


def test_a_cohort_meets_its_criteria(run, tmp_path):
    told = run("cohort", "--sex", "F", "--age", "60-79", "--output", str(tmp_path / "women.csv"))
    with (tmp_path / "women.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert {row["patient_sex"] for row in rows} == {"F"}
    assert all(60 <= int(row["patient_age"]) <= 79 for row in rows)
    assert f"{len(rows)} patients" in told
    assert "--age is FROM-TO" in run("cohort", "--age", "old", refused=True)


def test_agreement_and_report_are_written(run, tmp_path, references):
    told = run("agreement", "--reference", str(references()), "--output", str(tmp_path / "agreement"))
    assert "Pearson's r" in told
    assert sorted(path.name for path in (tmp_path / "agreement").iterdir()) == [
        "agreement.html",
        "agreement.json",
        "pairs.csv",
    ]
    (said,) = json.loads((tmp_path / "agreement" / "agreement.json").read_text())
    assert said["bland_altman"]["bias"]["value"] == pytest.approx(-5.0, abs=1e-3)
    run("report", "--output", str(tmp_path / "report.html"))
    assert "No references were given" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("form", ["parquet", "fhir", "omop"])
def test_each_form_of_export_is_written(run, tmp_path, form):
    told = run("export", str(tmp_path / "out"), "--form", form)
    files = sorted(path for path in (tmp_path / "out").iterdir())
    assert files
    assert len(told.splitlines()) == len(files)


def test_a_form_or_ending_that_is_none_is_refused(run, tmp_path):
    assert "there is no form 'xml'" in run("export", str(tmp_path / "out"), "--form", "xml", refused=True)
    assert "ends in no form" in run("query", "flow", "--output", str(tmp_path / "flow.xlsx"), refused=True)


@pytest.fixture
def node(tmp_path):
    """A node's folder of its own, with an empty database."""
    (tmp_path / "node.toml").write_text('[database]\nurl = "sqlite:///own.db"\nlock_timeout_s = 0.2\n')
    (tmp_path / "pseudonym.key").write_text(bytes(range(32)).hex())
    database = open_database(DatabaseOptions(f"sqlite:///{tmp_path / 'own.db'}"))
    upgrade(database)
    database.close()
    return tmp_path


def own(run, node, *arguments, refused=False):
    return run(arguments[0], "--config", str(node / "node.toml"), *arguments[1:], config=False, refused=refused)


def test_examinations_are_taken_in_once(run, node):
    (node / "dxa.csv").write_text("patient_id,date\na,2020-01-02\nb,2021-03-04\n")
    assert "2 examinations added, 0 known" in own(run, node, "densitometry", str(node / "dxa.csv"))
    assert "0 examinations added, 2 known" in own(run, node, "densitometry", str(node / "dxa.csv"))


def test_a_locked_database_is_told_and_nothing_is_half_done(run, node):
    (node / "dxa.csv").write_text("patient_id,date\na,2020-01-02\n")
    with closing(sqlite3.connect(node / "own.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "locked" in own(run, node, "densitometry", str(node / "dxa.csv"), refused=os.EX_TEMPFAIL)
        assert "patients" in own(run, node, "cohort")  # who reads is held up by nobody
        other.execute("ROLLBACK")
        assert other.execute("SELECT COUNT(*) FROM densitometry").fetchone() == (0,)


def test_a_newer_database_or_none_or_no_key_is_told(run, node, tmp_path_factory, references):
    (node / "pseudonym.key").unlink()
    assert "no key of the pseudonyms" in own(run, node, "agreement", "--reference", str(references()), refused=True)
    with closing(sqlite3.connect(node / "own.db")) as other, other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "9999" in own(run, node, "query", "flow", refused=True)
    (node / "own.db").unlink()
    assert "there is no database yet" in own(run, node, "report", refused=True)


def test_a_role_needs_postgresql(run, node):
    assert "SQLite has no roles" in own(run, node, "grant", "analyst", refused=True)


def test_a_disk_that_takes_no_more_is_told_and_leaves_no_half_file(site, tmp_path):
    """A child that may write only small files stands for a full disk."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from dicom_node.cli import main; sys.argv = ['trabecula', *sys.argv[1:]]; main()"
    )
    (tmp_path / "cohort.csv").write_text("as before")
    asked = ["query", "measurement", *site.config, "--output", str(tmp_path / "cohort.csv")]
    ran = subprocess.run(
        [sys.executable, "-B", "-c", code, *asked], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 2, ran.stderr
    assert "can't be written" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.csv"]
    assert (tmp_path / "cohort.csv").read_text() == "as before"
