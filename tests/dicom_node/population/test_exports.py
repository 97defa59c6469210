"""What goes out to others is what the rows say, in forms that others' own models accept."""

import csv
import json

import pytest

from db.population.query import ask
from dicom_node.population import fhir, omop


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
