"""What population studies ask is up to date after every change, and the views answer what their page says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from db import schema
from db.connection import DatabaseOptions, open_database
from db.migrate import check, downgrade, upgrade
from db.population import summary, views
from db.results import complete
from db.scanners import study_day
from engine.errors import SchemaMismatch
from engine.records import Reason

PAGE = Path(__file__).parent.parent.parent / "docs" / "sql.md"


@pytest.fixture
def examine(database, phantoms):
    """A patient is scanned: (study, patient, date, density, ...) to a current result; None: no density."""

    def scan(study, patient="p", date="20200101", density: float | None = 100.0, **header):
        said = {"patient_key": patient, "study_date": date, "patient_age": 65, "patient_sex": "F"} | header
        phantoms.arrive(database, *phantoms.series(study, **said))
        assert phantoms.close(database, study)
        (claimed,) = phantoms.claim(database)
        result = phantoms.result(claimed.series, density or 0.0)
        name = "osteoporosis" if (density or 0) <= 80 else "osteopenia" if (density or 0) < 120 else "normal"
        findings = tuple(replace(each, finding=type(each.finding)(name)) for each in result.evaluations)
        result = replace(result, evaluations=findings)
        if density is None:
            kept = tuple(each for each in result.measurements if each.quantity.value != "volumetric_bmd")
            result = replace(result, measurements=kept, evaluations=(), reason=Reason.CONTRAST)
        with database.begin() as connection:
            assert complete(connection, claimed, result)

    return scan


def rows(database, query: str) -> list[tuple[object, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def kept_and_anew(database):
    """The table as it was kept, and as it would be made now."""
    columns = ", ".join(column.name for column in schema.population.c)
    query = f"SELECT {columns} FROM population ORDER BY result_id"
    kept = rows(database, query)
    with database.begin() as connection:
        summary.rebuild(connection)
    return kept, rows(database, query)


def test_each_view_has_the_columns_that_its_page_tells(database):
    page = PAGE.read_text().partition("# The views")[2]
    told = {
        name: re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
        for name, section in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    }
    with database.read() as connection:
        about = sa.inspect(connection)
        there = {name: [column["name"] for column in about.get_columns(name)] for name in views.definitions()}
        assert set(about.get_view_names()) == {*views.definitions(), views.MARKER}
    assert told == there


def test_each_table_is_on_the_page():
    named = set(re.findall(r"`(\w+)`", PAGE.read_text().partition("# The views")[0]))
    assert set(schema.metadata.tables) <= named


def test_each_view_says_what_it_answers():
    assert all(views.answer(name).endswith((".", ")", "%.")) for name in views.definitions())


def test_an_empty_archive_has_empty_views(database):
    for name in views.definitions():
        assert rows(database, f"SELECT * FROM {name}") == []


def test_the_latest_density_of_a_patient_is_the_cohort(database, examine):
    examine(1, date="20200101", density=100.0)
    examine(2, date="20230101", density=90.0)
    examine(3, date="20240101", density=None)
    examine(4, date="20190101", density=110.0)
    examine(5, patient="q", date="", density=70.0)
    found = rows(database, "SELECT patient_key, study_date, volumetric_bmd, finding FROM cohort ORDER BY patient_key")
    assert found == [("p", "20230101", 90.0, "osteopenia"), ("q", "", 70.0, "osteoporosis")]
    kept, anew = kept_and_anew(database)
    assert kept == anew
    assert len(kept) == 5


def test_a_result_that_is_no_longer_current_leaves_the_population(database, phantoms, examine):
    examine(1, date="20200101", density=100.0)
    examine(2, date="20230101", density=70.0)
    phantoms.arrive(database, *phantoms.series(2, instances=[9], patient_key="p"))
    assert rows(database, "SELECT study_date, volumetric_bmd FROM cohort") == [("20200101", 100.0)]
    phantoms.close(database, 2, not_selected={1: Reason.SLICES_TOO_THICK})
    kept, anew = kept_and_anew(database)
    assert kept == anew
    assert len(kept) == 1


def test_the_mean_attenuation_is_that_of_the_cores_in_the_density_also_of_rows_from_before(database, examine):
    examine(1)
    query = "SELECT attenuation_mean FROM cohort UNION ALL SELECT mean_attenuation FROM scanner_drift"
    assert rows(database, query) == [(101.0,)] * 2  # of L1; T12 and L2 did not go in
    downgrade(database, "0008")
    with database.begin() as connection:
        connection.execute(sa.update(schema.population).values(attenuation_mean=None))
    upgrade(database)
    assert rows(database, query) == [(101.0,)] * 2
    kept, anew = kept_and_anew(database)
    assert kept == anew


def test_prevalence_has_the_interval_of_wilson(database, examine):
    for number in range(1, 11):
        examine(number, patient=f"p{number}", density=70.0 if number <= 3 else 130.0)
    found = rows(
        database,
        "SELECT with_finding, patients, share_low, share_high FROM prevalence WHERE patient_sex = 'F'"
        " AND age_decade = 60 AND finding = 'osteoporosis'",
    )
    # 3 of 10: 0.1078 to 0.6032 (Newcombe 1998's formula 3, by hand)
    assert found == [(3, 10, pytest.approx(0.107789, abs=1e-5), pytest.approx(0.603222, abs=1e-5))]
    assert rows(database, "SELECT SUM(with_finding) FROM prevalence") == [(10,)]


def test_percentiles_and_curves_are_those_of_the_group(database, examine):
    for number, density in enumerate((60.0, 80.0, 100.0, 120.0, 140.0), start=1):
        examine(number, patient=f"p{number}", density=density)
    examine(6, patient="other", density=10.0, patient_sex="M")
    examine(7, patient="unknown", density=10.0, patient_age=None)
    found = rows(database, "SELECT volumetric_bmd, percentile, z_score FROM percentile WHERE patient_sex = 'F'")
    z = 40 / 1000**0.5
    assert sorted(found) == [
        (60.0, 0.0, pytest.approx(-z)),
        (80.0, 25.0, pytest.approx(-z / 2)),
        (100.0, 50.0, pytest.approx(0.0)),
        (120.0, 75.0, pytest.approx(z / 2)),
        (140.0, 100.0, pytest.approx(z)),
    ]
    curve = rows(database, "SELECT patients, mean_bmd, p5, p25, p50, p75, p95 FROM reference_curve ORDER BY patients")
    assert curve == [(1, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0), (5, 100.0, 60.0, 80.0, 100.0, 120.0, 140.0)]


def test_a_scanner_that_moved_is_seen(database, examine):
    for number in range(1, 13):
        later = number > 9
        examine(number, f"p{number}", "20200601" if later else "20200101", 150.0 if later else 100.0 + number % 3)
    found = rows(
        database, "SELECT study_month, densities, mean_bmd, scanner_mean_bmd, z_of_month FROM scanner_drift ORDER BY 1"
    )
    assert [row[:3] for row in found] == [("202001", 9, 101.0), ("202006", 3, 150.0)]
    assert [row[3] for row in found] == [pytest.approx(113.25)] * 2
    assert found[0][4] < -1.0 < 1.0 < found[1][4]


def test_what_is_withheld_is_counted_at_its_stage(database, phantoms, examine):
    examine(1, density=None)
    examine(2, patient="q")
    phantoms.arrive(database, *phantoms.series(3), *phantoms.series(3, series=2))
    phantoms.close(database, 3, not_selected={1: Reason.LOCALIZER, 2: Reason.LOCALIZER})
    assert sorted(rows(database, "SELECT stage, reason, occurrences FROM withheld")) == [
        ("density", "contrast", 1),
        ("selection", "localizer", 2),
        ("vertebra", "dense_focus", 2),
    ]
    flow = rows(database, "SELECT stage, reason, n FROM flow ORDER BY step, reason")
    assert flow == [
        ("studies received", None, 3),
        ("series received", None, 4),
        ("series not decided: study is open", None, 0),
        ("series excluded by header", "localizer", 2),
        ("series selected", None, 2),
        ("results", None, 2),
        ("results without a density", "contrast", 1),
        ("results with a density", None, 1),
        ("patients with a density", None, 1),
    ]


def test_the_worklist_leaves_out_who_had_a_densitometry_since(database, phantoms, examine):
    for number, patient in enumerate("abc", start=1):
        examine(number, patient, "20200101", 70.0)
    examine(4, "d", "20200101", 90.0)
    with database.begin() as connection:
        known = {"kind": "DXA", "origin": "table"}
        dates = {"a": "20200301", "b": "20191231"}
        connection.execute(
            sa.insert(schema.densitometry),
            [
                known | {"patient_key": p, "examination_date": d, "examination_day": study_day(d)}
                for p, d in dates.items()
            ],
        )
    assert rows(database, "SELECT patient_key FROM worklist ORDER BY 1") == [("b",), ("c",)]
    phantoms.arrive(database, *phantoms.series(9, patient_key="c", modality="BMD", study_date="20210101"))
    phantoms.close(database, 9, not_selected={1: Reason.NOT_CT})
    assert rows(database, "SELECT patient_key FROM worklist") == [("b",)]


def test_a_change_is_judged_by_what_repeats_here(database, examine):
    for number in range(30):  # pairs 2 mg/cm3 apart: precision error 1.414, least significant change 3.917
        examine(2 * number + 1, f"p{number}", "20200101", 100.0)
        examine(2 * number + 2, f"p{number}", "20200201", 102.0)
    (found,) = rows(database, "SELECT pairs, precision_error, least_significant_change FROM repeatability")
    assert found == (30, pytest.approx(2**0.5), pytest.approx(2.77 * 2**0.5))
    examine(100, "p0", "20220101", 95.0)
    examine(101, "p1", "20220101", 104.0, convolution_kernel=("B70f",))
    query = "SELECT change, same_scanner, verdict FROM longitudinal_change WHERE patient_key IN ('p0', 'p1', 'p2')"
    assert rows(database, query + " ORDER BY patient_key") == [
        (-5.0, 1, "loss"),
        (4.0, 0, "gain"),
        (2.0, 1, "within precision"),
    ]


def test_views_are_read_in_the_order_of_rows_and_only_the_drift_in_that_of_its_index(database):
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL weighs by its statistics; an empty database has none")
    with database.read() as connection:
        plans = {
            name: str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN SELECT * FROM {name}").all())
            for name in views.definitions()
        }

    def read_by(index: str) -> set[str]:
        return {name for name, plan in plans.items() if index in plan}

    assert read_by("ix_population_drift") == {"scanner_drift"}
    assert read_by("ix_population_current") == {"cohort", "longitudinal_change"}
    assert read_by("ix_population_low") == {"worklist"}


def test_who_gathered_statistics_before_an_upgrade_gets_its_indexes_used(database, examine):
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL gathers by itself")
    for number in range(40):
        examine(number + 1, f"p{number}", "20200101", 100.0 + number)
    downgrade(database, "0007")
    with database.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    upgrade(database)
    with database.read() as connection:
        assert "ix_population_current" in str(
            connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT * FROM cohort").all()
        )


def test_a_measurement_tells_where_it_came_from(database, examine):
    examine(1, manufacturer="Maker", station_name="CT 1")
    query = "SELECT level, station_name, kvp, density_model_sha256, policy, engine_version FROM measurement"
    assert rows(database, query + " WHERE level = 'L1'") == [("L1", "CT 1", 120.0, "b" * 64, "acr@1", "0.1.0")]
    assert len(rows(database, query)) == 3


def test_an_upgrade_makes_views_of_another_program_anew(database):
    with database.begin() as connection:
        views.drop(connection)
        connection.exec_driver_sql("CREATE VIEW cohort AS SELECT 1 AS other")
        connection.exec_driver_sql(f"CREATE VIEW {views.MARKER} AS SELECT 'x' AS digest, 'cohort' AS names")
    with pytest.raises(SchemaMismatch, match="views"):
        check(database)
    upgrade(database)
    check(database)
    assert rows(database, "SELECT * FROM cohort") == []


def test_who_only_reads_can_not_write(database, url):
    reader = open_database(DatabaseOptions(url), read_only=True)
    try:
        assert rows(reader, "SELECT COUNT(*) FROM population") == [(0,)]
        for statement in ("DELETE FROM population", "CREATE TABLE mine (a INTEGER)"):
            with pytest.raises(Exception, match=r"read-only|25006"), reader.read() as connection:
                connection.exec_driver_sql(statement)
    finally:
        reader.close()
