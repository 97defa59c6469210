"""The doctor says what is wrong on this machine, and changes nothing."""

import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from pynetdicom import AE
from typer.testing import CliRunner

from db.connection import open_database
from db.migrate import upgrade
from dicom_node import cli
from dicom_node.config import NodeConfig, read_config, site_key
from dicom_node.doctor import Check, State, examine
from dicom_node.spool import Spool
from engine.runtime.manifest import PACKAGED_MODELS


def configured(folder: Path, more: str = "") -> NodeConfig:
    path = folder / "node.toml"
    path.write_text(f"[receiver]\nport = 0\n{more}")
    return read_config(path)


def found(config: NodeConfig, ask_peers: bool = False) -> dict[str, Check]:
    return {check.subject: check for check in examine(config, ask_peers)}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A copy of the models, to be damaged."""
    return Path(shutil.copytree(PACKAGED_MODELS, tmp_path / "models"))


def test_a_machine_before_its_first_start_is_in_order_and_stays_untouched(tmp_path: Path):
    checks = found(configured(tmp_path))
    wrong = [check for check in checks.values() if check.state is State.WRONG]
    assert wrong == []
    for subject in ("key of pseudonyms", "spool", "database"):
        assert "made at the first start" in checks[subject].detail
    assert [path.name for path in tmp_path.iterdir()] == ["node.toml"]


def test_a_machine_after_its_first_start_is_in_order(tmp_path: Path):
    config = configured(tmp_path)
    site_key(config)
    with closing(open_database(config.database)) as database, Spool(config.spool):
        upgrade(database)
    checks = found(config)
    assert [check for check in checks.values() if check.state is State.WRONG] == []
    assert checks["key of pseudonyms"].detail == "mode 0600"
    assert "as expected" in checks["database"].detail
    assert "MiB free" in checks["spool"].detail


def test_versions_backends_and_models_are_told(tmp_path: Path):
    checks = found(configured(tmp_path))
    assert checks["python"].detail.startswith("3.")
    assert {"package pydicom", "package sqlalchemy", "backend openvino", "backend onnxruntime"} <= set(checks)
    manifests = list(PACKAGED_MODELS.glob("*/manifest.toml"))
    told = [check.detail for subject, check in checks.items() if re.match("model (?!for )", subject)]
    assert len(told) == len(manifests) > 0
    assert all("sha256" in detail and "not for diagnosis" in detail for detail in told)


def test_a_calibration_table_is_read_and_a_wrong_one_is_told(tmp_path: Path):
    assert found(configured(tmp_path, ""))["calibration"].state is State.NOTE
    table = tmp_path / "calibration.toml"
    table.write_text("[[calibrations]]\nname = 'ct1'\n")
    named = "[vertebral.calibration]\ntable = 'calibration.toml'"
    wrong = found(configured(tmp_path, named))["calibration"]
    assert (wrong.state, "manufacturer" in wrong.detail) == (State.WRONG, True)
    table.write_text("")
    assert found(configured(tmp_path, named))["calibration"].state is State.OK


def test_a_damaged_model_is_wrong(tmp_path: Path, models: Path):
    weights = next(models.glob("*/*.onnx"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    checks = found(configured(tmp_path, f"[runtime]\nmodels = '{models}'"))
    damaged = checks[f"model {weights.parent.name}"]
    assert damaged.state is State.WRONG
    assert "checksum" in damaged.detail


def test_a_model_that_is_missing_is_wrong(tmp_path: Path):
    checks = found(configured(tmp_path, "[runtime]\nmodels = 'nowhere'"))
    assert checks["model for spine_segmentation"].state is State.WRONG
    assert checks["model for vertebral_bmd"].state is State.WRONG


def test_a_key_that_others_can_read_is_wrong(tmp_path: Path):
    config = configured(tmp_path)
    site_key(config)
    Path(config.pseudonym_key_file).chmod(0o644)
    check = found(config)["key of pseudonyms"]
    assert check.state is State.WRONG
    assert "chmod 600" in check.detail


def test_a_key_is_never_told(tmp_path: Path):
    config = configured(tmp_path)
    key = site_key(config).hex()
    assert not any(key in check.detail for check in examine(config))


def test_a_disk_below_its_reserve_is_wrong(tmp_path: Path):
    config = configured(tmp_path, f"[spool]\nreserve_mib = {2**31}")
    Path(config.spool.folder).mkdir()
    check = found(config)["spool"]
    assert check.state is State.WRONG
    assert "nothing is taken in" in check.detail


def test_a_port_in_use_is_noted_and_an_address_of_others_is_wrong(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "used.toml").write_text(f"[receiver]\nport = {taken.getsockname()[1]}")
        check = found(read_config(tmp_path / "used.toml"))["front door"]
        assert check.state is State.NOTE
        assert "in use" in check.detail
    (tmp_path / "other.toml").write_text("[receiver]\nport = 0\nhost = '192.0.2.1'")
    assert found(read_config(tmp_path / "other.toml"))["front door"].state is State.WRONG


def test_who_may_send_is_told(tmp_path: Path):
    (tmp_path / "a.toml").write_text("[receiver]\nport = 0\ncalling_ae_titles = ['CT1', 'CT2']")
    told = found(read_config(tmp_path / "a.toml"))["AE titles"].detail
    assert "CT1, CT2 may send" in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("host = '0.0.0.0'", "none are given"),
        ("host = '0.0.0.0'\nallowed_networks = ['10.1.0.0/16']", "10.1.0.0/16"),
        ("", "this machine alone"),
    ],
)
def test_a_door_that_is_open_to_any_machine_is_warned_of(tmp_path: Path, more: str, told: str):
    (tmp_path / "node.toml").write_text(f"[receiver]\nport = 0\n{more}")
    checks = found(read_config(tmp_path / "node.toml"))
    assert told in checks["allowed networks"].detail
    assert checks["allowed networks"].state is (State.WARN if told == "none are given" else State.OK)
    assert checks["TLS"].state is (State.WARN if more else State.NOTE)  # patients' data, in the clear on a network


def test_a_database_of_another_version_is_wrong(tmp_path: Path):
    config = configured(tmp_path)
    with closing(open_database(config.database)) as database:
        upgrade(database)
        with database.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = 'another'"))
    check = found(config)["database"]
    assert check.state is State.WRONG
    assert "another" in check.detail


def test_a_file_that_is_no_database_is_wrong(tmp_path: Path):
    (tmp_path / "trabecula.db").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    assert found(configured(tmp_path))["database"].state is State.WRONG


@pytest.fixture
def peer() -> Iterator[int]:
    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(("127.0.0.1", 0), block=False)
    yield int(server.server_address[1])
    server.shutdown()


DESTINATION = "[[sender.destinations]]\nname = 'pacs'\nae_title = 'PACS'\nhost = '127.0.0.1'\nport = {}"


def test_a_destination_is_asked_only_when_wanted(tmp_path: Path, peer: int):
    config = configured(tmp_path, DESTINATION.format(peer))
    assert "--echo" in found(config)["destination pacs"].detail
    assert found(config, ask_peers=True)["destination pacs"].detail.endswith("answers")


WEB = "[[sender.destinations]]\nname = 'web'\nurl = 'http://someone:secret@127.0.0.1:{}/dicom-web'"


def test_a_destination_of_dicomweb_is_told_by_its_address_and_without_a_password(tmp_path: Path):
    told = found(configured(tmp_path, WEB.format(8042)))["destination web"].detail
    assert told == "STOW-RS to http://127.0.0.1:8042/dicom-web; --echo asks whether it is there"


def test_papers_of_a_destination_that_can_not_be_read_are_wrong(tmp_path: Path, peer: int):
    config = configured(tmp_path, DESTINATION.format(peer) + "\ntls_authorities = 'nowhere.pem'")
    check = found(config, ask_peers=True)["destination pacs"]
    assert (check.state, "can't be used" in check.detail) == (State.WRONG, True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves its socket open
def test_a_destination_that_does_not_answer_is_wrong(tmp_path: Path):
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    config = configured(tmp_path, DESTINATION.format(port))
    check = found(config, ask_peers=True)["destination pacs"]
    assert check.state is State.WRONG
    assert check.detail.startswith(f"C-STORE to PACS at 127.0.0.1, port {port}: ")
    assert "can't be reached" in check.detail


@pytest.mark.usefixtures("logs_as_before")
def test_the_command_says_no_when_something_is_wrong(tmp_path: Path):
    configured(tmp_path, "[runtime]\nmodels = 'nowhere'")
    told = CliRunner().invoke(cli.app, ["doctor", "--config", str(tmp_path / "node.toml")])
    assert told.exit_code == 1
    assert "must hold exactly one package" in " ".join(told.output.split())


@pytest.mark.usefixtures("logs_as_before")
def test_a_warning_is_shown_and_does_not_say_no(tmp_path: Path):
    (tmp_path / "node.toml").write_text("[receiver]\nport = 0\nhost = '0.0.0.0'")
    told = CliRunner().invoke(cli.app, ["doctor", "--config", str(tmp_path / "node.toml")])
    assert told.exit_code == 0
    assert re.search(r"^warn +allowed networks +none are given", told.output, re.MULTILINE)
