"""An archive is asked over TLS: only if it is who it says, and with our certificate where it wants one."""

import ssl
from collections.abc import Iterator

import pytest

from db.schema import BackfillState
from dicom_node.backfill.counting import series_counter
from dicom_node.backfill.estimate import estimate
from dicom_node.backfill.options import BackfillOptions
from dicom_node.backfill.runner import Backfill
from engine.errors import PeerAway, PeerError

from ..papers import Papers
from .conftest import KEY, QUICK, SLICES, MadeArchive, Memory, uid
from .peer import Peer
from .test_archives import source


@pytest.fixture
def peer(three_studies: MadeArchive, papers: Papers) -> Iterator[Peer]:
    """It wants a certificate of its authority, and has one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=papers.authority)
    context.load_cert_chain(*papers.of("node"))
    context.verify_mode = ssl.CERT_REQUIRED
    made = Peer(three_studies, tls=context)
    yield made
    made.stop()


def named(papers: Papers, who: str = "client", authority: str = "") -> dict[str, str]:
    """TLS options of an archive."""
    certificate, key = papers.of(who)
    return {"tls_authorities": authority or papers.authority, "tls_certificate": certificate, "tls_key": key}


def test_an_archive_is_searched_and_read_over_tls(memory: Memory, peer: Peer, papers: Papers):
    where = source(peer.archive(**named(papers)))
    assert Backfill(memory.database, memory.spool, KEY, where, QUICK).run() is BackfillState.DONE
    assert memory.registered() == {uid(study, 1): SLICES for study in (1, 2, 3)}


def test_series_are_counted_over_tls(peer: Peer, papers: Papers):
    count = series_counter(BackfillOptions(archives=(peer.archive(**named(papers)),)), "peer")
    assert count is not None
    assert count(uid(2)) == {uid(2, 1): SLICES, uid(2, 2): SLICES}
    plain = series_counter(BackfillOptions(archives=(peer.archive(),), association_timeout_s=1.0), "peer")
    assert plain is not None
    with pytest.raises(PeerError):
        plain(uid(2))


@pytest.mark.parametrize("wrong", ["an unknown authority", "no certificate of ours", "a stranger's certificate"])
def test_nobody_else_is_asked_or_answers(peer: Peer, papers: Papers, wrong: str):
    options = {
        "an unknown authority": named(papers, authority=papers.stranger),
        "no certificate of ours": {"tls_authorities": papers.authority},
        "a stranger's certificate": named(papers, "foreigner"),
    }
    with pytest.raises(PeerAway):
        estimate(source(peer.archive(**options[wrong])), QUICK)
