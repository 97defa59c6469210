"""A report is written whole or not at all, twice alike, whatever the source's header holds; nobody is told the name."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_node.report.options import SegmentationForm
from dicom_node.report.write import ReportOptions, write_report
from engine.errors import SeriesError, StorageFull
from engine.options import read_options
from engine.records import Reason
from engine.volume import Analysis

from ..conformance import rows, uids

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
ARABIC = "قباني^لنزار"
LONG = "A name that is longer than it may be " * 3


def dropped(*keywords: str):
    def change(dataset: Dataset) -> None:
        for keyword in keywords:
            dataset.pop(keyword, None)

    return change


def valued(**values: object):
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


@pytest.mark.parametrize(
    ("change", "keyword", "expected"),
    [
        (dropped("PatientAge"), "PatientAge", None),
        (dropped("PatientName"), "PatientName", ""),
        (valued(PatientName=""), "PatientName", ""),
        (valued(PatientName="Single"), "PatientName", "Single"),
        (dropped("AccessionNumber"), "AccessionNumber", ""),
        (valued(AccessionNumber="A-NUMBER-THAT-IS-TOO-LONG"), "AccessionNumber", "A-NUMBER-THAT-IS-TOO-LONG"),
        (dropped("PatientSex", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID"), "StudyDate", ""),
        (valued(PatientWeight="0"), "PatientWeight", None),
        (valued(PatientWeight="71.5"), "PatientWeight", 71.5),
        (valued(IssuerOfPatientID="Ward 7"), "IssuerOfPatientID", "Ward 7"),
        (valued(PatientID=LONG[:80]), "PatientID", LONG[:80].strip()),
        (dropped("ReferringPhysicianName"), "ReferringPhysicianName", ""),
        (valued(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=JAPANESE), "PatientName", JAPANESE),
        (valued(SpecificCharacterSet="ISO_IR 127", PatientName=ARABIC), "PatientName", ARABIC),
        (valued(SpecificCharacterSet="ISO_IR 192", PatientName=JAPANESE), "PatientName", JAPANESE),
        (valued(SpecificCharacterSet="ISO_IR 100", StudyDescription="Wirbelsäule"), "StudyDescription", "Wirbelsäule"),
    ],
)
def test_identity_is_what_the_source_says(change, keyword, expected, changed, tmp_path):
    with_picture = expected in (ARABIC, "Single")
    written = write_report(changed(change), _folder(tmp_path), ReportOptions(picture=with_picture))
    assert [one.kind for one in written.objects] == ["sr", "seg", "picture"][: 2 + with_picture]
    for one in written.objects:
        with config.disable_value_validation():
            report = dcmread(one.path)
            assert report.SpecificCharacterSet == "ISO_IR 192"
            assert str(report.get(keyword)) == str(expected)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", b"MARKED"),
        ("PatientAge", b"MARKED"),
        ("PatientWeight", b"MARKED"),
        ("StudyTime", b"MARKED"),
    ],
)
def test_a_value_without_meaning_is_left_out_in_silence(keyword, value, changed, tmp_path, caplog):
    written = write_report(changed(_patched(keyword, value)), _folder(tmp_path), ReportOptions(picture=False))
    for one in written.objects:
        assert not dcmread(one.path).get(keyword)
    _tells_nothing(caplog.text)


def test_numbers_longer_than_dicom_allows_keep_their_place(series, changed, tmp_path):
    """Scanners write positions with more than 16 characters; no validator minds ours."""

    def change(dataset: Dataset) -> None:
        position = [float(value) + 1e-9 / 3 for value in dataset.ImagePositionPatient]
        _patched("ImagePositionPatient", "\\".join(f"{value:.15f}" for value in position).encode())(dataset)
        _patched("PixelSpacing", rb"1.60000000000000009\1.60000000000000009")(dataset)

    written = write_report(changed(change), _folder(tmp_path), ReportOptions(picture=False))
    frames = dcmread(written.objects[1].path).PerFrameFunctionalGroupsSequence
    for value in frames[0].PlanePositionSequence[0].ImagePositionPatient:
        assert len(str(value)) <= 16
    first = np.flatnonzero(series.trabecular.labels.any(axis=(1, 2)))[0]
    heights = sorted(float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) for frame in frames)
    assert heights[0] == pytest.approx(series.volume.geometry.to_patient(np.array([first, 0.0, 0.0]))[2], abs=1e-5)


@pytest.mark.parametrize("offset", ["+9900", "east", "-1"])
def test_a_time_zone_without_meaning_is_left_out(offset, changed, tmp_path):
    written = write_report(
        changed(valued(TimezoneOffsetFromUTC=offset)), _folder(tmp_path), ReportOptions(picture=False)
    )
    assert "TimezoneOffsetFromUTC" not in dcmread(written.objects[0].path)


def _patched(keyword: str, value: bytes):
    """Put bytes that break the grammar into a header, past the library's checks."""

    def change(dataset: Dataset) -> None:
        padded = value + b" " * (len(value) % 2)
        tag = Tag(keyword)
        dataset._dict[tag] = RawDataElement(tag, dictionary_VR(tag), len(padded), padded, 0, False, True)

    return change


def test_patient_study_and_accession_are_the_same_in_all_objects(series, written):
    source = dcmread(series.series.instances[0].path)
    for path in written(series, ReportOptions()).values():
        report = dcmread(path)
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID",
                        "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyDescription"):  # fmt: skip
            assert report[keyword].value == source[keyword].value, keyword
        assert report.SeriesInstanceUID != source.SeriesInstanceUID


def test_two_writings_are_alike_to_the_byte(series, tmp_path):
    first, second = (write_report(series, _folder(tmp_path / name), ReportOptions()) for name in "ab")
    for one, other in zip(first.objects, second.objects, strict=True):
        assert (one.kind, one.sop_instance_uid) == (other.kind, other.sop_instance_uid)
        assert Path(one.path).read_bytes() == Path(other.path).read_bytes()
    assert Path(first.picture_path).read_bytes() == Path(second.picture_path).read_bytes()


def test_a_second_writing_replaces_the_first(series, tmp_path):
    folder = _folder(tmp_path)
    first = write_report(series, folder, ReportOptions())
    before = sorted(folder.iterdir())
    for path in before:
        path.write_bytes(b"torn")
    assert write_report(series, folder, ReportOptions()) == first
    assert sorted(folder.iterdir()) == before
    assert dcmread(first.objects[0].path).Modality == "SR"


def test_names_of_files_come_from_the_uids(series, tmp_path):
    folder = _folder(tmp_path)
    written = write_report(series, folder, ReportOptions())
    for one in written.objects:
        assert Path(one.path).stem == hashlib.sha256(one.sop_instance_uid.encode()).hexdigest()[:32]
    (picture,) = [Path(one.path) for one in written.objects if one.kind == "picture"]
    assert Path(written.picture_path) == picture.with_suffix(".png")
    assert {path.name for path in folder.iterdir()} == {Path(one.path).name for one in written.objects} | {
        picture.with_suffix(".png").name
    }


def test_the_picture_can_be_left_out(series, tmp_path):
    written = write_report(series, _folder(tmp_path), ReportOptions(picture=False))
    assert ([one.kind for one in written.objects], written.picture_path) == (["sr", "seg"], None)


def test_the_pictures_are_the_same(series, tmp_path):
    written = write_report(series, _folder(tmp_path), ReportOptions())
    capture = dcmread(written.objects[-1].path)
    with Image.open(written.picture_path) as png:
        assert capture.pixel_array.tobytes() == png.convert("RGB").tobytes()
    assert (capture.BurnedInAnnotation, capture.ConversionType) == ("NO", "WSD")
    assert "not for diagnosis" in capture.DerivationDescription


def test_a_site_names_its_device_and_series(series, tmp_path):
    options = read_options(
        ReportOptions, {"series_number": 700, "device_serial_number": "N1", "institution_name": "House"}
    )
    written = write_report(series, _folder(tmp_path), options)
    numbers = {}
    for one in written.objects:
        report = dcmread(one.path)
        numbers[one.kind] = report.SeriesNumber
        assert (report.DeviceSerialNumber, report.InstitutionName) == ("N1", "House")
    assert numbers == {"sr": 700, "seg": 701, "picture": 702}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (valued(SOPInstanceUID="1.2.3.4"), Reason.REPORT_FAILED),
        (valued(ImagePositionPatient=[0, 0, 0]), Reason.REPORT_FAILED),
        (dropped("ImagePositionPatient"), Reason.REPORT_FAILED),
        (dropped("PixelSpacing"), Reason.REPORT_FAILED),
        (valued(Rows=99), Reason.REPORT_FAILED),
        (valued(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), Reason.REPORT_FAILED),
    ],
    ids=["another instance", "another place", "no place", "no spacing", "another size", "another orientation"],
)
def test_a_header_that_is_not_what_was_analysed_is_refused(change, reason, changed, tmp_path):
    folder = _folder(tmp_path)
    with pytest.raises(SeriesError) as caught:
        write_report(changed(change), folder, ReportOptions())
    assert caught.value.reason is reason
    assert list(folder.iterdir()) == []
    _tells_nothing(str(caught.value))


def test_two_patients_in_one_series_are_refused(changed, tmp_path):
    names = iter(range(10_000))

    def change(dataset: Dataset) -> None:
        dataset.PatientID = f"MARKED-{next(names)}"

    with pytest.raises(SeriesError, match="different patients"):
        write_report(changed(change), _folder(tmp_path), ReportOptions())


def test_a_file_that_is_gone_is_said(series, changed, tmp_path):
    analysis = changed(lambda dataset: None)
    Path(analysis.series.instances[len(analysis.series.instances) // 2].path).unlink()
    with pytest.raises(SeriesError) as caught:
        write_report(analysis, _folder(tmp_path), ReportOptions())
    assert caught.value.reason is Reason.FILE_MISSING
    _tells_nothing(str(caught.value))


def test_a_torn_file_is_said(series, changed, tmp_path):
    analysis = changed(lambda dataset: None)
    Path(analysis.series.instances[len(analysis.series.instances) // 2].path).write_bytes(b"\0" * 300)
    with pytest.raises(SeriesError) as caught:
        write_report(analysis, _folder(tmp_path), ReportOptions())
    assert caught.value.reason is Reason.REPORT_FAILED


def test_a_folder_that_takes_nothing_is_said(series, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageFull):
        write_report(series, tmp_path / "file", ReportOptions(picture=False))


@pytest.mark.parametrize(
    "bad", [{"series_number": 0}, {"institution_name": "x" * 65}, {"device_serial_number": "a\\b"}]
)
def test_options_that_dicom_cannot_hold_are_refused(bad):
    with pytest.raises(ValueError, match=r"positive|longer"):
        ReportOptions(**bad)


def test_the_patients_name_is_told_to_nobody(changed, tmp_path, caplog, recwarn):
    """A one-part name makes highdicom warn and log it, where it gets to see it."""
    caplog.set_level(logging.DEBUG)
    marked = valued(PatientName="Marked", ReferringPhysicianName="Marked", PatientID="MARKED-4711")
    write_report(changed(marked), _folder(tmp_path), ReportOptions())
    _tells_nothing(caplog.text)
    _tells_nothing(" ".join(str(warning.message) for warning in recwarn))


def test_the_picture_does_not_depend_on_who_it_is(series, changed, tmp_path):
    other: Analysis = changed(valued(PatientName="Somebody^Else", PatientID="OTHER", AccessionNumber="X"))
    pictures = [
        Path(write_report(one, _folder(tmp_path / name), ReportOptions()).picture_path).read_bytes()
        for name, one in (("a", series), ("b", other))
    ]
    assert pictures[0] == pictures[1]


def test_a_localizer_among_the_files_does_not_disturb(series, tmp_path):
    stranger = replace(series.series.instances[0], sop_instance_uid="1.2.3", path=str(tmp_path / "nowhere"))
    mixed = replace(series, series=replace(series.series, instances=(stranger, *series.series.instances)))
    written = write_report(mixed, _folder(tmp_path), ReportOptions(picture=False))
    assert [one.kind for one in written.objects] == ["sr", "seg"]


def _tells_nothing(text: str) -> None:
    assert "marked" not in text.lower()
    assert "/" not in text or ".dcm" not in text


def _folder(path: Path) -> Path:
    folder = path / "out"
    folder.mkdir(parents=True)
    return folder


def test_objects_are_of_the_classes_and_syntaxes_that_the_conformance_statement_tells(series, written):
    told = {uids(row[1])[0]: uids(row[2])[0] for row in rows("objects sent")}
    found = {}
    for form in SegmentationForm:
        for path in written(series, ReportOptions(segmentation=form)).values():
            dataset = dcmread(path, stop_before_pixels=True)
            found[str(dataset.SOPClassUID)] = str(dataset.file_meta.TransferSyntaxUID)
    assert found == told
