"""
What analyses said: results by vertebra, their flags, their models; superseded ones are kept.

Result, job, series and outbox change in one transaction, and only for the worker that holds the job. So a series has
exactly one current result or one reason, however often and by whomever it was worked on.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from db.queue import Claim
from engine.records import Program, ReportObject, ScreeningResult, SeriesFailure


def complete(
    connection: sa.Connection,
    claim: Claim,
    outcome: ScreeningResult | SeriesFailure,
    objects: Sequence[ReportObject] = (),
    destinations: Sequence[str] = (),
) -> bool:
    """Write down how an analysis ended.

    A result becomes the current one of its series and program; what was not sent of an earlier one stays unsent.
    Each object waits for each destination; one that was sent there before (same SOP Instance UID) is not sent again.
    A failure sets the series aside with its reason; it is an answer, and not tried again.

    Returns:
        False, and nothing is kept, if the claim was lost or the series changed meanwhile.

    Raises:
        ValueError: a number is not finite, or the outcome is of another series than the claim.
    """
    raise NotImplementedError


def current_result(
    connection: sa.Connection, series_instance_uid: str, program: Program = Program.VERTEBRAL
) -> ScreeningResult | None:
    """The current result of a series, as it was given to `complete`; None if there is none."""
    raise NotImplementedError
