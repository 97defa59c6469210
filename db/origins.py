"""
Where numbers come from, each kept once: models, policies, and the runs that made results.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from db.columns import utc_now
from db.schema import model, policy, result_model, run
from db.statements import insert_into
from engine.records import ModelRef, Program


def model_id(connection: sa.Connection, used: ModelRef) -> int:
    """The row of a model; made where it is new."""
    said = {"sha256": used.sha256, "name": used.name, "version": used.version}
    return _kept(connection, model, said, {"reference_only": used.reference_only})


def model_refs(connection: sa.Connection, result_id: int) -> tuple[ModelRef, ...]:
    """The models of a result, as it named them."""
    rows = connection.execute(
        sa.select(model, result_model.c.precision, result_model.c.backend)
        .join_from(result_model, model)
        .where(result_model.c.result_id == result_id)
        .order_by(result_model.c.ordinal)
    )
    return tuple(
        ModelRef(row.name, row.version, row.sha256, row.reference_only, row.precision, row.backend) for row in rows
    )


def policy_used(connection: sa.Connection, name: str) -> str:
    """The policy's own name, once it is known when it was first used."""
    _kept(connection, policy, {"name": name}, {"first_used_at": utc_now()})
    return name


def run_id(connection: sa.Connection, owner: str, program: Program, engine_version: str) -> int:
    """The row of the process that brings a result, which it now has one more of."""
    new = insert_into(connection, run).values(
        owner=owner,
        program=program,
        engine_version=engine_version,
        first_result_at=utc_now(),
        last_result_at=utc_now(),
        results=1,
    )
    one_more = {"last_result_at": utc_now(), "results": run.c.results + 1, "engine_version": engine_version}
    found: int = connection.execute(
        new.on_conflict_do_update(index_elements=[run.c.owner], set_=one_more).returning(run.c.id)
    ).scalar_one()
    return found


def _kept(connection: sa.Connection, table: sa.Table, key: Mapping[str, str], more: Mapping[str, Any]) -> int:
    query = sa.select(table.c.id).where(*(table.c[name] == value for name, value in key.items()))
    found: int | None = connection.execute(query).scalar_one_or_none()
    if found is not None:
        return found
    new = insert_into(connection, table).values(**key, **more)
    connection.execute(new.on_conflict_do_nothing(index_elements=[table.c[name] for name in key]))
    made: int = connection.execute(query).scalar_one()
    return made
