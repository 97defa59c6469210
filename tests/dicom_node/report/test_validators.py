"""Tools of others read our objects and find nothing wrong."""

import json
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from dicom_node.report.write import ReportOptions
from engine.records import VertebralLevel

ALLOWED = (
    r"Warning - Unrecognized defined term <99TRABECULA> for value 1 of attribute <Coding Scheme Designator>",  # ours
    # PS3.3 gained a Device UID in the Contributing Equipment Sequence after this build of the tool
    r"Warning - Attribute is not present in standard DICOM IOD - \(0x0018,0x1002\) UI Device UID ",
    r"Warning - Dicom dataset contains attributes not present in standard DICOM IOD - .*",  # the same
    # where the source has none
    r"Warning - Missing attribute or value that would be needed to build DICOMDIR - Study (Time|ID)",
)
PIXELMED_ALLOWED = (
    # PS3.16 renamed the item after this build of the tool: "Source Series" became lower case and back
    r'.*Code \(121232,DCM,"Source Series for Segmentation"\) has different code meaning.*',
    # qualitative evaluations came into TID 1411 and 1501 after this build (PS3.16, "and Qualitative Evaluations")
    r".*/(CODE|TEXT) \(((DENSITY|CBMD|TBS)-CLASS|WITHHELD|POLICY|NUMBERING|111052|122505),(99TRABECULA|DCM),[^/]*"
    r": Content Item not in template",
)
REGIONS = {"TID 1411": "IMAGE", "TID 1410": "SCOORD", "TID 1501": None}
"""By what the groups of each template say where they measured."""
PIXELMED = Path("/usr/share/java/pixelmed.jar")


def aged(dataset: Dataset) -> None:
    del dataset.PatientAge


def japanese(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"


def arabic(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 127"
    dataset.PatientName = "قباني^لنزار"


def unicode(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "قباني^لنزار"


def bare(dataset: Dataset) -> None:
    for keyword in (
        "AccessionNumber",
        "PatientBirthDate",
        "PatientSex",
        "StudyID",
        "StudyTime",
        "ReferringPhysicianName",
    ):
        dataset.pop(keyword, None)
    dataset.PatientName = ""


HEADERS = {change.__name__: change for change in (aged, japanese, arabic, unicode, bare)}
KINDS = ["series", "complete", "multiframe", "thick", "turned", "withheld", "without_cores", "superseding"]
CASES = [*KINDS, *HEADERS]


@pytest.fixture
def objects_of(request, written, former, changed):
    """A function that gives all objects of a case."""

    def make(name, **limits):
        if name in HEADERS:
            analysis = changed(HEADERS[name])
        else:
            analysis = request.getfixturevalue("series" if name == "superseding" else name)
        if limits:
            analysis = replace(analysis, result=replace(analysis.result, **limits))
        options = ReportOptions(picture=name in ("complete", "withheld", "bare", "arabic"))
        return written(analysis, options, former if name == "superseding" else None)

    return make


@pytest.mark.dcmtk
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools (dciodvfy) is not installed")
@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="DCMTK (dsrdump) is not installed")
@pytest.mark.parametrize("case", CASES)
def test_dicom3tools_and_dcmtk_find_no_fault(case, objects_of):
    objects = objects_of(case)
    for kind, path in objects.items():
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=60)
        lines = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith(("Error", "Warning"))]
        assert [line for line in lines if not any(re.fullmatch(known, line) for known in ALLOWED)] == [], kind
        assert said.returncode == 0
    dumped = subprocess.run(["dsrdump", "+Pl", str(objects["sr"])], capture_output=True, check=False, timeout=60)
    assert dumped.returncode == 0
    known = b"W: The VR checker does not support this Specific Character Set: ISO_IR 192"  # its own limit
    assert set(dumped.stderr.splitlines()) <= {known}
    text = dumped.stdout.decode("utf-8")
    assert "Trabecular volumetric bone mineral density" in text or "Density withheld because of" in text
    assert "Research only, not for diagnosis." in text


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("java") is None or not PIXELMED.is_file(),
    reason="PixelMed's validator (pixelmed-apps) is not installed",
)
def test_pixelmed_finds_no_fault_in_any_template(objects_of, tmp_path):
    """
    It settles for a whole document which one template all groups follow, though TID 1500 lets them
    mix; so the groups of each template are handed to it by themselves. Two levels do, one with a
    density and one where it is withheld; odd headers come with the groups of the patient alone.
    """
    parts = []
    for case in CASES:
        report = dcmread(objects_of(case, levels=(VertebralLevel.L2, VertebralLevel.L3))["sr"])
        for template in ("TID 1501",) if case in HEADERS else REGIONS:
            path = tmp_path / f"{case} {template}"
            if _groups_only(report, template, path):
                parts.append(path)
    assert {path.name for path in parts} >= {f"{case} TID 1501" for case in CASES}
    assert {path.name for path in parts} >= {f"{case} {each}" for case in ("superseding", "thick") for each in REGIONS}
    command = [sys.executable, str(Path(__file__).with_name("pixelmed_judge.py")), str(PIXELMED), *map(str, parts)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    judged = {Path(path).name: lines for path, lines in json.loads(said.stdout).items()}
    assert set(judged) == {path.name for path in parts}
    for lines in judged.values():
        assert {"Root Template Validation Complete", "IOD validation complete"} <= set(lines)
    odd = {name: [line for line in lines if line.startswith(("Error", "Warning"))] for name, lines in judged.items()}
    unknown = {
        name: [line for line in lines if not any(re.fullmatch(known, line) for known in PIXELMED_ALLOWED)]
        for name, lines in odd.items()
    }
    assert {name: lines for name, lines in unknown.items() if lines} == {}


def _groups_only(report: Dataset, template: str, path: Path) -> bool:
    """Write the document with those groups only that follow one template; False: it has none."""
    part = deepcopy(report)
    (measurements,) = [
        item for item in part.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]
    measurements.ContentSequence = [
        group
        for group in measurements.ContentSequence
        if REGIONS[template]
        == next((one.ValueType for one in group.ContentSequence if one.ValueType in ("IMAGE", "SCOORD")), None)
    ]
    part.save_as(path)
    return len(measurements.ContentSequence) > 0
