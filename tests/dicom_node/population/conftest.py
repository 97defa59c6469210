"""A small made-up archive in a database, with a site's key and references."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.archive_rows import Archive
from bench.filling import fill
from db.connection import Database, DatabaseOptions, open_database
from db.migrate import upgrade
from db.population import summary
from engine.loading.headers import accession_pseudonym, pseudonym

KEY = bytes(range(32))
PATIENTS = 60


@dataclass(frozen=True)
class Site:
    """A node's folder whose database is filled; nobody may change it."""

    folder: Path
    database: Database
    truth: dict[str, tuple[str, float]]  # patient ID: date and density of the latest CT

    @property
    def config(self) -> list[str]:
        return ["--config", str(self.folder / "node.toml")]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "node.toml").write_text('[database]\nurl = "sqlite:///site.db"\n')
    (folder / "pseudonym.key").write_text(KEY.hex())
    database = open_database(DatabaseOptions(f"sqlite:///{folder / 'site.db'}"))
    upgrade(database)
    fill("sqlite", database, Archive(PATIENTS), 0)
    truth = {}
    with database.begin() as connection:
        query = "SELECT patient_key, study_date, volumetric_bmd, study_instance_uid FROM cohort ORDER BY patient_key"
        for number, row in enumerate(connection.exec_driver_sql(query).all()):
            name = f"ID-{number:03d}"
            key, accession = pseudonym(KEY, name, ""), accession_pseudonym(KEY, f"A{number}")
            connection.exec_driver_sql("UPDATE study SET patient_key = ? WHERE patient_key = ?", (key, row.patient_key))
            connection.exec_driver_sql(
                "UPDATE series SET accession_key = ? WHERE study_id IN"
                " (SELECT id FROM study WHERE study_instance_uid = ?)",
                (accession, row.study_instance_uid),
            )
            truth[name] = (row.study_date, row.volumetric_bmd)
        summary.rebuild(connection)
    yield Site(folder, database, truth)
    database.close()


@pytest.fixture
def references(tmp_path, site):
    """Writes a CSV of references, each so much above what was measured."""

    def write(text: str | None = None, above: float = 5.0) -> Path:
        file = tmp_path / "qct.csv"
        rows = [f"{name},{date},{bmd + above:.3f}" for name, (date, bmd) in site.truth.items()]
        file.write_text(text or "\n".join(["patient_id,date,volumetric_bmd_mg_cm3", *rows]) + "\n")
        return file

    return write
