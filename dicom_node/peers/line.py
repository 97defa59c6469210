"""
What lies under every protocol: a connection, with TLS or without, and how far one gets with it.

Looked at by a connection of its own, for people: those who speak the protocols say no more than that it failed.
"""

import errno
import socket
import ssl
from dataclasses import dataclass
from enum import StrEnum


class Trouble(StrEnum):
    """What of a line does not work."""

    NO_CONNECTION = "no_connection"  # a name, the network, a firewall; or nobody listens
    NO_TLS = "no_tls"  # connections are taken, and TLS is not spoken as we do
    NOT_TRUSTED = "not_trusted"  # the certificate is none that we were told to trust


@dataclass(frozen=True, slots=True)
class Line:
    """One to a peer."""

    host: str
    port: int
    timeout_s: float
    tls: ssl.SSLContext | None

    def trouble(self) -> tuple[Trouble, str] | None:
        """What of it does not work, and that in our words; None: it works."""
        try:
            with socket.create_connection((self.host, self.port), self.timeout_s) as plain:
                return None if self.tls is None else self._trouble_with_tls(plain, self.tls)
        except OSError as bad:
            return trouble_of(bad, self.timeout_s)

    def _trouble_with_tls(self, plain: socket.socket, tls: ssl.SSLContext) -> tuple[Trouble, str] | None:
        try:
            tls.wrap_socket(plain, server_hostname=self.host).close()
        except ssl.SSLError as bad:
            return trouble_of(bad, self.timeout_s)
        except OSError as bad:
            return Trouble.NO_TLS, f"there, but TLS fails ({bad.strerror or type(bad).__name__})"
        return None


def trouble_of(bad: OSError, timeout_s: float) -> tuple[Trouble, str]:
    """What does not work of a line on which this error came, and that in our words.

    Args:
        timeout_s: how long was waited.
    """
    if isinstance(bad, ssl.SSLCertVerificationError):
        return Trouble.NOT_TRUSTED, f"its certificate is not taken ({bad.verify_message})"
    if isinstance(bad, ssl.SSLError):
        return Trouble.NO_TLS, f"there, but TLS fails ({bad.reason or type(bad).__name__})"
    if isinstance(bad, socket.gaierror):
        told = "its host name is not known here"
    elif isinstance(bad, TimeoutError):
        told = f"nothing answers within {timeout_s:g} s"
    elif bad.errno == errno.ECONNREFUSED:
        told = "nobody listens there"
    else:
        told = bad.strerror or type(bad).__name__
    return Trouble.NO_CONNECTION, told
