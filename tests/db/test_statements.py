"""Many rows at once: what goes in comes out, alike on both databases, or is refused."""

import pytest
import sqlalchemy as sa

from db.columns import Numbers, UtcTime, utc_now
from db.connection import StatementFailed
from db.statements import insert_many

ODD = sa.Table(
    "odd",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("number", sa.BigInteger),
    sa.Column("text", sa.Text),
    sa.Column("numbers", Numbers(160)),
    sa.Column("at", UtcTime),
)


@pytest.fixture
def put(database):
    """Put rows into an empty table; what is in it then."""
    with database.begin() as connection:
        ODD.metadata.create_all(connection)

    def put(rows):
        with database.begin() as connection:
            insert_many(connection, ODD, rows, at=utc_now())
            return connection.execute(sa.select(ODD).order_by(ODD.c.id)).all()

    yield put
    with database.begin() as connection:
        ODD.metadata.drop_all(connection)


@pytest.mark.parametrize("number", [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), None])
def test_a_whole_number_keeps_each_digit(put, number):
    ((row),) = put([{"number": number}])
    assert row.number == number


@pytest.mark.parametrize(
    "text", ["", " ", "null", "1", '"quoted"', "[1]", "a\\b", "\u2028\n\t\x7f", "caf\u00e9 \U0001f9b4", None]
)
def test_a_text_stays_as_it_is(put, text):
    ((row),) = put([{"text": text}])
    assert row.text == text


def test_columns_make_of_values_what_they_make_of_single_ones(put):
    numbers = (0.1 + 0.2, -1e-300, 12345.678901234567)
    ((row),) = put([{"numbers": numbers}])
    assert row.numbers == numbers


def test_many_keep_their_order_and_each_has_what_they_share(put):
    rows = put([{"number": n, "text": f"of {n}"} for n in range(3000)])
    assert [(row.number, row.text) for row in rows] == [(n, f"of {n}") for n in range(3000)]
    assert all(row.at is not None for row in rows)


def test_none_is_nothing_to_do(put):
    assert put([]) == []


@pytest.mark.parametrize("odd", [{"number": 2**63}, {"number": -(2**63) - 1}, {"text": "a\0b"}, {"text": "\ud800"}])
def test_what_would_be_changed_on_the_way_is_refused_and_nothing_of_the_rest_kept(put, odd):
    good = {"number": 1, "text": "a"}
    with pytest.raises((OverflowError, TypeError, UnicodeEncodeError, StatementFailed)):
        put([good, good | odd])
    assert put([]) == []


@pytest.mark.parametrize("value", [1.5, True, b"1"])
def test_on_sqlite_a_kind_that_json_does_not_hold_is_refused(put, database, value):
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL is given the values themselves")
    with pytest.raises(TypeError, match="does not survive"):
        put([{"number": value}])
