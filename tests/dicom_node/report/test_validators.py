"""Tools of others read our objects and find nothing wrong."""

import re
import shutil
import subprocess
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
    r".*/(CODE|TEXT) \(((DENSITY|CBMD|TBS)-CLASS|WITHHELD|POLICY|111052|122505),(99TRABECULA|DCM),[^/]*"
    r": Content Item not in template",
)
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
CASES = ["series", "complete", "multiframe", "thick", "turned", "withheld", "without_cores", *HEADERS]


@pytest.fixture
def objects(request, written, changed):
    """All objects of a case."""
    name = request.param
    analysis = changed(HEADERS[name]) if name in HEADERS else request.getfixturevalue(name)
    return written(analysis, ReportOptions(picture=name in ("complete", "withheld", "bare", "arabic")))


@pytest.mark.dcmtk
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools (dciodvfy) is not installed")
@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="DCMTK (dsrdump) is not installed")
@pytest.mark.parametrize("objects", CASES, indirect=True)
def test_dicom3tools_and_dcmtk_find_no_fault(objects):
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
@pytest.mark.parametrize("template", ["TID 1411", "TID 1410", "TID 1501"])
def test_pixelmed_finds_the_templates(template, complete, written, tmp_path):
    """
    It settles for a whole document which one template all groups follow, though TID 1500 lets them
    mix; so the groups of each template are handed to it by themselves. Two levels do: one with a
    density, one where it is withheld.
    """
    two = replace(complete, result=replace(complete.result, levels=(VertebralLevel.L2, VertebralLevel.L3)))
    path = tmp_path / "part.dcm"
    _groups_only(dcmread(written(two)["sr"]), template).save_as(path)
    limits = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprOpLimit", "TotalOpLimit", "ExprGrpLimit")]
    command = ["java", *limits, "-cp", str(PIXELMED), "com.pixelmed.validate.DicomSRValidator"]
    command += ["-checkcontentitemorder", "-checktemplateid", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    lines = (said.stdout + said.stderr).splitlines()
    assert {"Root Template Validation Complete", "IOD validation complete"} <= set(lines)
    odd = [line for line in lines if line.startswith(("Error", "Warning"))]
    assert [line for line in odd if not any(re.fullmatch(known, line) for known in PIXELMED_ALLOWED)] == []


def _groups_only(report: Dataset, template: str) -> Dataset:
    """The document with those groups only that follow one template."""
    (measurements,) = [
        item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]
    region = {"TID 1411": "IMAGE", "TID 1410": "SCOORD", "TID 1501": None}[template]
    measurements.ContentSequence = [
        group
        for group in measurements.ContentSequence
        if region
        == next((one.ValueType for one in group.ContentSequence if one.ValueType in ("IMAGE", "SCOORD")), None)
    ]
    assert len(measurements.ContentSequence) == (3 if region is None else 2)
    return report
