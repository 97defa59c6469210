"""
Query and retrieve at a PACS, by the Study Root model: C-FIND, C-GET, C-MOVE (PS3.4 annex C).

Only what is asked for here is asked for anywhere: no patient's name or ID is among the keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dicom_node.peers.association import EXPLICIT, IMPLICIT, VERIFICATION, Context, Peer, association, at_rest, verify
from dicom_node.peers.leaving import GoOn, always, left_when_told
from engine.errors import PeerAway, PeerError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pynetdicom.association import Association

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
PENDING = frozenset({0xFF00, 0xFF01})
SUCCESS, SOME_FAILED = 0x0000, 0xB000
NOT_SENT = 0xA702  # sub-operations can't be performed: what an archive says too that can't reach where it should send
OUT_OF_RESOURCES = frozenset({0xA700, 0xA701, NOT_SENT})
LOST = 0xA700  # what we answer to an image that we can't keep now

NOBODYS = "2.25.0"  # a Study Instance UID that no study has: made of the nil UUID (PS3.5 B.2)

MOST_UIDS = 100  # in one identifier. Our choice: longer lists are refused or cut by some

Received = Callable[[str, str, str, str, bytes], bool]
"""Called with abstract syntax, SOP class, SOP Instance UID, transfer syntax and encoded data set; False: not kept."""

STORED, REFUSED_BY_US = 0x0000, 0xA700

LAST_WORDS_S = 1.0  # our choice: so long a peer has to close what we aborted


class Finder:
    """An open association on which is queried."""

    def __init__(self, peer: Peer, opened: "Association") -> None:
        """Made by `finder`."""
        self._peer = peer
        self._association = opened

    def find(self, level: str, **keys: str) -> list["Dataset"]:
        """All matches of a query.

        Args:
            level: "STUDY", "SERIES" or "IMAGE".
            keys: keywords with what to match, or empty: to be returned.

        Raises:
            PeerError: the peer refused, was lost, or was left.
        """
        from pydicom.dataset import Dataset

        identifier = Dataset()
        identifier.QueryRetrieveLevel = level
        for keyword, value in keys.items():
            setattr(identifier, keyword, value or None)
        found = []
        try:
            with at_rest(self._association) as opened:
                answers = list(opened.send_c_find(identifier, FIND))
            for status, match in answers:
                code = _code(status, self._peer, "C-FIND")
                if code in PENDING:
                    if match is not None:
                        found.append(match)
                elif code != SUCCESS:
                    raise PeerError(f"'{self._peer.name}' answered C-FIND with {code:#06x}")
        except (RuntimeError, ValueError):
            raise PeerError(f"'{self._peer.name}' was lost during C-FIND, or does not offer it") from None
        return found


@contextmanager
def finder(peer: Peer, go_on: GoOn = always) -> Iterator[Finder]:
    """Query over one association.

    Raises:
        PeerError: the peer is not there, or does not offer it.
    """
    with association(peer, [(FIND, (EXPLICIT, IMPLICIT))], go_on=go_on) as opened:
        if not opened.accepted_contexts:
            raise PeerError(f"'{peer.name}' does not offer C-FIND in the Study Root model")
        with left_when_told(go_on, lambda: _leave(opened)):
            yield Finder(peer, opened)


def ask(peer: Peer, retrieve: str) -> None:
    """See that a peer is there, and offers what a backfill needs: C-ECHO, then a search that matches nothing.

    Args:
        retrieve: GET or MOVE, which is only agreed on.

    Raises:
        PeerError: it is not there, lacks something, or refuses to be searched.
    """
    models = {FIND: "C-FIND", retrieve: "C-GET" if retrieve == GET else "C-MOVE"}
    with association(peer, [(each, (EXPLICIT, IMPLICIT)) for each in (VERIFICATION, *models)]) as opened:
        accepted = {str(context.abstract_syntax) for context in opened.accepted_contexts}
        if VERIFICATION in accepted:
            verify(peer.name, opened)
        for model, name in models.items():
            if model not in accepted:
                raise PeerError(f"'{peer.name}' does not offer {name} in the Study Root model")
        Finder(peer, opened).find("STUDY", StudyInstanceUID=NOBODYS)


def get(
    peer: Peer,
    keys: Sequence[dict[str, str]],
    sop_classes: Sequence[str],
    transfer_syntaxes: Sequence[str],
    received: Received,
    go_on: GoOn = always,
) -> None:
    """Fetch by C-GET: images come over the association that we asked for.

    Args:
        keys: one request each, as `requests` makes them.
        transfer_syntaxes: each in a context of its own, so that the peer may send what it holds, as it is.

    Raises:
        PeerError: the peer refused, or was lost; what came before is with `received`.
    """
    from pynetdicom import evt

    contexts: list[Context] = [(GET, (EXPLICIT, IMPLICIT))]
    contexts += [(sop_class, (syntax,)) for sop_class in sop_classes for syntax in transfer_syntaxes]
    was_left = False

    def on_store(event: Any) -> int:
        nonlocal was_left
        request, context = event.request, event.context
        kept = not was_left and received(
            str(context.abstract_syntax),
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(context.transfer_syntax),
            request.DataSet.getvalue(),
        )
        if not kept:
            was_left = True
            event.assoc.abort()
        return STORED if kept else REFUSED_BY_US

    with association(peer, contexts, sop_classes, [(evt.EVT_C_STORE, on_store)], go_on) as opened:
        if GET not in {str(context.abstract_syntax) for context in opened.accepted_contexts}:
            raise PeerError(f"'{peer.name}' does not offer C-GET in the Study Root model")
        _retrieve_all(peer, opened, "C-GET", opened.send_c_get, keys, GET, lambda: go_on() and not was_left)


def move(peer: Peer, keys: Sequence[dict[str, str]], destination_ae_title: str, go_on: GoOn) -> None:
    """Have a peer send to an AE that it knows, by C-MOVE.

    Raises:
        PeerError: the peer refused, does not know the AE, or was lost.
    """
    with association(peer, [(MOVE, (EXPLICIT, IMPLICIT))], go_on=go_on) as opened:
        if not opened.accepted_contexts:
            raise PeerError(f"'{peer.name}' does not offer C-MOVE in the Study Root model")

        def send(identifier: "Dataset", model: str) -> Iterator[Any]:
            answers: Iterator[Any] = opened.send_c_move(identifier, destination_ae_title, model)
            return answers

        _retrieve_all(peer, opened, "C-MOVE", send, keys, MOVE, go_on)


def requests(
    study_instance_uid: str, series_instance_uid: str, uids: Sequence[str], whole: bool
) -> list[dict[str, str]]:
    """Identifiers that ask for a whole series, or for some of its images."""
    series = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": series_instance_uid}
    if whole:
        return [{"QueryRetrieveLevel": "SERIES", **series}]
    return [
        {"QueryRetrieveLevel": "IMAGE", **series, "SOPInstanceUID": "\\".join(uids[n : n + MOST_UIDS])}
        for n in range(0, len(uids), MOST_UIDS)
    ]


def _retrieve_all(
    peer: Peer,
    opened: "Association",
    name: str,
    send: Callable[..., Any],
    keys: Sequence[dict[str, str]],
    model: str,
    go_on: GoOn,
) -> None:
    """One request after the other; who leaves before the last is no error."""
    with left_when_told(go_on, lambda: _leave(opened)):
        for each in keys:
            if not go_on():
                return
            try:
                _retrieve(peer, opened, name, send, each, model)
            except PeerError:
                if go_on():
                    raise


def _leave(opened: "Association") -> None:
    """Abort an association from beside whoever waits for an answer on it."""
    if not opened.is_aborted:
        opened.acse_timeout = LAST_WORDS_S
        opened.abort()
    # whoever aborted, also who kept an image: what tells of it in the queue went to pynetdicom's own thread
    opened.dimse.msg_queue.put((None, None))


def _retrieve(
    peer: Peer, opened: "Association", name: str, send: Callable[..., Any], keys: dict[str, str], model: str
) -> None:
    """One request to its final answer. Sub-operations that failed are no error here: what came is counted by us."""
    from pydicom.dataset import Dataset

    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value.split("\\") if "\\" in value else value)
    code: int | None = None
    try:
        with at_rest(opened):
            for status, _ in send(identifier, model):
                code = _code(status, peer, name)
    except (RuntimeError, ValueError):
        raise PeerError(f"'{peer.name}' was lost during {name}") from None
    if code is None or code in PENDING:
        raise PeerError(f"'{peer.name}' was lost during {name}")
    if code == NOT_SENT and model == MOVE:
        ours = "does our front door run, where it sends to, and let it in?"
        raise PeerAway(f"'{peer.name}' can't send what C-MOVE asked for, or has no room ({code:#06x}): {ours}")
    if code in OUT_OF_RESOURCES:
        raise PeerAway(f"'{peer.name}' has no room for {name} now ({code:#06x})")
    if code not in (SUCCESS, SOME_FAILED):
        raise PeerError(f"'{peer.name}' answered {name} with {code:#06x}")


def _code(status: Any, peer: Peer, name: str) -> int:
    if not status or "Status" not in status:
        raise PeerError(f"'{peer.name}' did not answer {name}")
    return int(status.Status)
