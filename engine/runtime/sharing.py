"""
Questions to a network, from one series or from many at once.

What needs a network is written as a generator: it yields normalised inputs, is sent the network's answers, as often as
it likes, and returns its result. It never learns who else asked; so inputs of several series can share the network's
batches, and nothing that is computed for one depends on another.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.errors import DeploymentError
from engine.runtime.session import Session

Result = TypeVar("Result")
Asking = Generator[NDArray[np.float32], NDArray[np.float32], Result]
"""Yields (N, 1, K, J, I) normalised inputs, is sent (N, ...) answers, returns its result."""


def ask(asking: Asking[Result], session: Session) -> Result:
    """One series' questions, answered; what it raises is raised."""
    try:
        question = next(asking)
        while True:
            question = asking.send(session.infer(question))
    except StopIteration as end:
        result: Result = end.value
        return result


def ask_together(askings: Sequence[Asking[Result]], session: Session) -> list[Result | Exception]:
    """Many series' questions, answered in shared batches.

    Returns:
        for each, in their order, its result or the exception that it ended with; one's exception is no other's.

    Raises:
        DeploymentError: the network can't be run; nobody's fault.
    """
    ends: dict[int, Result | Exception] = {}
    waiting: dict[int, NDArray[np.float32]] = {}
    for n, asking in enumerate(askings):
        _go_on(n, asking, None, waiting, ends)
    while waiting:
        asked, waiting = waiting, {}
        for n, answer in _answers(asked, session).items():
            if isinstance(answer, Exception):
                ends[n] = answer
                askings[n].close()
            else:
                _go_on(n, askings[n], answer, waiting, ends)
    return [ends[n] for n in range(len(askings))]


def _go_on(
    n: int,
    asking: Asking[Result],
    answer: NDArray[np.float32] | None,
    waiting: dict[int, NDArray[np.float32]],
    ends: dict[int, Result | Exception],
) -> None:
    """Let one go on to its next question, or to its end."""
    try:
        waiting[n] = next(asking) if answer is None else asking.send(answer)
    except StopIteration as end:
        ends[n] = end.value
    except DeploymentError:
        raise
    except Exception as error:
        ends[n] = error


def _answers(asked: dict[int, NDArray[np.float32]], session: Session) -> dict[int, NDArray[np.float32] | Exception]:
    """Each question's answers; where a shared run fails, each is asked alone, so that only its own failure is left."""
    try:
        questions = list(asked.values())
        together = session.infer(questions[0] if len(questions) == 1 else np.concatenate(questions))
    except DeploymentError:
        raise
    except Exception as error:
        if len(asked) == 1:
            return dict.fromkeys(asked, error)
        alone: dict[int, NDArray[np.float32] | Exception] = {}
        for n, question in asked.items():
            alone |= _answers({n: question}, session)
        return alone
    ends = np.cumsum([len(question) for question in asked.values()])[:-1]
    return dict(zip(asked, np.split(together, ends), strict=True))
