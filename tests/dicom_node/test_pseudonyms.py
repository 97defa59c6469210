"""A database and the key of the pseudonyms belong together: with another key no patient is given a second pseudonym."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from db import registry
from db.connection import open_database
from db.migrate import downgrade, upgrade
from dicom_node import cli
from dicom_node.config import NodeConfig, read_config, site_key
from dicom_node.process import current_database
from dicom_node.pseudonyms import fingerprint, key_of_database
from dicom_node.spool import Spool
from engine.errors import WrongKey
from engine.loading.headers import read_header
from exporters.reference.phantom_series import SeriesTruth

pytestmark = pytest.mark.usefixtures("logs_as_before")

WORDS = [
    *(["run"], ["receive"], ["backfill", "folder", "."], ["backfill", "folder", ".", "--dry-run"]),
    *(["analyse", ".", "-o", "out"], ["agreement", "--reference", "none.csv"], ["densitometry", "none.csv"]),
]


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    (tmp_path / "node.toml").write_text("[spool]\nreserve_mib = 16\n")
    return read_config(tmp_path / "node.toml")


@pytest.fixture
def from_before(config: NodeConfig, small_series: SeriesTruth) -> NodeConfig:
    """A node with a study, whose database is of a version that kept no fingerprint."""
    with current_database(config) as database, Spool(config.spool) as spool:
        header = read_header(small_series.paths[0], site_key(config))
        stored = spool.store(header.sop_instance_uid, small_series.paths[0].read_bytes())
        with database.begin() as connection:
            arrival = registry.Arrival(header, str(stored.path), stored.size_bytes, stored.digest)
            registry.register_instances(connection, [arrival])
        downgrade(database, "0011")
    return config


def start(config: NodeConfig) -> bytes:
    """As a process does that makes pseudonyms."""
    key = key_of_database(config)
    with current_database(config, key):
        return key


def take_another_key(config: NodeConfig) -> bytes:
    before = site_key(config)
    Path(config.pseudonym_key_file).unlink()
    another = site_key(config)
    assert another != before
    return before


def put_back(config: NodeConfig, key: bytes) -> None:
    Path(config.pseudonym_key_file).write_text(key.hex())


def clear(config: NodeConfig) -> None:
    for path in (Path(config.spool.folder) / "incoming").rglob("*.dcm"):
        path.unlink()


def call(config: NodeConfig, *words: str) -> str:
    told = CliRunner().invoke(cli.app, [*words, "--config", str(Path(config.pseudonym_key_file).parent / "node.toml")])
    assert told.exit_code == 2
    return told.output


def told_by_doctor(config: NodeConfig) -> tuple[str, str]:
    where = Path(config.pseudonym_key_file).parent / "node.toml"
    checks = json.loads(CliRunner().invoke(cli.app, ["doctor", "--json", "--config", str(where)]).output)
    (check,) = [check for check in checks if check["subject"] == "key of pseudonyms"]
    return check["state"], check["detail"]


@pytest.mark.parametrize("words", WORDS)
def test_whoever_makes_pseudonyms_is_refused_with_another_key(config: NodeConfig, words: list[str]):
    start(config)
    take_another_key(config)
    assert "'pseudonym.key' holds another key of the pseudonyms" in call(config, *words)


def test_with_the_key_back_the_node_starts_again(config: NodeConfig):
    start(config)
    key = take_another_key(config)
    state, detail = told_by_doctor(config)
    assert (state, "restore the key" in detail) == ("wrong", True)
    with pytest.raises(WrongKey):
        start(config)
    put_back(config, key)
    assert start(config) == key
    assert told_by_doctor(config)[0] == "ok"


def test_a_key_that_is_gone_is_missed_before_the_first_study(config: NodeConfig):
    start(config)
    Path(config.pseudonym_key_file).unlink()
    assert "is gone" in call(config, "receive")
    assert not Path(config.pseudonym_key_file).exists()


def test_of_two_that_start_at_once_with_keys_of_their_own_one_is_refused(config: NodeConfig):
    key = key_of_database(config)
    take_another_key(config)
    other = key_of_database(config)  # there is no database yet
    with current_database(config, key), pytest.raises(WrongKey), current_database(config, other):
        pass


def test_a_database_from_before_tells_its_key_by_a_file(from_before: NodeConfig):
    key = take_another_key(from_before)
    assert told_by_doctor(from_before)[0] == "wrong"
    with pytest.raises(WrongKey):
        start(from_before)
    put_back(from_before, key)
    assert start(from_before) == key
    clear(from_before)
    take_another_key(from_before)
    with pytest.raises(WrongKey):  # by the fingerprint, now
        start(from_before)


def test_a_database_from_before_without_files_is_taken_to_be_under_the_key_and_that_is_logged(
    from_before: NodeConfig, caplog: pytest.LogCaptureFixture
):
    clear(from_before)
    start(from_before)
    assert "it is taken to be this one" in caplog.text
    take_another_key(from_before)
    with pytest.raises(WrongKey):
        start(from_before)


def test_the_fingerprint_is_no_part_of_the_key_and_differs_with_it(config: NodeConfig):
    key = start(config)
    with closing(open_database(config.database)) as database:
        upgrade(database)
        file = Path(config.database.url.partition(":///")[2])
        written = file.read_bytes() + file.with_name(f"{file.name}-wal").read_bytes()
    assert fingerprint(key).encode() in written
    assert key not in written
    assert key.hex().encode() not in written
    assert len({fingerprint(key), fingerprint(key[::-1]), fingerprint(key + key), key.hex()}) == 4
