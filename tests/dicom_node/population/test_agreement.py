"""A site's references meet its results, and what can't be right is refused with the line that shows it."""

import json

import pytest

from dicom_node.population import agreement_page
from dicom_node.population.agreement import agreements
from dicom_node.population.reference import read_examinations, read_references
from engine.errors import BadOption
from engine.prediction.policy import DensityPolicy

KEY = bytes(range(32))  # of the site, see conftest

POLICY = DensityPolicy()
HEAD = "patient_id,date,volumetric_bmd_mg_cm3\n"


def test_each_reference_meets_the_patients_nearest_result(site, references):
    (found,) = agreements(site.database, read_references(references(), KEY), POLICY)
    assert len(found.pairs) == len(site.truth)
    assert found.unmatched == {}
    assert {pair.days for pair in found.pairs} == {0}
    assert found.bland_altman is not None
    assert found.bland_altman.bias.value == pytest.approx(-5.0, abs=1e-3)
    assert found.regression is not None
    assert found.regression.mae == pytest.approx(5.0, abs=1e-3)
    assert found.confusion is not None
    assert sum(map(sum, found.confusion.counts)) == len(found.pairs)
    osteoporosis, low = found.detections
    assert osteoporosis.area is not None
    assert osteoporosis.area.value == 1.0  # a constant offset keeps the order
    assert osteoporosis.positives <= low.positives
    assert {one.factor for one in found.subgroups} == {"manufacturer", "sex", "age"}


def test_a_reference_is_joined_by_accession_number_and_by_study(site, references):
    with site.database.read() as connection:
        uid, bmd = connection.exec_driver_sql("SELECT study_instance_uid, volumetric_bmd FROM cohort LIMIT 1").one()
    name, (_, density) = next(iter(site.truth.items()))
    assert name == "ID-000"
    by_number = references("Accession Number;volumetric_bmd_mg_cm3\nA0;100,5\nA999;90\n")
    (found,) = agreements(site.database, read_references(by_number, KEY), POLICY)
    assert [(pair.reference, pair.value) for pair in found.pairs] == [(100.5, density)]
    assert found.unmatched == {"no result here": 1}
    by_study = references(f"study_instance_uid,volumetric_bmd_mg_cm3\n{uid},80\n")
    (found,) = agreements(site.database, read_references(by_study, KEY), POLICY)
    assert [(pair.reference, pair.value) for pair in found.pairs] == [(80.0, bmd)]


def test_what_meets_nothing_is_counted_with_its_reason(site, references):
    with site.database.read() as connection:
        withheld = connection.exec_driver_sql(
            "SELECT study_instance_uid, p.reason FROM population p JOIN series s ON s.id = p.series_id"
            " JOIN study t ON t.id = s.study_id WHERE p.reason IS NOT NULL LIMIT 1"
        ).one()
    text = (
        f"study_instance_uid,patient_id,date,volumetric_bmd_mg_cm3\n{withheld[0]},,,90\n,ID-001,1999-01-01,91\n,X,,92\n"
    )
    (found,) = agreements(site.database, read_references(references(text), KEY), POLICY)
    assert found.pairs == ()
    assert found.unmatched == {
        f"withheld: {withheld[1]}": 1,
        "more than 365 days apart": 1,
        "no result here": 1,
    }
    assert "No reference met a result" in agreement_page.part(found)


def test_the_tables_go_out_whole(site, references):
    found = agreements(site.database, read_references(references(), KEY), POLICY)
    said = json.loads(json.dumps(agreement_page.as_json(found[0])))
    assert said["pairs"] == len(site.truth)
    assert said["bland_altman"]["bias"]["value"] == pytest.approx(-5.0, abs=1e-3)
    html = agreement_page.part(found[0])
    assert html.count("<svg") == 3
    assert "ID-0" not in html
    assert len(agreement_page.pairs_table(found).rows) == len(site.truth)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("name,volumetric_bmd_mg_cm3\nx,100\n", "names nobody: it needs"),
        ("patient_id,weight\nx,100\n", "no column of reference values"),
        ("patient_id,volumetric_bmd\nx,100\n", "names no unit that is known here; expected volumetric_bmd_mg_cm3"),
        ("patient_id,volumetric_bmd_g_cm3\nx,0.1\n", "names no unit that is known"),
        ("patient_id,patient_id,volumetric_bmd_mg_cm3\nx,y,100\n", "has a column twice: patient_id"),
        (HEAD + "SECRET,20200101,0.09\nb,20200101,0.11\n", "median of volumetric_bmd_mg_cm3 is 0.1"),
        (HEAD + "SECRET,20200101,abc\n", "line 2: volumetric_bmd_mg_cm3 is no number"),
        (HEAD + "SECRET,20200101,nan\n", "line 2: volumetric_bmd_mg_cm3 is no number"),
        (HEAD + "SECRET,31.12.2020,100\n", "line 2: a date must be"),
        (HEAD + "SECRET,20200101\n", "line 2: 2 cells under 3 columns"),
        (HEAD + ",20200101,100\n", "line 2 names nobody"),
        (HEAD + "SECRET,20200101,100\nother,20200101,90\nSECRET,20200101,101\n", "lines 2 and 4 contradict"),
        (HEAD, "has no rows"),
        (HEAD + '"SECRET,20200101,100\n', "is no CSV"),
    ],
)
def test_a_table_that_could_be_misread_is_refused_and_nobody_is_named(references, tmp_path, text, told):
    file = references("x")
    file.write_text(text)
    with pytest.raises(BadOption, match=told) as refused:
        read_references(file, KEY)
    assert "SECRET" not in str(refused.value)


def test_a_row_that_is_there_twice_counts_once(references):
    rows = read_references(references(HEAD + "a,2020-01-01,100\na,20200101,100.0\n\nb,,90\n"), KEY)
    assert [(row.day, row.values["volumetric_bmd_mg_cm3"]) for row in rows] == [(18262, 100.0), (None, 90.0)]


def test_a_file_that_is_not_there_or_no_text_is_told_in_one_line(tmp_path):
    with pytest.raises(BadOption, match="can't be read"):
        read_references(tmp_path / "none.csv", KEY)
    (tmp_path / "latin.csv").write_bytes(b"patient_id,volumetric_bmd_mg_cm3\nM\xfcller,100\n")
    with pytest.raises(BadOption, match="no UTF-8"):
        read_references(tmp_path / "latin.csv", KEY)


def test_examinations_need_a_patient_and_a_day(references):
    known = read_examinations(references("patient_id,date,kind\na,2020-02-01,QCT\nb,20200301,\n"), KEY)
    assert [row[1:] for row in known] == [(18293, "20200201", "QCT"), (18322, "20200301", "DXA")]
    with pytest.raises(BadOption, match="columns patient_id and date"):
        read_examinations(references("patient_id,volumetric_bmd_mg_cm3\na,1\n"), KEY)
    with pytest.raises(BadOption, match="line 3"):
        read_examinations(references("patient_id,date\na,2020-02-01\nb,\n"), KEY)
