"""
Results as OMOP-style tables: person, image_occurrence, image_feature and measurement, a projection of the rows.

After the OMOP Common Data Model 5.4 and its medical imaging extension (image_occurrence, image_feature; Park et al.
2024). Concept ids are the site's to map: ours are 0 ("no matching concept"), with the source value beside each, as
OMOP asks for what has no standard concept. Person ids count the patient keys, which stand as source values.
"""

from pathlib import Path
from typing import Any

from db.connection import Database
from db.outcome_rows import model_column
from db.population.query import Answer, ask
from dicom_node.population.tables import write
from engine.records import Quantity

GENDERS = {"F": 8532, "M": 8507}  # standard concepts of the domain Gender
NOT_MAPPED = 0
WRITTEN = (
    Quantity.ATTENUATION_MEAN,
    Quantity.ATTENUATION_SD,
    Quantity.VOLUMETRIC_BMD,
    Quantity.CALIBRATED_BMD,
    Quantity.AREAL_BMD,
    Quantity.TRABECULAR_BONE_SCORE,
)
FORM = ".csv"


def write_tables(database: Database, folder: Path) -> dict[str, int]:
    """Write each table as CSV into a folder; returns how many rows each has.

    Raises:
        StorageFull: and BadOption, as `tables.write`.
    """
    tables = project(database)
    for name, answer in tables.items():
        write(answer, folder / f"{name}{FORM}")
    return {name: len(answer.rows) for name, answer in tables.items()}


def project(database: Database) -> dict[str, Answer]:
    """The tables, by name."""
    found = ask(database, "SELECT * FROM measurement ORDER BY patient_key, study_date, result_id, level")
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    people = {key: number for number, key in enumerate(dict.fromkeys(row["patient_key"] for row in rows), start=1)}
    images = {uid: n for n, uid in enumerate(dict.fromkeys(row["series_instance_uid"] for row in rows), start=1)}
    measurements = _measurements(rows, people)
    return {
        "person": _people(rows, people),
        "image_occurrence": _images(rows, people, images),
        "image_feature": _features(measurements, rows, images),
        "measurement": Answer(_MEASUREMENT, tuple(row for row, *_ in measurements)),
    }


_MEASUREMENT = (
    "measurement_id",
    "person_id",
    "measurement_concept_id",
    "measurement_date",
    "measurement_type_concept_id",
    "value_as_number",
    "unit_concept_id",
    "measurement_source_value",
    "unit_source_value",
    "value_source_value",
)


def _people(rows: list[dict[str, Any]], people: dict[str, int]) -> Answer:
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["patient_key"], row)
    columns = ("person_id", "gender_concept_id", "year_of_birth", "person_source_value", "gender_source_value")
    return Answer(columns, tuple((people[key], *_person(row)) for key, row in first.items()))


def _person(row: dict[str, Any]) -> tuple[Any, ...]:
    """Year of birth is reckoned from age and date, and may be one too late."""
    year = int(row["study_date"][:4]) if (row["study_date"] or "")[:4].isdigit() else None
    born = None if year is None or row["patient_age"] is None else year - row["patient_age"]
    return GENDERS.get(row["patient_sex"], NOT_MAPPED), born, row["patient_key"], row["patient_sex"]


def _images(rows: list[dict[str, Any]], people: dict[str, int], images: dict[str, int]) -> Answer:
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["series_instance_uid"], row)
    columns = (
        "image_occurrence_id",
        "person_id",
        "image_study_uid",
        "image_series_uid",
        "modality",
        "image_occurrence_date",
    )
    found = (
        (images[uid], people[row["patient_key"]], row["study_instance_uid"], uid, "CT", _date(row["study_date"]))
        for uid, row in first.items()
    )
    return Answer(columns, tuple(found))


def _measurements(rows: list[dict[str, Any]], people: dict[str, int]) -> list[tuple[tuple[Any, ...], int, Quantity]]:
    """Each with the place of its row, and what it is."""
    found: list[tuple[tuple[Any, ...], int, Quantity]] = []
    for at, row in enumerate(rows):
        for quantity in WRITTEN:
            value = row[quantity.value]
            if value is not None:
                source = f"{row['level']} {quantity.value}"
                own = (len(found) + 1, people[row["patient_key"]], NOT_MAPPED, _date(row["study_date"]), NOT_MAPPED)
                finding = row["finding"] if quantity is Quantity.VOLUMETRIC_BMD else None  # it is what that is called
                found.append(((*own, value, NOT_MAPPED, source, quantity.ucum, finding), at, quantity))
    return found


def _features(
    measurements: list[tuple[tuple[Any, ...], int, Quantity]], rows: list[dict[str, Any]], images: dict[str, int]
) -> Answer:
    columns = (
        "image_feature_id",
        "person_id",
        "image_occurrence_id",
        "image_feature_event_id",
        "image_feature_concept_id",
        "anatomic_site_source_value",
        "alg_system",
        "alg_datetime",
    )
    found = []
    for measurement, at, quantity in measurements:
        row = rows[at]
        system = f"Trabecula {row['engine_version']}, {row[model_column(quantity)]}"
        image = images[row["series_instance_uid"]]
        person, key = measurement[1], measurement[0]
        found.append((key, person, image, key, NOT_MAPPED, row["level"], system, str(row["analysed_at"])))
    return Answer(columns, tuple(found))


def _date(text: str | None) -> str | None:
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if text and len(text) == 8 else None
