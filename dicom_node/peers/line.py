"""
What lies under every protocol: a connection, with TLS or without, and how far one got with it, in words for people.
"""

import errno
import socket
import ssl
from enum import StrEnum

from engine.errors import PeerAway


class Trouble(StrEnum):
    """What of a line does not work."""

    NO_CONNECTION = "no_connection"  # a name, the network, a firewall; or nobody listens
    NO_TLS = "no_tls"  # connections are taken, and TLS is not spoken as we do
    NOT_TRUSTED = "not_trusted"  # the certificate is none that we were told to trust


class LineDown(PeerAway):
    """Raised when there is no connection to a peer, or no TLS over it."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        """Keep both arguments, so that the error survives pickling."""
        super().__init__(trouble, message)
        self.trouble = trouble
        self.message = message

    def __str__(self) -> str:
        """What is in the way."""
        return self.message


def trouble_of(bad: OSError, timeout_s: float, in_tls: bool = False) -> tuple[Trouble, str]:
    """What does not work of a line on which this error came, and that in our words.

    Args:
        timeout_s: how long was waited.
        in_tls: the connection stood, and TLS was being agreed on.
    """
    if isinstance(bad, ssl.SSLCertVerificationError):
        return Trouble.NOT_TRUSTED, f"its certificate is not taken ({bad.verify_message})"
    if isinstance(bad, ssl.SSLError):
        return Trouble.NO_TLS, f"there, but TLS fails ({bad.reason or type(bad).__name__})"
    if in_tls:
        return Trouble.NO_TLS, f"there, but TLS fails ({bad.strerror or type(bad).__name__})"
    if isinstance(bad, socket.gaierror):
        told = "its host name is not known here"
    elif isinstance(bad, TimeoutError):
        told = f"nothing answers within {timeout_s:g} s"
    elif bad.errno == errno.ECONNREFUSED:
        told = "nobody listens there"
    else:
        told = bad.strerror or type(bad).__name__
    return Trouble.NO_CONNECTION, told
