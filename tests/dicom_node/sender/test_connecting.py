"""Of a peer it is told how far one gets with it; DCMTK takes what is sent, in the clear and over TLS."""

import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.sender.lines import Sender
from dicom_node.sender.options import Destination
from dicom_node.sender.store import echo
from engine.errors import PeerError

from ..foreign import free_port
from ..papers import Papers
from ..patience import until
from .peer import SOCKETS_LEFT, options, pacs, peer, running
from .reports import Reports

pytestmark = SOCKETS_LEFT


def test_echo_tells_whether_a_peer_is_there():
    with peer() as there:
        echo(pacs(there.port), options())
    with pytest.raises(PeerError, match="'pacs' can't be reached: nobody listens there"):
        echo(pacs(free_port()), options())
    with pytest.raises(PeerError, match="can't be reached: its host name is not known here"):
        echo(Destination("nowhere", "PACS", "no-such-host.invalid", 104), options())
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(PeerError, match="takes a connection, but answers no request"):
            echo(pacs(mute.getsockname()[1]), options(association_timeout_s=0.2))


def test_of_tls_it_is_told_what_is_wrong(papers: Papers):
    with peer() as there, pytest.raises(PeerError, match="there, but TLS fails"):
        echo(replace(pacs(there.port), tls_authorities=papers.authority), options())


def test_a_peer_that_does_not_know_us_says_why(reports: Reports):
    reports.add("pacs")
    with peer(require_called_aet=True) as there:
        with pytest.raises(PeerError, match="Called AE title not recognised"):
            echo(pacs(there.port, ae_title="WRONG"), options())
        assert Sender(reports.database, options(pacs(there.port, ae_title="WRONG"))).run(until_idle=True) == 0
    assert reports.states("pacs") == ["ready"] * 2


def test_a_mute_peer_is_given_up_after_its_time(reports: Reports):
    reports.add("pacs")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        sender = Sender(reports.database, options(pacs(mute.getsockname()[1]), association_timeout_s=0.5))
        assert sender.run(until_idle=True) == 0
        assert time.monotonic() - began < 10
    assert reports.states("pacs") == ["ready"] * 2


def test_dcmtk_takes_what_is_sent(reports: Reports, tmp_path: Path):
    storescp = shutil.which("storescp")
    if storescp is None:
        pytest.skip("DCMTK's storescp is not installed")
    objects = reports.add("pacs")
    port, folder = free_port(), tmp_path / "pacs"
    folder.mkdir()
    with ExitStack() as ends:
        scp = subprocess.Popen([storescp, "-od", str(folder), "-aet", "PACS", str(port)])
        ends.callback(scp.wait)
        ends.callback(scp.terminate)
        with running(Sender(reports.database, options(pacs(port)))):
            until(lambda: reports.states("pacs") == ["sent"] * 2)
    assert len(list(folder.iterdir())) == len(objects)


def test_dcmtk_takes_what_is_sent_over_tls_and_only_if_it_is_who_it_says(reports: Reports, tmp_path: Path):
    storescp, openssl = shutil.which("storescp"), shutil.which("openssl")
    if storescp is None or openssl is None:
        pytest.skip("DCMTK's storescp or openssl is not installed")
    for name in ("theirs", "another"):
        made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    reports.add("pacs")
    port = free_port()
    with ExitStack() as ends:
        tls = ["+tls", "theirs.key", "theirs.pem", "-ic"]
        scp = subprocess.Popen([storescp, *tls, "-aet", "PACS", "--ignore", str(port)], cwd=tmp_path)
        ends.callback(scp.wait)
        ends.callback(scp.terminate)
        trusted = replace(pacs(port), tls_authorities=str(tmp_path / "theirs.pem"))
        doubted = replace(pacs(port), tls_authorities=str(tmp_path / "another.pem"))
        until(lambda: _answers(trusted))
        with pytest.raises(PeerError, match="its certificate is not taken"):
            echo(doubted, options())
        with pytest.raises(PeerError, match="takes a connection, but"):
            echo(pacs(port), options())  # without TLS
        assert Sender(reports.database, options(trusted)).run(until_idle=True) == 2


def _answers(destination: Destination) -> bool:
    try:
        echo(destination, options())
    except PeerError:
        return False
    return True
