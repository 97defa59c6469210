"""What goes out to others is what the rows say, in forms that others' own models accept."""

import csv
import json

import pytest
import sqlalchemy as sa

from bench.archive_rows import Archive
from bench.filling import fill
from db import schema
from db.connection import DatabaseOptions, open_database
from db.migrate import upgrade
from db.outcome_rows import model_column
from db.population import summary
from db.population.query import ask
from dicom_node.population import fhir, omop
from dicom_node.report.codes import QUANTITIES
from engine.records import BoneFinding, Quantity


def test_each_fhir_observation_is_valid_in_r5_and_r4b(site, tmp_path):
    from fhir.resources.observation import Observation
    from fhir.resources.R4B.observation import Observation as ObservationR4B

    count = fhir.write_observations(site.database, tmp_path / "Observation.ndjson")
    lines = (tmp_path / "Observation.ndjson").read_text().splitlines()
    assert len(lines) == count
    kinds = {}
    for line in lines:
        said = json.loads(line)
        kinds.setdefault((said["code"]["coding"][0]["code"], "bodySite" in said, "dataAbsentReason" in said), line)
    assert len(kinds) == 5  # HU and density of patient and vertebra, and a density that is withheld
    for line in kinds.values():
        for model in (Observation, ObservationR4B):
            read = model.model_validate_json(line)
            assert read.status == "preliminary"
            assert read.subject.identifier.system == "urn:trabecula:patient-key"
    assert len({json.loads(line)["id"] for line in lines}) == count
    assert all(len(json.loads(line)["id"]) <= 64 for line in lines)


def test_fhir_says_the_numbers_of_the_rows(site):
    answer = ask(
        site.database, "SELECT * FROM measurement WHERE volumetric_bmd IS NOT NULL ORDER BY result_id, level", 1
    )
    row = dict(zip(answer.columns, answer.rows[0], strict=True))
    found = {one["code"]["coding"][0]["code"]: one for one in fhir.observations([row])}
    assert found["VBMD"]["valueQuantity"] == {
        "value": row["volumetric_bmd"],
        "unit": "mg/cm3",
        "system": "http://unitsofmeasure.org",
        "code": "mg/cm3",
    }
    assert found["112031"]["valueQuantity"]["value"] == row["attenuation_mean"]
    assert found["VBMD"]["derivedFrom"][0]["identifier"]["value"].endswith(row["study_instance_uid"])
    row |= {"volumetric_bmd": None, "reason": "contrast"}
    (withheld,) = [one for one in fhir.observations([row]) if "dataAbsentReason" in one]
    assert withheld["dataAbsentReason"]["text"] == "contrast"
    assert "valueQuantity" not in withheld


def test_omop_tables_refer_to_each_other_and_hold_every_number(site, tmp_path):
    counts = omop.write_tables(site.database, tmp_path)
    tables = {name: list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in counts}
    assert {name: len(rows) for name, rows in tables.items()} == counts
    people = {row["person_id"] for row in tables["person"]}
    images = {row["image_occurrence_id"] for row in tables["image_occurrence"]}
    measurements = {row["measurement_id"]: row for row in tables["measurement"]}
    assert {row["person_id"] for row in tables["measurement"]} == people
    assert {row["image_occurrence_id"] for row in tables["image_feature"]} == images
    assert {row["image_feature_event_id"] for row in tables["image_feature"]} == set(measurements)
    total = ask(site.database, "SELECT SUM(volumetric_bmd), COUNT(volumetric_bmd) FROM measurement").rows[0]
    densities = [
        float(r["value_as_number"]) for r in measurements.values() if "volumetric" in r["measurement_source_value"]
    ]
    assert (sum(densities), len(densities)) == (pytest.approx(total[0]), total[1])
    assert {row["gender_concept_id"] for row in tables["person"]} == {"8507", "8532"}


@pytest.fixture
def with_all_numbers(tmp_path):
    """A few made-up results, each with all quantities, each from weights of its own."""
    database = open_database(DatabaseOptions(f"sqlite:///{tmp_path / 'all.db'}"))
    upgrade(database)
    fill("sqlite", database, Archive(20), 0)
    optional = (Quantity.CALIBRATED_BMD, Quantity.AREAL_BMD, Quantity.TRABECULAR_BONE_SCORE)
    with database.begin() as connection:
        for table in (schema.vertebra, schema.result):
            connection.execute(sa.update(table).values({quantity.value: 0.5 for quantity in optional}))
        connection.execute(sa.update(schema.vertebra).values(finding=BoneFinding.OSTEOPENIA))
        models = {model_column(quantity): f"{quantity}@1" for quantity in Quantity}
        connection.execute(sa.update(schema.result).values(models))
        summary.rebuild(connection)
    yield database
    database.close()


def test_each_exported_number_names_the_weights_that_gave_it(with_all_numbers, tmp_path):
    fhir.write_observations(with_all_numbers, tmp_path / "Observation.ndjson")
    said = [json.loads(line) for line in (tmp_path / "Observation.ndjson").read_text().splitlines()]
    models = {(one["code"]["coding"][0]["code"], one["device"]["display"].split(", ")[1]) for one in said}
    named = {QUANTITIES[quantity].concept.value: quantity for quantity in fhir.WRITTEN}
    assert len(models) == len(fhir.WRITTEN)
    assert all(with_model(named[code]) == model for code, model in models)
    tables = omop.project(with_all_numbers)
    quantity_of = {row[0]: row[7].split()[1] for row in tables["measurement"].rows}
    systems = {(quantity_of[row[3]], row[6].split(", ")[1]) for row in tables["image_feature"].rows}
    assert systems == {(quantity.value, with_model(quantity)) for quantity in omop.WRITTEN}


def with_model(quantity):
    """The weights of a quantity there; those of all that share a column are the last one's."""
    sharing = [one for one in Quantity if model_column(one) == model_column(quantity)]
    return f"{sharing[-1]}@1"


def test_a_finding_stands_at_the_density_that_it_is_of_and_nowhere_else(with_all_numbers):
    rows = omop.project(with_all_numbers)["measurement"].rows
    assert {row[7].split()[1] for row in rows if row[9] is not None} == {"volumetric_bmd"}
