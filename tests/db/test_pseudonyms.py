"""A database keeps the fingerprint of the first key that was used with it, and shows what tells its key without one."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa

from db import schema
from db.migrate import downgrade, upgrade
from db.pseudonyms import Traces, remember, traces

FIRST, OTHER = "1" * 64, "2" * 64


def shown(database) -> Traces:
    with database.read() as connection:
        return traces(connection)


def test_an_empty_database_rests_on_no_key(bare):
    assert not shown(bare).are_there
    upgrade(bare)
    assert shown(bare) == Traces(None, False, ())
    assert not shown(bare).are_there


def test_the_first_fingerprint_stands(database):
    for said in (FIRST, OTHER, FIRST):
        with database.begin() as connection:
            assert remember(connection, said) == FIRST
    assert shown(database) == Traces(FIRST, False, ())
    assert shown(database).are_there
    with database.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(schema.pseudonym_key)) == 1


def test_of_keys_that_are_used_at_once_one_stands(database):
    together = Barrier(4)

    def use(said: str) -> str:
        together.wait()
        with database.begin() as connection:
            return remember(connection, said)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(use, (FIRST, OTHER, FIRST, OTHER)))) == 1


@pytest.mark.parametrize("version", ["0011", "0001"])
def test_a_database_from_before_names_a_file_of_each_of_its_latest_studies(database, phantoms, version):
    for number in (1, 2, 3):
        phantoms.arrive(database, *phantoms.series(number), *phantoms.series(number, series=2))
    downgrade(database, version)
    found = shown(database)
    assert (found.fingerprint, found.has_studies) == (None, True)
    assert [patient_key for patient_key, _ in found.files] == [f"{number:032x}" for number in (3, 2, 1)]
    upgrade(database)
    assert shown(database) == found
    of_study = {
        number: {arrival.path for series in (1, 2) for arrival in phantoms.series(number, series)}
        for number in (1, 2, 3)
    }
    assert all(path in of_study[int(patient_key, 16)] for patient_key, path in found.files)


def test_a_database_with_a_fingerprint_needs_no_files(database, phantoms):
    phantoms.arrive(database, *phantoms.series())
    with database.begin() as connection:
        remember(connection, FIRST)
    assert shown(database) == Traces(FIRST, True, ())
