"""The report is one page that needs nothing else, and a browser shows it."""

import re
import shutil
import sqlite3
import subprocess

import numpy as np
import pytest
from PIL import Image

from db.connection import DatabaseOptions, open_database
from db.migrate import upgrade
from dicom_node.population import report
from dicom_node.population.agreement import agreements
from dicom_node.population.reference import read_references
from engine.prediction.policy import DensityPolicy

KEY = bytes(range(32))  # of the site, see conftest
HEADINGS = (
    "Intake",
    "Flow diagram",
    "Densities",
    "Prevalence",
    "Scanners",
    "Change over time",
    "Agreement with references",
    "Left out and failed",
)


@pytest.fixture(scope="module")
def html(site, tmp_path_factory):
    policy, table = DensityPolicy(), tmp_path_factory.mktemp("references") / "qct.csv"
    rows = [f"{name},{date},{bmd + 5:.3f}" for name, (date, bmd) in site.truth.items()]
    table.write_text("\n".join(["patient_id,date,volumetric_bmd_mg_cm3", *rows]))
    found = agreements(site.database, read_references(table, KEY), policy)
    return report.report(site.database, policy, found)


def test_the_page_holds_everything_in_itself(html, site):
    assert re.findall(r"<h2 [^>]*>([^<]+)</h2>", html) == list(HEADINGS)
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', html.replace("xlink:href", "href"))
    assert "<script" not in html
    assert html.count("<svg") >= 9
    assert "ID-0" not in html
    assert f"{len(site.truth)} patients with a density" in html


def test_an_empty_archive_has_a_report_too(tmp_path):
    database = open_database(DatabaseOptions(f"sqlite:///{tmp_path / 'empty.db'}"))
    upgrade(database)
    html = report.report(database, DensityPolicy())
    database.close()
    assert html.count("<h2") == len(HEADINGS)
    assert "No patient has a density yet." in html
    assert "not for clinical use" not in html


def test_numbers_of_reference_weights_carry_the_warning(tmp_path, site):
    copy = tmp_path / "copy.db"
    with sqlite3.connect(site.folder / "site.db") as whole, sqlite3.connect(copy) as into:
        whole.backup(into)
    database = open_database(DatabaseOptions(f"sqlite:///{copy}"))
    with database.begin() as connection:
        connection.exec_driver_sql("UPDATE population SET reference_only = 1")
    html = report.report(database, DensityPolicy())
    database.close()
    assert 'class="warning"' in html
    assert "not for clinical use" in html


def test_a_browser_shows_the_page(html, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (.ci/tools installs it on Debian)")
    (tmp_path / "report.html").write_text(html)
    picture = tmp_path / "report.png"
    ran = subprocess.run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,4000",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", f"file://{tmp_path / 'report.html'}"],
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert picture.is_file(), ran.stderr.decode(errors="replace")[-2000:]
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (4000, 1200)
    strips = pixels.reshape(20, 200, 1200).min(axis=(1, 2))
    assert (strips < 128).sum() >= 18  # ink from top to bottom: text and plots, not a blank or broken page
