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
        except socket.gaierror:
            told = "its host name is not known here"
        except TimeoutError:
            told = f"nothing answers within {self.timeout_s:g} s"
        except OSError as bad:
            refused = bad.errno == errno.ECONNREFUSED
            told = "nobody listens there" if refused else bad.strerror or type(bad).__name__
        return Trouble.NO_CONNECTION, told

    def _trouble_with_tls(self, plain: socket.socket, tls: ssl.SSLContext) -> tuple[Trouble, str] | None:
        try:
            tls.wrap_socket(plain, server_hostname=self.host).close()
        except ssl.SSLCertVerificationError as bad:
            return Trouble.NOT_TRUSTED, f"its certificate is not taken ({bad.verify_message})"
        except OSError as bad:
            why = getattr(bad, "reason", None) or bad.strerror or type(bad).__name__
            return Trouble.NO_TLS, f"there, but TLS fails ({why})"
        return None
