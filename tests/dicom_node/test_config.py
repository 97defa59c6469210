"""One file steers a node, and says in one line what is wrong with it."""

import multiprocessing
import stat
from pathlib import Path

import pytest

from dicom_node.config import NodeConfig, read_config, site_key
from engine.errors import BadOption, DeploymentError


def written(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = read_config(None)
    assert config.spool.folder == str(tmp_path / "spool")
    assert config.database.url == f"sqlite:///{tmp_path / 'trabecula.db'}"
    assert config.pseudonym_key_file == str(tmp_path / "pseudonym.key")
    assert config.receiver == NodeConfig().receiver


def test_paths_are_relative_to_the_file(tmp_path: Path):
    text = """
    pseudonym_key_file = "secret/key"
    [database]
    url = "sqlite:///memory/node.db"
    [spool]
    folder = "/elsewhere/spool"
    [runtime]
    models = "models"
    [logs]
    file = "node.log"
    """
    config = read_config(written(tmp_path, text))
    assert config.pseudonym_key_file == str(tmp_path / "secret" / "key")
    assert config.database.url == f"sqlite:///{tmp_path / 'memory' / 'node.db'}"
    assert config.spool.folder == "/elsewhere/spool"
    assert config.runtime.model_folder == tmp_path / "models"
    assert config.logs.file == str(tmp_path / "node.log")


def test_another_database_is_left_as_it_is_said(tmp_path: Path):
    url = "postgresql+psycopg://node:secret@db.example/trabecula"
    config = read_config(written(tmp_path, f'[database]\nurl = "{url}"'))
    assert config.database.url == url
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[receiver]\nprot = 104", "unknown option 'receiver.prot'; did you mean 'receiver.port'?"),
        ("[reciever]\nport = 104", "unknown option 'reciever'; did you mean 'receiver'?"),
        ("[vertebral.leveling]\nx = 1", "unknown option 'vertebral.leveling'"),
        ("[receiver]\nport = '104'", "option 'receiver.port' must be int"),
        ("[receiver]\nport = 70000", "receiver: port must be 0 to 65535, not 70000"),
        ("[[sender.destinations]]\nhost = 'pacs'", "is required"),
        ("[[sender.destinations]]\nname = 'pacs'", "ae_title of destination 'pacs'"),
        ("[[backfill.archives]]\nname = 'a'\nae_title = 'A'\nhost = 'h'\ntls_key = 'k'", "go together"),
        ("[[backfill.archives]]\nname = 'a'\nurl = 'https://h'\ntls_authorities = 'k'", "against ca_file"),
        ("pseudonym_key_file = ''", "pseudonym_key_file must name a file"),
        ("[studies]\nquiet_s = 1.9", r"studies\.quiet_s must be 2 or more, 2 times registrar\.gather_s, not 1\.9"),
        ("[registrar]\ngather_s = 40", r"studies\.quiet_s must be 80 or more"),
        ("receiver = 3", "option 'receiver' is a table"),
        ("[receiver\nport = 3", "is no TOML: .*line 1"),
        ("a = 1\na = 2", "is no TOML: Cannot overwrite a value"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(BadOption, match=said) as caught:
        read_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_series_may_be_quiet_as_soon_as_what_came_is_surely_registered(tmp_path: Path):
    text = "[registrar]\ngather_s = 0.25\n[studies]\nquiet_s = 0.5\n"
    assert read_config(written(tmp_path, text)).studies.quiet_s == 0.5


def test_papers_of_archives_lie_beside_the_file(tmp_path: Path):
    text = "[[backfill.archives]]\nname = 'a'\nae_title = 'PACS'\nhost = 'pacs'\n"
    papers = {"tls_authorities": "ca.pem", "tls_certificate": "our.pem", "tls_key": "our.key"}
    config = read_config(written(tmp_path, text + "".join(f"{name} = '{file}'\n" for name, file in papers.items())))
    (archive,) = config.backfill.archives
    assert {name: getattr(archive, name) for name in papers} == {
        name: str(tmp_path / file) for name, file in papers.items()
    }


def test_a_file_that_can_t_be_read_is_named(tmp_path: Path):
    with pytest.raises(BadOption, match=r"'nowhere.toml' can't be read: No such file"):
        read_config(tmp_path / "nowhere.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadOption, match="no UTF-8 text"):
        read_config(binary)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path):
    config = read_config(written(tmp_path, 'pseudonym_key_file = "secret/key"'))
    key = site_key(config)
    assert len(key) == 32
    assert site_key(config) == key
    assert stat.S_IMODE((tmp_path / "secret" / "key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "secret").iterdir()] == ["key"]


@pytest.mark.parametrize("content", ["", "too short", "ab" * 8, "\u00e4" * 64])
def test_a_file_that_is_no_key_is_not_taken_for_one(tmp_path: Path, content: str):
    config = read_config(written(tmp_path, 'pseudonym_key_file = "key"'))
    (tmp_path / "key").write_text(content, encoding="utf-8")
    with pytest.raises(DeploymentError, match="is no key of pseudonyms") as caught:
        site_key(config)
    assert content == "" or content not in str(caught.value)


def _key_of(path: Path) -> bytes:
    return site_key(read_config(path))


def test_processes_that_start_at_once_get_the_same_key(tmp_path: Path):
    path = written(tmp_path, 'pseudonym_key_file = "key"')
    spawn = multiprocessing.get_context("spawn")  # a fork takes locks along that threads of other tests hold
    with spawn.Pool(4, initializer=spawn.Barrier(4).wait) as pool:
        keys = pool.map(_key_of, [path] * 16)
    assert len(set(keys)) == 1
