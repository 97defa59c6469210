"""Each command does what its page says, and tells a person in one line what is wrong."""

import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import typer
from typer.testing import CliRunner, Result

from db import queue, registry, results, schema, studies
from db.completeness import open_studies
from db.connection import open_database
from db.migrate import upgrade
from dicom_node import cli
from dicom_node.config import read_config
from dicom_node.spool import Spool
from engine.loading.headers import read_header
from engine.records import Program, Reason, Selection, SeriesFailure
from exporters.reference.phantom_series import SeriesTruth

from .foreign import free_port

pytestmark = pytest.mark.usefixtures("logs_as_before")

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "cli.md").read_text()
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(one) for one in arguments])


class Node:
    """A node's folder in which one series failed, and one was set aside for a reason of its own."""

    def __init__(self, place: Path, truth: SeriesTruth) -> None:
        self.config = place / "node.toml"
        self.config.write_text("[spool]\nreserve_mib = 16\n")
        self.study, self.series = truth.study_instance_uid, truth.series_instance_uid
        config = read_config(self.config)
        with closing(open_database(config.database)) as database, Spool(config.spool) as spool:
            upgrade(database)
            arrivals = []
            for path in truth.paths[:3]:
                header = read_header(path, b"a key of the tests, and no other")
                stored = spool.store(header.sop_instance_uid, path.read_bytes())
                arrivals.append(registry.Arrival(header, str(stored.path), stored.size_bytes, stored.digest))
            with database.begin() as connection:
                registry.register_instances(connection, arrivals)
                (due,) = open_studies(connection, 0.0, 0.0)
                chosen = [Selection(self.series, Program.VERTEBRAL, None)]
                studies.close_study(connection, self.study, due.revision, chosen, Program.VERTEBRAL)
                (claim,) = queue.claim(connection, "test", 1, 60.0)
                failure = SeriesFailure(self.study, self.series, Program.VERTEBRAL, Reason.LEVEL_GAP, "L2 is missing")
                assert results.complete(connection, claim, failure)

    def jobs(self) -> list[str]:
        with closing(open_database(read_config(self.config).database)) as database, database.read() as connection:
            return [str(state) for state in connection.execute(sa.select(schema.job.c.state)).scalars()]


@pytest.fixture
def node(tmp_path: Path, small_series: SeriesTruth) -> Node:
    return Node(tmp_path, small_series)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_on_its_page(name: str):
    found = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no section '{name}'"
    for parameter in COMMANDS[name].params:
        if getattr(parameter, "hidden", False) or parameter.name in ("config", "help"):
            continue
        spoken = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar.strip("[]")
        assert spoken in found[1], f"docs/cli.md says nothing about {spoken} of '{name}'"
    assert COMMANDS[name].help


def test_the_page_speaks_of_no_command_that_is_not_there():
    assert set(re.findall(r"^## (\w+)$", PAGE, flags=re.MULTILINE)) == set(COMMANDS)


def test_the_help_lists_the_commands_in_the_order_of_the_page():
    told = re.findall(r"^\W{1,3}([a-z]+) ", call("--help").output.partition("Commands")[2], flags=re.MULTILINE)
    assert told == re.findall(r"^## (\w+)$", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["", *sorted(COMMANDS)])
def test_help_is_given(name: str):
    told = call(*([name] if name else []), "--help")
    assert told.exit_code == 0
    assert "Usage" in told.output


def test_version_is_told():
    assert call("version").output.startswith("trabecula 0.")


@pytest.mark.parametrize("words", [["run"], ["receive"], ["backfill", "folder", "."], ["analyse", ".", "-o", "out"]])
def test_a_key_that_is_gone_is_not_made_anew_under_a_database(node: Node, words: list[str]):
    told = call(*words, "--config", node.config)
    assert told.exit_code == 2
    assert "'pseudonym.key', the key of the pseudonyms, is gone" in told.output
    assert not (node.config.parent / "pseudonym.key").exists()


@pytest.mark.parametrize("words", [["run"], ["work"], ["status"]])
def test_a_database_that_is_away_may_come_so_the_service_is_started_again(tmp_path: Path, words: list[str]):
    (tmp_path / "pseudonym.key").write_text("ab" * 32)
    (tmp_path / "node.toml").write_text(f"[database]\nurl = 'postgresql://nobody@127.0.0.1:{free_port()}/none'")
    told = call(*words, "--config", tmp_path / "node.toml")
    assert told.exit_code == os.EX_TEMPFAIL
    assert "can't be reached" in told.output
    for unit in ("trabecula.service", "trabecula-backfill@.service"):
        lines = (ROOT / "configs" / unit).read_text().splitlines()
        assert {"Restart=on-failure", "RestartPreventExitStatus=2"} <= set(lines)


def test_doctor_says_that_the_key_is_gone(node: Node):
    checks = json.loads(call("doctor", "--json", "--config", node.config).output)
    (told,) = [check for check in checks if check["subject"] == "key of pseudonyms"]
    assert told["state"] == "wrong"
    assert "is gone" in told["detail"]


def test_status_counts_what_there_is(node: Node):
    told = call("status", "--config", node.config)
    assert told.exit_code == 0
    assert "1 level_gap" in told.output
    table = json.loads(call("--config", node.config, "status", "--json").output)
    assert table["series"] == {"set_aside": 1}
    assert table["instances"] == 3
    assert table["spool"]["free_bytes"] > 0


def test_explain_tells_reason_and_detail(node: Node):
    told = call("explain", node.study, "-c", node.config)
    assert told.exit_code == 0
    assert "level_gap: L2 is missing" in told.output
    table = json.loads(call("explain", node.study, "-c", node.config, "--json").output)
    assert table["series"][0]["series_instance_uid"] == node.series
    assert table["series"][0]["selected"] is True


def test_explain_says_no_to_a_study_that_is_not_known(node: Node):
    told = call("explain", "1.2.3", "-c", node.config)
    assert told.exit_code == 1
    assert "not known" in told.output


@pytest.mark.parametrize("what", [["{study}"], ["{series}"], ["--reason", "level_gap"]])
def test_retry_makes_a_job_ready_again(node: Node, what: list[str]):
    assert node.jobs() == ["done"]
    told = call("retry", *[part.format(study=node.study, series=node.series) for part in what], "-c", node.config)
    assert told.output == "tried again: 1 series, 0 reports\n"
    assert node.jobs() == ["ready"]


@pytest.mark.parametrize("what", [[], ["--reason", "metal"], ["1.2.3"]])
def test_retry_leaves_the_rest_alone(node: Node, what: list[str]):
    told = call("retry", *what, "-c", node.config).output
    assert told.endswith("tried again: 0 series, 0 reports\n")
    assert ("nothing under this UID failed" in told) == (what == ["1.2.3"])
    assert node.jobs() == ["done"]


def test_retry_of_a_destination_that_is_none_names_those_that_are(node: Node):
    with node.config.open("a") as config:
        config.write("[[sender.destinations]]\nname = 'pacs'\nae_title = 'PACS'\nhost = '127.0.0.1'\n")
    told = call("retry", "--destination", "pcas", "-c", node.config)
    assert told.exit_code == 2
    assert "there is no destination 'pcas'; there are: pacs" in told.output
    assert call("retry", "--destination", "pacs", "-c", node.config).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retry", "--reason", "no such reason"], "there is no reason 'no such reason'"),
        (["retry", "1.2", "--reason", "metal"], "not two of them"),
        (["status", "--config", "nowhere.toml"], "'nowhere.toml' can't be read"),
        (["status"], "there is no database yet"),
        (["explain", "1.2.3"], "there is no database yet"),
        (["analyse", "nowhere", "--output", "out"], "is no folder"),
        (["analyse", ".", "--output", "."], "another folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    told = call(*arguments)
    assert told.exit_code == 2
    assert said in told.output
    assert told.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path):
    config = tmp_path / "node.toml"
    config.write_text("[reciever]\nport = 1\n")
    wants_more = {name for name, command in COMMANDS.items() if any(one.required for one in command.params)}
    for name in [*sorted(set(COMMANDS) - wants_more - {"version", "backfill", "query"}), "backfill list"]:
        told = call(*name.split(), "--config", config)
        assert told.exit_code == 2
        assert told.output == "trabecula: unknown option 'reciever'; did you mean 'receiver'?\n"


def test_the_environment_may_name_the_configuration(node: Node):
    told = CliRunner(env={"TRABECULA_CONFIG": str(node.config)}).invoke(cli.app, ["status", "--json"])
    assert json.loads(told.output)["instances"] == 3


def test_a_fault_of_ours_shows_its_place_and_no_words():
    app = typer.Typer(cls=cli.Commands)

    @app.command()
    def fault() -> None:
        raise KeyError("Doe^Jane")

    @app.command()
    def other() -> None: ...

    told = CliRunner().invoke(app, ["fault"])
    assert told.exit_code == os.EX_SOFTWARE
    assert "a fault of this program" in told.output
    assert "Doe" not in told.output
    assert told.output.count("\n") == 1


def test_the_console_script_and_the_module_are_the_same(tmp_path: Path):
    for command in ([Path(sys.executable).parent / "trabecula"], [sys.executable, "-m", "dicom_node"]):
        ran = subprocess.run([*command, "status"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert ran.stderr.startswith("trabecula: there is no database yet")
