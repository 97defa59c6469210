"""
Sending objects to a destination: by C-STORE over one association, or by STOW-RS.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from db.outbox import ClaimedObject
from dicom_node.peers.association import EXPLICIT, IMPLICIT, VERIFICATION, Peer, Tls, association, at_rest, verify
from dicom_node.peers.dicomweb import DicomWeb, Server
from dicom_node.peers.leaving import GoOn, always
from dicom_node.sender.answers import Answer, Outcome
from dicom_node.sender.options import Destination, SenderOptions
from engine.errors import PeerError

STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007})
"""Statuses of C-STORE that mean: it is stored. The B's are warnings (PS3.4 table B.2-1)."""

OUT_OF_RESOURCES = range(0xA700, 0xA800)
"""Statuses that are about the peer, not about the object (PS3.4 table B.2-1)."""


def peer_of(destination: Destination, options: SenderOptions) -> Peer:
    """A destination as it is called."""
    tls = Tls(destination.tls_authorities, destination.tls_certificate, destination.tls_key)
    return Peer(
        destination.name,
        destination.ae_title,
        destination.host,
        destination.port,
        options.ae_title,
        options.connect_timeout_s,
        options.association_timeout_s,
        options.store_timeout_s,
        options.idle_timeout_s,
        tls if destination.tls_authorities else None,
    )


def server_of(destination: Destination, options: SenderOptions) -> Server:
    """Likewise, of one that speaks DICOMweb."""
    return Server(
        destination.name,
        destination.url,
        options.connect_timeout_s,
        options.store_timeout_s,
        destination.token_file,
        destination.tls_authorities,
    )


def echo(destination: Destination, options: SenderOptions) -> None:
    """Ask a destination whether it is there: by C-ECHO, or by a search that finds at most one study.

    Raises:
        PeerError: it is not, or does not take us.
    """
    if destination.url:
        with DicomWeb(server_of(destination, options)) as web:
            web.ask()
        return
    with association(peer_of(destination, options), [(VERIFICATION, (IMPLICIT,))]) as opened:
        if not opened.accepted_contexts:
            raise PeerError(f"'{destination.name}' is there, but does not answer C-ECHO")
        verify(destination.name, opened)


def store(
    destination: Destination, items: Sequence[ClaimedObject], options: SenderOptions, go_on: GoOn = always
) -> Iterator[Answer]:
    """Send objects, over one association or connection.

    Args:
        go_on: where it is False an association is not waited for any more; an answer to what is being stored is.

    Yields:
        An answer for each item as soon as it is known; fewer if the destination is lost on the way.

    Raises:
        PeerError: the destination is not there, does not take us, can take nothing now, or was lost on the way;
            or it was left.
    """
    yield from _stow(destination, items, options) if destination.url else _c_store(destination, items, options, go_on)


def _c_store(
    destination: Destination, items: Sequence[ClaimedObject], options: SenderOptions, go_on: GoOn
) -> Iterator[Answer]:
    readable: list[tuple[ClaimedObject, str]] = []
    for item in items:
        try:
            readable.append((item, _transfer_syntax(item)))
        except Exception as bad:  # a damaged file makes pydicom raise many kinds
            yield Answer(item, Outcome.REFUSED, f"our file can't be read ({type(bad).__name__})", False)
    if not readable:
        return
    contexts = sorted({(item.sop_class_uid, _proposed(syntax)) for item, syntax in readable})
    with association(peer_of(destination, options), contexts, go_on=go_on) as opened:
        for item, _ in readable:
            answer = _store_one(opened, item)
            yield answer
            if answer.outcome is Outcome.PUT_OFF or (not opened.is_established and opened.accepted_contexts):
                raise PeerError(f"'{destination.name}': {answer.detail}")


def _store_one(opened: Any, item: ClaimedObject) -> Answer:
    if item.sop_class_uid not in {str(context.abstract_syntax) for context in opened.accepted_contexts}:
        return Answer(item, Outcome.REFUSED, "the SOP class is not accepted")
    try:
        with at_rest(opened):
            status = opened.send_c_store(item.path)
    except RuntimeError:  # the association ended before this object's turn
        return Answer(item, Outcome.PUT_OFF, "the association ended")
    except ValueError:
        return Answer(item, Outcome.REFUSED, "the transfer syntax is not accepted")
    except (OSError, AttributeError) as bad:
        return Answer(item, Outcome.REFUSED, f"our file can't be read ({type(bad).__name__})", False)
    if "Status" not in status:
        return Answer(item, Outcome.REFUSED, "no answer to C-STORE")
    code = int(status.Status)
    if code in OUT_OF_RESOURCES:
        return Answer(item, Outcome.PUT_OFF, f"out of resources ({code:#06x})")
    return Answer(item, Outcome.STORED if code in STORED else Outcome.REFUSED, f"status {code:#06x}")


def _stow(destination: Destination, items: Sequence[ClaimedObject], options: SenderOptions) -> Iterator[Answer]:
    with DicomWeb(server_of(destination, options)) as web:
        for item in items:
            try:
                content = Path(item.path).read_bytes()
            except OSError as bad:
                yield Answer(item, Outcome.REFUSED, f"our file can't be read ({type(bad).__name__})", False)
                continue
            is_stored, told = web.store(content)
            yield Answer(item, Outcome.STORED if is_stored else Outcome.REFUSED, told)


def _transfer_syntax(item: ClaimedObject) -> str:
    from pydicom.filereader import read_file_meta_info

    return str(read_file_meta_info(item.path).TransferSyntaxUID)


def _proposed(syntax: str) -> tuple[str, ...]:
    """A file is sent as it is; one in explicit VR in implicit VR too, the default that every peer must take."""
    return (EXPLICIT, IMPLICIT) if syntax == EXPLICIT else (syntax,)
