"""The configurations that ship say what the code says."""

import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from dicom_node.config import NodeConfig, read_config
from engine.options import read_options, write_options

CONFIGS = Path(__file__).parent.parent / "configs"
DEFAULT = CONFIGS / "default.toml"


def keys(table: dict[str, Any], where: str = "") -> set[str]:
    found = set()
    for key, value in table.items():
        found |= keys(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}"}
    return found


def options_of(kind: type, where: str = "") -> set[str]:
    """Dotted names of all options; of a list of tables, the list."""
    found = set()
    for field in fields(kind):
        hint = get_type_hints(kind)[field.name]
        found |= options_of(hint, f"{where}{field.name}.") if is_dataclass(hint) else {f"{where}{field.name}"}
    return found


def test_the_default_file_equals_the_built_in_defaults():
    assert read_options(NodeConfig, tomllib.loads(DEFAULT.read_text())) == NodeConfig()


def test_the_default_file_is_whole():
    text = DEFAULT.read_text()
    written = keys(tomllib.loads(text))
    wordless = options_of(NodeConfig) - keys(write_options(NodeConfig()))  # None has no word in TOML
    tables = {
        "sender.destinations",
        "receiver.commitment_peers",
        "backfill.archives",
    }  # tables of their own: an empty list would stand in their way
    assert written == options_of(NodeConfig) - wordless - tables
    assert all(f"# {name.rpartition('.')[2]} =" in text for name in wordless)
    assert all(f"# [[{name}]]" in text for name in tables)


def test_the_destinations_of_the_default_file_can_be_put_in():
    lines = DEFAULT.read_text().splitlines()
    at = lines.index("# [[sender.destinations]]")
    lines[at : at + 5] = [line.removeprefix("# ") for line in lines[at : at + 5]]
    (destination,) = read_options(NodeConfig, tomllib.loads("\n".join(lines))).sender.destinations
    assert destination.name == "pacs"


def test_the_default_file_explains_every_option():
    last_said = False  # the first option of a table may be explained by its head
    for number, line in enumerate(DEFAULT.read_text().splitlines(), start=1):
        if "=" in line and not line.startswith("#"):
            assert "#" in line.partition("=")[2] or last_said, f"line {number} says nothing about its option"
        last_said = line.startswith("[") and "#" in line


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_can_be_read(path: Path):
    assert isinstance(read_config(path), NodeConfig)
