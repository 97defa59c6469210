"""The house stands as docs/design.md says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.records import Quantity, Reason

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "db", "dicom_node", "exporters")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_what_is_imported_is_what_lies_here():
    assert Path(engine.__file__).parent == ROOT / "engine"


def test_no_test_folder_shadows_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_package_files_hold_a_docstring_and_nothing_else():
    for path in python_files(*PACKAGES):
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), path
            assert len(tree.body) == 1, path


def test_import_contracts_hold():
    linter = Path(sys.executable).parent / "lint-imports"
    ran = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("room", ["engine.programs.vertebral", "engine.batch", "dicom_node.cli", "dicom_node.node"])
def test_what_runs_at_night_does_not_load(room):
    heavy = ["torch", "onnx", "openvino", "onnxruntime", "scipy.ndimage"]
    code = f"import sys, {room}; print([n for n in {heavy} if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_every_reason_is_explained():
    page = (ROOT / "docs" / "reasons.md").read_text()
    explained = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert sorted(explained) == sorted(str(reason) for reason in Reason)


def test_every_quantity_has_a_unit():
    assert all(quantity.ucum for quantity in Quantity)


def test_each_packaged_model_has_a_card():
    manifests = sorted((ROOT / "engine" / "models").glob("*/manifest.toml"))
    assert manifests
    for manifest in manifests:
        card = ROOT / "docs" / "models" / f"{manifest.parent.name}.md"
        text = card.read_text()
        assert "phantom" in text
        assert "not for clinical use" in text.lower()


def test_no_machine_path_is_written_down():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    marks = re.compile("/" + r"(work|farm|root|home/\w+)/")
    told = [
        name
        for name in tracked
        if not name.endswith(".png") and marks.search((ROOT / name).read_text(errors="replace"))
    ]
    assert told == []


def test_every_change_note_has_a_known_kind():
    notes = [path.name for path in (ROOT / "docs" / "changes").glob("*.md") if path.name != "README.md"]
    assert notes
    assert all(re.fullmatch(r"[\w-]+\.(feature|fix|breaking|model)\.md", name) for name in notes)


def test_migrations_stand_in_one_row():
    steps = []
    for path in sorted((ROOT / "db" / "migrations" / "versions").glob("r*.py")):
        told = dict(re.findall(r'^(revision|down_revision) = "?(\w+)"?$', path.read_text(), flags=re.MULTILINE))
        steps.append((path.name[1:5], told["revision"], told["down_revision"]))
    numbers = [f"{n:04}" for n in range(1, len(steps) + 1)]
    assert steps == list(zip(numbers, numbers, ["None", *numbers], strict=False))
