"""
What changed, told to people: an append-only log. Nothing in the program reads it to decide.
"""

from collections.abc import Iterable

import sqlalchemy as sa

from db.columns import utc_now
from db.schema import Change, event
from engine.records import Reason


def tell(
    connection: sa.Connection,
    subject: str,
    uids: Iterable[str],
    change: Change,
    reason: Reason | None = None,
    detail: str = "",
) -> None:
    """Append one line for each UID.

    Args:
        subject: "study", "series" or "object".
        detail: never patient data, never a path.
    """
    lines = [
        {"subject": subject, "uid": uid, "change": change, "reason": reason, "detail": detail} for uid in sorted(uids)
    ]
    if lines:
        connection.execute(sa.insert(event).values(at=utc_now()), lines)
