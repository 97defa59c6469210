"""
An association that we ask for: made, used and released; its failures in our words.
"""

import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicom_node.peers.leaving import GoOn, always, left_when_told
from dicom_node.peers.line import LineDown, trouble_of
from engine.errors import PeerAway, PeerError, UnusableCredentials

if TYPE_CHECKING:
    from pynetdicom.association import Association

    from dicom_node.peers.dialling import Dialler

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
VERIFICATION = "1.2.840.10008.1.1"
MAX_PDU_BYTES = 131072  # our choice: what the receiver takes, too
REST_S = 0.01  # our choice: ten turns of pynetdicom's own thread


@dataclass(frozen=True, slots=True)
class Tls:
    """How a peer is talked to in secret: TLS 1.2 or later, its certificate and name checked (PS3.15 B.12, BCP 195)."""

    authorities: str  # PEM file
    certificate: str = ""  # PEM file of ours; empty: we show none
    key: str = ""  # PEM file of its private key

    def context(self, name: str) -> ssl.SSLContext:
        """For one association.

        Raises:
            UnusableCredentials: a file can't be read or is no such thing.
        """
        try:
            made = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.authorities)
            made.minimum_version = ssl.TLSVersion.TLSv1_2
            made.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL")
            if self.certificate:
                made.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as bad:
            raise UnusableCredentials(f"the TLS files for '{name}' can't be used ({type(bad).__name__})") from None
        return made


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is called, by whom, and how long is waited for answers."""

    name: str  # ours
    ae_title: str
    host: str
    port: int
    our_ae_title: str
    connect_timeout_s: float
    association_timeout_s: float
    answer_timeout_s: float  # for each answer
    idle_timeout_s: float  # on which nothing moves
    tls: Tls | None = None


Context = tuple[str, tuple[str, ...]]
"""Abstract syntax, and the transfer syntaxes proposed for it in one presentation context."""


@contextmanager
def association(
    peer: Peer,
    contexts: Sequence[Context],
    roles: Sequence[str] = (),
    handlers: Sequence[tuple[Any, Callable[[Any], Any]]] = (),
    go_on: GoOn = always,
) -> Iterator["Association"]:
    """An association with a peer, released at the end.

    It is yielded without one accepted context too: then the peer is there and takes nothing of what was proposed.

    Args:
        roles: abstract syntaxes of which we are SCP as well, as C-GET wants it.
        handlers: (event of pynetdicom, handler).
        go_on: for as long as the association is asked for, and while it is released.

    Raises:
        LineDown: there is no connection to the peer, or no TLS.
        PeerAway: the peer did not answer, or rejected us.
        PeerError: it was left.
        UnusableCredentials: as `Tls.context`.
    """
    from pynetdicom import build_role

    from dicom_node.peers.dialling import Dialler

    dialler = Dialler(ae_title=peer.our_ae_title)
    dialler.connection_timeout = peer.connect_timeout_s
    dialler.acse_timeout = peer.association_timeout_s
    dialler.dimse_timeout = peer.answer_timeout_s
    dialler.network_timeout = peer.idle_timeout_s
    for abstract_syntax, transfer_syntaxes in contexts:
        dialler.add_requested_context(abstract_syntax, list(transfer_syntaxes))
    ext_neg = [build_role(abstract_syntax, scp_role=True) for abstract_syntax in roles]
    made = _asked_for(peer, dialler, ext_neg, handlers, go_on)
    try:
        yield made
    finally:
        if made.is_established:
            with left_when_told(go_on, dialler.leave):
                made.release()


def _asked_for(
    peer: Peer, dialler: "Dialler", ext_neg: list[Any], handlers: Sequence[tuple[Any, Any]], go_on: GoOn
) -> "Association":
    tls_args = None if peer.tls is None else (peer.tls.context(peer.name), peer.host)
    if not go_on():
        raise PeerError(f"'{peer.name}' was left")
    try:
        with left_when_told(go_on, dialler.leave):
            made = dialler.associate(
                peer.host,
                peer.port,
                ae_title=peer.ae_title,
                max_pdu=MAX_PDU_BYTES,
                ext_neg=ext_neg,
                evt_handlers=list(handlers),
                tls_args=tls_args,
            )
    except OSError as bad:  # a name that does not resolve
        trouble, told = trouble_of(bad, peer.connect_timeout_s)
        raise LineDown(trouble, f"'{peer.name}' can't be reached: {told}") from None
    except RuntimeError as bad:  # such as that there can be no more threads
        raise PeerAway(f"'{peer.name}' can't be asked for an association ({type(bad).__name__})") from None
    if not go_on():
        if made.is_established:
            made.abort()
        raise PeerError(f"'{peer.name}' was left")
    if made.is_rejected:
        raise PeerAway(f"'{peer.name}' rejected the association: {made.acceptor.primitive.reason_str}")
    if dialler.trouble is not None:
        trouble, told = dialler.trouble
        raise LineDown(trouble, f"'{peer.name}' can't be reached: {told}")
    if not made.is_established and not made.rejected_contexts:
        raise PeerAway(f"'{peer.name}' can't be reached: {_silent(peer)}")
    return made


def _silent(peer: Peer) -> str:
    """What it may be that a peer takes a connection, and then nothing."""
    perhaps = "speaks TLS alone" if peer.tls is None else "" if peer.tls.certificate else "wants a certificate of ours"
    told = "it takes a connection, but answers no request for an association"
    return f"{told}; perhaps it {perhaps}" if perhaps else told


@contextmanager
def at_rest(opened: "Association") -> Iterator["Association"]:
    """The association, with pynetdicom's own thread at rest: send a request within the block.

    That thread counts as paused also in the instant in which it goes on (pynetdicom 3.0). Whoever sends then loses an
    answer that comes at once: the thread takes it for a request. Told to pause a while ago, it is at rest.
    """
    opened._reactor_checkpoint.clear()
    time.sleep(REST_S)
    try:
        yield opened
    finally:
        opened._reactor_checkpoint.set()


def verify(name: str, opened: "Association") -> None:
    """Ask by C-ECHO, which must have been agreed on.

    Raises:
        PeerError: the answer is no success, or there is none.
    """
    with at_rest(opened):
        status = opened.send_c_echo()
    if "Status" not in status or status.Status != 0x0000:
        raise PeerError(f"'{name}' did not answer C-ECHO with success")
