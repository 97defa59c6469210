"""Identifiers are held to the grammar, everything else may be odd, and no patient leaves the header."""

import string
import struct
import warnings
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_files

from engine.errors import BadOption, SeriesError, UnreadableInstance
from engine.loading.headers import check_uid, pseudonym, read_header
from engine.records import Reason
from engine.selection import DEFLATED, EXPLICIT_BIG_ENDIAN
from engine.series import series_of


@pytest.mark.parametrize("uid", ["1.2", "2.25.329800735698586629295641978511506172918", "0.0.0", "1.2." + "3" * 60])
def test_a_uid_passes_unchanged(uid):
    assert check_uid(uid) == uid


@pytest.mark.parametrize(
    "text",
    [
        "../../../../etc/cron.d/x",
        "1.2/3",
        "1.2\\3",
        "1.2.03",
        "1..2",
        ".1.2",
        "1.2.",
        "1",
        "3.1",
        "1.2 .3",
        "1.2.3\0",
        "1.2.3\n",
        "1.2." + "3" * 61,
        "1.2.a",
        "\uff11.\uff12",
        "1.2.\u0663",
        "-1.2",
        "1.2.3 ",
        "%2e%2e",
    ],
)
def test_what_is_no_uid_is_refused_without_being_quoted(text):
    with pytest.raises(UnreadableInstance) as caught:
        check_uid(text)
    assert caught.value.reason is Reason.IDENTIFIER_INVALID
    assert text not in str(caught.value)


@given(st.text(alphabet=string.printable + "\0", max_size=80))
def test_only_digits_and_dots_ever_pass(text):
    try:
        passed = check_uid(text)
    except UnreadableInstance:
        return
    assert set(passed) <= set("0123456789.")
    assert pydicom.uid.UID(passed).is_valid


IDENTIFIERS = {"sop class": (8, 0x16), "instance": (8, 0x18), "study": (0x20, 0xD), "series": (0x20, 0xE)}


@pytest.mark.parametrize("which", IDENTIFIERS)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.IDENTITY_MISSING),
        (b"\0\0", Reason.IDENTITY_MISSING),
        (b"  ", Reason.IDENTITY_MISSING),
        (b"../../etc/passwd", Reason.IDENTIFIER_INVALID),
        (b"1.2.3\0../x\0", Reason.IDENTIFIER_INVALID),
        (b"1.2.3\\1.2.4\0", Reason.IDENTIFIER_INVALID),
        (b" 1.2.3", Reason.IDENTIFIER_INVALID),
        (b"1.2.\xb9\0", Reason.IDENTIFIER_INVALID),
    ],
)
def test_an_identifier_that_is_empty_or_malformed_refuses_the_instance(raw, which, value, reason):
    path = raw.file({IDENTIFIERS[which]: (b"UI", value)})
    with pytest.raises(UnreadableInstance) as caught:
        read_header(path, raw.KEY)
    assert caught.value.reason is reason


def test_an_identifier_that_is_absent_refuses_the_instance(raw):
    for tag in IDENTIFIERS.values():
        values = {key: value for key, value in raw.IDENTITY.items() if key != tag}
        (raw.folder / "a.dcm").write_bytes(raw.part10(raw.body_of(values)))
        with pytest.raises(UnreadableInstance) as caught:
            read_header(raw.folder / "a.dcm", raw.KEY)
        assert caught.value.reason is Reason.IDENTITY_MISSING


ODD = [
    # tag, VR, value, field, what is read
    ((0x0018, 0x1120), b"DS", b"+18.5 ", "gantry_detector_tilt", 18.5),
    ((0x0018, 0x1120), b"DS", b"nan ", "gantry_detector_tilt", None),
    ((0x0018, 0x1120), b"DS", b"1_0 ", "gantry_detector_tilt", None),
    ((0x0018, 0x0060), b"DS", b"120\\80", "kvp", 120.0),
    ((0x0018, 0x0060), b"DS", b"-120", "kvp", None),
    ((0x0018, 0x0060), b"DS", b"1e999 ", "kvp", None),
    ((0x0018, 0x0050), b"DS", b"0 ", "slice_thickness", None),
    ((0x0018, 0x0050), b"DS", b"thin", "slice_thickness", None),
    ((0x0018, 0x1210), b"SH", b"Br38f\\3 ", "convolution_kernel", ("Br38f", "3")),
    ((0x0018, 0x1210), b"SH", b"\\\\ ", "convolution_kernel", ()),
    ((0x0018, 0x1210), b"SH", b"B\0\x07r\xff38", "convolution_kernel", ("Br38",)),
    ((0x0018, 0x0015), b"CS", b"abdomen ", "body_part_examined", "ABDOMEN"),
    ((0x0018, 0x0015), b"CS", b"Mr. Doe's abdomen", "body_part_examined", None),
    ((0x0010, 0x0040), b"CS", b"female", "patient_sex", None),
    ((0x0010, 0x0040), b"CS", b"f ", "patient_sex", "F"),
    ((0x0010, 0x1010), b"AS", b"065Y", "patient_age", 65),
    ((0x0010, 0x1010), b"AS", b"018M", "patient_age", 1),
    ((0x0010, 0x1010), b"AS", b"999Y", "patient_age", None),
    ((0x0010, 0x1010), b"AS", b"old ", "patient_age", None),
    ((0x0008, 0x0020), b"DA", b"2020.02.29", "study_date", "20200229"),
    ((0x0008, 0x0020), b"DA", b"20210229", "study_date", None),
    ((0x0008, 0x0020), b"DA", b"20200101-20210101", "study_date", None),
    ((0x0008, 0x002A), b"DT", b"20221208140352.895000 ", "acquisition_date", "20221208"),
    ((0x0028, 0x0010), b"US", b"", "rows", None),
    ((0x0028, 0x0010), b"US", b"\xff\xff", "rows", 65535),
    ((0x0028, 0x0008), b"IS", b"two ", "number_of_frames", 1),
    ((0x0028, 0x0008), b"IS", b"2000000000", "number_of_frames", 2000000000),
    ((0x0020, 0x0013), b"IS", b"1A", "instance_number", None),
    ((0x0020, 0x0013), b"IS", b"99999999999 ", "instance_number", None),
    ((0x0020, 0x0037), b"DS", b"1\\0\\0\\0\\1 ", "image_orientation_patient", None),
    ((0x0020, 0x0037), b"DS", b"1\\0\\0\\0\\1\\0\\7 ", "image_orientation_patient", None),
    ((0x0020, 0x0032), b"DS", b"1\\2\\inf ", "image_position_patient", None),
    ((0x0020, 0x0032), b"FD", struct.pack("<3d", 1, 2, 3), "image_position_patient", None),
    ((0x0020, 0x0052), b"UI", b"../x", "frame_of_reference_uid", None),
    ((0x0020, 0x0052), b"UI", b"1." + b"2" * 70, "frame_of_reference_uid", None),
    ((0x0018, 0x0060), b"DS", b"0" * 70 + b"120 ", "kvp", 120.0),
    ((0x0018, 0x1210), b"SH", b"\\".join([b"B" * 99] * 99)[:1000], "convolution_kernel", ("B" * 64,) * 10),
    ((0x0028, 0x2110), b"CS", b"01", "lossy_image_compression", True),
    ((0x0008, 0x0060), b"CS", b"ct", "modality", "CT"),
    ((0x0008, 0x0060), b"CS", b"Mr. Doe ", "modality", ""),
    ((0x0008, 0x0070), b"LO", b"m" * 500, "manufacturer", "m" * 64),
    ((0x0008, 0x0008), b"CS", b"ORIGINAL\\PRIMARY\\\\X ", "image_type", ("ORIGINAL", "PRIMARY", "", "X")),
]


@pytest.mark.parametrize(("tag", "vr", "value", "field", "expected"), ODD)
def test_an_odd_value_becomes_clean_or_none(raw, tag, vr, value, field, expected):
    assert getattr(read_header(raw.file({tag: (vr, value)}), raw.KEY), field) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, False),
        ({(0x18, 0x10): (b"LO", b"APPLIED ")}, True),
        ({(0x18, 0x10): (b"LO", b"  ")}, False),
        ({(0x18, 0x10): (b"LO", b"none")}, False),
        ({(0x18, 0x10): (b"LO", "造影剤".encode())}, True),
        ({(0x18, 0x1041): (b"DS", b"0 ")}, False),
        ({(0x18, 0x1041): (b"DS", b"90")}, True),
        ({(0x18, 0x1048): (b"CS", b"IODINE")}, True),
        ({(0x18, 0x12): (b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0))}, True),
        ({(0x18, 0x12): (b"SQ", b"")}, False),
    ],
)
def test_contrast_is_seen_wherever_the_header_names_it(raw, values, expected):
    assert read_header(raw.file(values), raw.KEY).contrast_bolus_agent is expected


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (b"1 ", b"-1024 ", True),
        (b"0 ", b"0 ", False),
        (b"NaN ", b"0 ", False),
        (b"1 ", b"", False),
        (b"", b"0 ", False),
    ],
)
def test_rescale_counts_only_when_both_parts_mean_something(raw, slope, intercept, expected):
    path = raw.file({(0x28, 0x1052): (b"DS", intercept), (0x28, 0x1053): (b"DS", slope)})
    assert read_header(path, raw.KEY).has_rescale is expected


def test_age_comes_from_the_date_of_birth_where_it_is_not_stated(raw):
    born, seen = (0x10, 0x30), (0x8, 0x20)
    assert read_header(raw.file({born: (b"DA", b"19500602"), seen: (b"DA", b"20200601")}), raw.KEY).patient_age == 69
    assert read_header(raw.file({born: (b"DA", b"19500601"), seen: (b"DA", b"20200601")}), raw.KEY).patient_age == 70
    assert read_header(raw.file({born: (b"DA", b"19500601")}), raw.KEY).patient_age is None


class TestPseudonym:
    def test_it_depends_on_key_patient_and_issuer(self):
        keys = {pseudonym(key, who, by) for key in (b"a", b"b") for who in ("1", "2") for by in ("", "X")}
        assert len(keys) == 8
        assert all(len(key) == 32 and set(key) <= set(string.hexdigits.lower()) for key in keys)

    def test_parts_can_not_be_shifted_into_each_other(self):
        assert pseudonym(b"k", "ab", "c") != pseudonym(b"k", "b", "ca")
        assert pseudonym(b"k", "patient", "") != pseudonym(b"k", "", "patient")

    def test_without_a_key_there_is_none(self):
        with pytest.raises(BadOption, match="key"):
            pseudonym(b"", "1", "")

    def test_a_site_without_a_key_is_no_fault_of_the_instance(self, raw):
        with pytest.raises(BadOption):
            read_header(raw.file(), b"")

    def test_padding_does_not_make_another_patient(self, raw):
        keys = {
            read_header(raw.file({(0x10, 0x20): (b"LO", v)}), raw.KEY).patient_key for v in (b"P7", b"P7  ", b" P7\0")
        }
        assert keys == {pseudonym(raw.KEY, "P7", "")}

    @pytest.mark.parametrize("patient_id", [b"", b"    ", b"\xff\xfe\xfa\xfa"])
    def test_patients_without_a_legible_id_never_merge(self, raw, patient_id):
        values = {(0x10, 0x20): (b"LO", patient_id), (0x08, 0x05): (b"CS", b"ISO_IR 192")}
        first = read_header(raw.file(values), raw.KEY)
        again = read_header(raw.file(values | {(0x08, 0x18): (b"UI", b"1.2.99")}), raw.KEY)
        other = read_header(raw.file(values | {(0x20, 0x0D): (b"UI", b"1.2.98")}), raw.KEY)
        assert first.patient_key == again.patient_key != other.patient_key

    def test_the_character_set_is_followed(self, raw):
        latin = raw.file({(0x10, 0x20): (b"LO", "Ä1".encode("latin-1")), (0x08, 0x05): (b"CS", b"ISO_IR 100")})
        first = read_header(latin, raw.KEY).patient_key
        utf8 = raw.file({(0x10, 0x20): (b"LO", "Ä1".encode() + b" "), (0x08, 0x05): (b"CS", b"ISO_IR 192")})
        assert read_header(utf8, raw.KEY).patient_key == first == pseudonym(raw.KEY, "Ä1", "")


def test_identity_is_nowhere_in_a_header_or_a_refusal(ct, raw):
    def mark(dataset, k):
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "ZZMARK^A", "ZZMARK-7", "19501231"

    for path in ct.write(2, mark):
        text = repr(read_header(path, raw.KEY))
        assert "ZZMARK" not in text
        assert "19501231" not in text
    for bad in ({(8, 0x18): (b"UI", b"ZZMARK")}, {(8, 0x18): (b"UI", b"")}):
        with pytest.raises(UnreadableInstance) as caught:
            read_header(raw.file(bad | {(0x10, 0x20): (b"LO", b"ZZMARK")}), raw.KEY)
        assert "ZZMARK" not in repr(caught.value)
        assert caught.value.__cause__ is None


def test_a_file_that_is_gone_or_no_file_says_so(tmp_path, raw):
    for path in (tmp_path / "none.dcm", tmp_path):
        with pytest.raises(UnreadableInstance) as caught:
            read_header(path, raw.KEY)
        assert caught.value.reason is Reason.FILE_MISSING
        assert str(tmp_path) not in str(caught.value)


def test_headers_of_pydicoms_own_files_say_what_pydicom_reads(raw):
    syntaxes = set()
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in (Path(name) for name in get_testdata_files()):
            try:
                header = read_header(path, raw.KEY)
            except SeriesError:
                continue
            dataset = pydicom.dcmread(path)
            assert header.sop_instance_uid == dataset.SOPInstanceUID
            assert header.series_instance_uid == dataset.SeriesInstanceUID
            assert header.transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID
            assert (header.rows, header.columns) == (dataset.get("Rows"), dataset.get("Columns"))
            assert header.modality == dataset.get("Modality", "")
            if "ImagePositionPatient" in dataset:
                assert header.image_position_patient == tuple(map(float, dataset.ImagePositionPatient))
            syntaxes.add(header.transfer_syntax_uid)
            read += 1
    assert read > 60
    assert {DEFLATED, EXPLICIT_BIG_ENDIAN} <= syntaxes


@given(data=st.binary(max_size=64), tag=st.sampled_from([tag for tag, *_ in ODD]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_value_breaks_a_header(raw, data, tag):
    vr = next(vr for known, vr, *_ in ODD if known == tag)
    header = read_header(raw.file({tag: (vr, data)}), raw.KEY)
    assert header.sop_instance_uid == "1.2.3.4"
    assert series_of([(header, "a")])[0].series_instance_uid == "1.2.3.2"


@pytest.mark.real_data
def test_empty_identifiers_of_a_real_archive_are_refused(real_data, raw):
    for path in sorted((real_data / "ct_abdomen_j2k_empty_uids").iterdir())[:5]:
        with pytest.raises(UnreadableInstance) as caught:
            read_header(path, raw.KEY)
        assert caught.value.reason is Reason.IDENTITY_MISSING
