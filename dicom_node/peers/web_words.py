"""
What goes wrong over HTTP, in words for people: by what lies beneath an error, and by the status of an answer.
"""

from dicom_node.peers.line import Trouble, trouble_of

STATUSES = {
    401: "it wants a token, or another one",
    403: "it does not let us do this",
    404: "it has nothing under this address",
    405: "it does not offer this",
    413: "larger than it takes",
    415: "it does not take this kind of content",
    500: "a fault of its own",
    502: "what stands before it can't reach it",
    503: "out of service",
    504: "what stands before it waits for it in vain",
    507: "its disk is full",
}
"""Those that say whom to turn to (RFC 9110; 507: RFC 4918)."""


def status(code: int) -> str:
    """A status, with what it means where that helps.

    >>> status(401)
    'HTTP 401: it wants a token, or another one'
    >>> status(200)
    'HTTP 200'
    """
    return f"HTTP {code}" + (f": {STATUSES[code]}" if code in STATUSES else "")


def why(bad: BaseException, timeout_s: float) -> str:
    """Why a request failed, never in the words of the error itself.

    Args:
        bad: with what lies beneath it as its cause: a socket's error, where the line is at fault.
        timeout_s: how long was waited.
    """
    below = _beneath(bad)
    return "what it answers is no HTTP, or ends too soon" if below is None else trouble_of(below, timeout_s)[1]


def why_no_connection(bad: BaseException, timeout_s: float, in_tls: bool) -> tuple[Trouble, str]:
    """What of a line does not work over which a request could not even be made, and that in words.

    Args:
        in_tls: the connection stood, and TLS was being agreed on.
    """
    return trouble_of(_beneath(bad) or OSError(), timeout_s, in_tls)


def _beneath(bad: BaseException) -> OSError | None:
    below: BaseException | None = bad
    while below is not None and not isinstance(below, OSError):
        below = below.__cause__ or below.__context__
    return below
