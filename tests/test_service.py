"""The units that ship are units that systemd takes, and speak of commands and documents that there are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from dicom_node import cli

ROOT = Path(__file__).parent.parent
UNITS = sorted((ROOT / "configs").glob("*.service"))
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_it(unit: Path, tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copied = tmp_path / unit.name
    copied.write_text(unit.read_text().replace("/opt/trabecula/bin/trabecula", "/bin/true"))
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", copied], capture_output=True, text=True, check=False)
    if "bus" in ran.stderr.lower() and ran.returncode:
        pytest.skip("systemd-analyze can't work here")
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("page", ["docs/operations.md", "docs/peers.md", *(f"configs/{unit.name}" for unit in UNITS)])
def test_the_commands_it_names_are_there(page: str):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?:^|[`/ ])trabecula ([a-z]+)\b", text, flags=re.MULTILINE))
    assert named - set(COMMANDS) - {"backup", "and", "trabecula"} == set()  # words that follow the user's name


@pytest.mark.parametrize("page", ["operations.md", "peers.md"])
def test_the_pages_it_points_to_are_there(page: str):
    text = (ROOT / "docs" / page).read_text()
    pages = re.findall(r"\]\(([\w./-]+?)(?:#[\w-]+)?\)", text)
    assert pages
    assert [name for name in pages if not (ROOT / "docs" / name).exists()] == []
