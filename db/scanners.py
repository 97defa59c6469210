"""
Scanners as rows: what HU mean depends on the machine, its kernel and its tube voltage, so these make one.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import sqlalchemy as sa

from db.columns import safe_text
from db.schema import scanner
from db.statements import insert_into, rows_where_in
from engine.records import SeriesRef

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def scanner_ids(connection: sa.Connection, refs: Iterable[SeriesRef]) -> dict[str, int]:
    """Row ids of the scanners that made some series, by Series Instance UID; made where they are new."""
    labels = {ref.series_instance_uid: _label(ref) for ref in refs}
    rows = {
        _label(ref): {
            "label": _label(ref),
            "manufacturer": ref.manufacturer,
            "manufacturer_model_name": ref.manufacturer_model_name,
            "station_name": ref.station_name,
            "convolution_kernel": ref.convolution_kernel,
            "kvp": ref.kvp,
        }
        for ref in refs
    }
    query = sa.select(scanner.c.label, scanner.c.id)
    ids: dict[str, int] = dict(tuple(row) for row in rows_where_in(connection, query, scanner.c.label, rows))
    unknown = [rows[label] for label in sorted(rows) if label not in ids]
    if unknown:
        new = insert_into(connection, scanner).on_conflict_do_nothing(index_elements=[scanner.c.label])
        connection.execute(new, unknown)
        ids |= dict(tuple(row) for row in rows_where_in(connection, query, scanner.c.label, rows))
    return {uid: ids[label] for uid, label in labels.items()}


def study_day(date: str | None) -> int | None:
    """Days from 1970-01-01 to a date YYYYMMDD; None if it is none.

    >>> study_day("19700201"), study_day("20261301")
    (31, None)
    """
    try:
        return None if date is None else (datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC) - EPOCH).days
    except ValueError:
        return None


def _label(ref: SeriesRef) -> str:
    """Everything that tells scanners apart, as one text; also how people name one."""
    kvp = "" if ref.kvp is None else f"{ref.kvp:g} kV"
    kernel = "\\".join(ref.convolution_kernel)
    parts = (ref.manufacturer, ref.manufacturer_model_name, ref.station_name, kernel, kvp)
    return safe_text(" | ".join(part or "-" for part in parts), 400)
