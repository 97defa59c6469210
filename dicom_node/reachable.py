"""
Whether those are there whom a node calls: destinations of its reports, and archives that a backfill reads.

Each is asked for what it is needed for, briefly, and for nothing of a patient. Where it does not answer, it is looked
how far one gets, so that a person knows whom to turn to: those of the network, of the certificates, or of the peer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from urllib.parse import urlsplit

from dicom_node.backfill.calling import archive_peer, archive_server
from dicom_node.backfill.options import Archive, BackfillOptions, Retrieve
from dicom_node.peers import query
from dicom_node.peers.dicomweb import DicomWeb
from dicom_node.peers.line import LineDown, Trouble
from dicom_node.sender.options import Destination, SenderOptions
from dicom_node.sender.store import echo
from engine.errors import DeploymentError, PeerAway, PeerError

PATIENCE_S = 5.0  # our choice: for a connection, and for each answer; a person waits before the screen


class Finding(StrEnum):
    """How far one gets with a peer."""

    ANSWERS = "answers"  # and offers what it is needed for
    NO_CONNECTION = Trouble.NO_CONNECTION
    NO_TLS = Trouble.NO_TLS
    NOT_TRUSTED = Trouble.NOT_TRUSTED
    NOT_TAKEN = "not_taken"  # it takes connections, and rejects us, is silent, or takes nothing now
    NOT_AS_NEEDED = "not_as_needed"  # it answers, and does not offer or refuses what it is needed for
    OUR_FILES = "our_files"  # a certificate, key or token of ours can't be used


@dataclass(frozen=True, slots=True)
class Called:
    """One that a node calls."""

    name: str
    where: str  # for people, never with a password in it
    ask: Callable[[], None]  # raises PeerError, DeploymentError


def find(called: Called) -> tuple[Finding, str]:
    """Ask one; how far one gets, and what to tell a person."""
    try:
        called.ask()
    except LineDown as bad:
        return Finding(bad.trouble), str(bad)
    except PeerAway as bad:
        return Finding.NOT_TAKEN, str(bad)
    except DeploymentError as bad:
        return Finding.OUR_FILES, str(bad)
    except PeerError as bad:
        return Finding.NOT_AS_NEEDED, str(bad)
    return Finding.ANSWERS, "answers"


def destinations(options: SenderOptions) -> Iterator[Called]:
    """Where reports go."""
    brief = replace(
        options,
        connect_timeout_s=min(PATIENCE_S, options.connect_timeout_s),
        association_timeout_s=min(PATIENCE_S, options.association_timeout_s),
        store_timeout_s=min(PATIENCE_S, options.store_timeout_s),
    )
    for each in options.destinations:
        where = _where(each, "C-STORE to", "STOW-RS to")
        yield Called(f"destination {each.name}", where, partial(echo, each, brief))


def archives(options: BackfillOptions) -> Iterator[Called]:
    """What a backfill reads."""
    brief = replace(
        options,
        connect_timeout_s=min(PATIENCE_S, options.connect_timeout_s),
        association_timeout_s=min(PATIENCE_S, options.association_timeout_s),
        answer_timeout_s=min(PATIENCE_S, options.answer_timeout_s),
    )
    for each in options.archives:
        where = _where(each, f"C-FIND and C-{each.retrieve.upper()} at", "QIDO-RS and WADO-RS at")
        yield _called_web(each, brief, where) if each.url else _called_pacs(each, brief, where)


def _called_web(archive: Archive, options: BackfillOptions, where: str) -> Called:
    server = archive_server(archive, options)

    def ask() -> None:
        with DicomWeb(server) as web:
            web.ask()

    return Called(f"archive {archive.name}", where, ask)


def _called_pacs(archive: Archive, options: BackfillOptions, where: str) -> Called:
    peer = archive_peer(archive, options, options.answer_timeout_s)
    model = query.MOVE if archive.retrieve is Retrieve.MOVE else query.GET
    return Called(f"archive {archive.name}", where, partial(query.ask, peer, model))


def _where(peer: Destination | Archive, by_dicom: str, by_web: str) -> str:
    if not peer.url:
        how = " over TLS" if peer.tls_authorities else ""
        return f"{by_dicom} {peer.ae_title} at {peer.host}, port {peer.port}{how}"
    url = urlsplit(peer.url)
    return f"{by_web} {url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
