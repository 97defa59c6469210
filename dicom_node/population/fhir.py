"""
Results as FHIR Observations, one a line (NDJSON, as FHIR's bulk data has it): a projection of the rows, nothing more.

A patient is known by the patient key alone; who may see identities joins them. An observation is `preliminary`: no
person has verified it. The resources are valid in R4 (4.0.1 as amended by R4B) and in R5.

Source: https://hl7.org/fhir/R5/observation.html; codes are those of the DICOM reports (`dicom_node.report.codes`).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from db.connection import Database
from db.outcome_rows import model_column
from db.population.query import ask
from dicom_node.population.tables import aside
from dicom_node.report.codes import FINDINGS, LEVELS, QUANTITIES, SCHEME
from engine.records import BoneFinding, Quantity, VertebralLevel

SYSTEMS = {"SCT": "http://snomed.info/sct", "DCM": "http://dicom.nema.org/resources/ontology/DCM"}
OURS = "urn:trabecula:code"  # system of the private codes of `SCHEME`
UCUM = "http://unitsofmeasure.org"
WRITTEN = (
    Quantity.ATTENUATION_MEAN,
    Quantity.VOLUMETRIC_BMD,
    Quantity.CALIBRATED_BMD,
    Quantity.AREAL_BMD,
    Quantity.TRABECULAR_BONE_SCORE,
)

Json = dict[str, Any]


def write_observations(database: Database, path: Path) -> int:
    """Write the observations of every patient's value and of every vertebra; returns how many.

    Raises:
        StorageFull: and BadOption, as `tables.aside`.
    """
    count = 0
    with aside(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for observation in observations(_rows(database)):
            file.write(json.dumps(observation, separators=(",", ":")) + "\n")
            count += 1
    return count


def observations(rows: Iterable[Json]) -> Iterator[Json]:
    """An observation for each number of each row; for a density that was withheld, one that says why.

    Args:
        rows: of the view `measurement`, or of the patient's values in its form with level None.
    """
    for row in rows:
        for quantity in WRITTEN:
            value = row.get(quantity.value)
            if value is not None:
                yield _observation(row, quantity, value)
            elif quantity is Quantity.VOLUMETRIC_BMD and row["reason"]:
                yield _observation(row, quantity, None)


def _rows(database: Database) -> Iterator[Json]:
    for question in (_PATIENTS, "SELECT * FROM measurement ORDER BY result_id, level"):
        answer = ask(database, question)
        for row in answer.rows:
            yield dict(zip(answer.columns, row, strict=True))


_PATIENTS = """
SELECT p.program, p.patient_key, p.study_date, t.study_instance_uid, s.series_instance_uid, NULL AS level,
    p.attenuation_mean, p.volumetric_bmd, p.calibrated_bmd, p.areal_bmd, p.trabecular_bone_score, p.finding, p.reason,
    p.reference_only, r.attenuation_model, r.density_model, r.calibrated_bmd_model, r.areal_bmd_model,
    r.trabecular_bone_score_model, r.policy, r.engine_version, p.result_id
FROM population p
JOIN result r ON r.id = p.result_id
JOIN series s ON s.id = p.series_id
JOIN study t ON t.id = s.study_id
ORDER BY p.result_id
"""


def _observation(row: Json, quantity: Quantity, value: float | None) -> Json:
    level = VertebralLevel(row["level"]) if row["level"] else None
    place = level.value if level else "patient"
    model = row[model_column(quantity)]
    said: Json = {
        "resourceType": "Observation",
        "id": f"{row['result_id']}-{place}-{quantity.value}".replace("_", "-"),
        "status": "preliminary",
        "category": [_concept("http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging")],
        "code": _code(QUANTITIES[quantity].concept),
        "subject": {"identifier": {"system": "urn:trabecula:patient-key", "value": row["patient_key"]}},
        "derivedFrom": [
            {
                "type": "ImagingStudy",
                "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{row['study_instance_uid']}"},
            }
        ],
        "device": {"display": f"Trabecula {row['engine_version']}, {model or 'no model'}"},
        "note": [{"text": _note(row)}],
    }
    date = row["study_date"]
    if date and len(date) == 8:
        said["effectiveDateTime"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    if level is not None:
        said["bodySite"] = _code(LEVELS[level])
    if value is None:
        absent = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
        said["dataAbsentReason"] = _concept(absent, "not-performed", "Not Performed") | {"text": str(row["reason"])}
        return said
    unit = quantity.ucum
    said["valueQuantity"] = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    if quantity is Quantity.VOLUMETRIC_BMD and row["finding"]:
        said["interpretation"] = [_code(FINDINGS[BoneFinding(row["finding"])])]
    return said


def _note(row: Json) -> str:
    said = f"Series {row['series_instance_uid']}, policy {row['policy']}."
    if row["reference_only"]:
        return "Reference weights trained on phantoms: not for clinical use. " + said
    return "Not verified by a person. " + said


def _code(code: Any) -> Json:
    system = OURS if code.scheme_designator == SCHEME else SYSTEMS.get(code.scheme_designator, OURS)
    return _concept(system, code.value, code.meaning)


def _concept(system: str, code: str, display: str) -> Json:
    return {"coding": [{"system": system, "code": code, "display": display}]}
