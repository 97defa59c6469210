"""TLS at the front door: who speaks it, who shows which certificate, and that nobody who stalls holds up others."""

import logging
import shutil
import socket
import ssl
import subprocess

import pytest

from dicom_node.intake.options import DataPath, TlsOptions
from dicom_node.intake.receiver import server_context
from engine.errors import DeploymentError

from ..papers import Papers
from ..patience import until


def tls_options(papers: Papers, clients: bool) -> TlsOptions:
    return TlsOptions(*papers.of("node"), papers.authority if clients else "")


def client(papers: Papers, who: str | None, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=papers.authority)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
    if who is not None:
        context.load_cert_chain(*papers.of(who))
    return context


def store(door, context: ssl.SSLContext, make_ct, encode) -> int:
    """Status of one instance sent over TLS."""
    peer = door.raw()
    peer.socket = context.wrap_socket(peer.socket, server_hostname="localhost")
    image = make_ct()
    return peer.associate().store(encode(image), image.SOPInstanceUID)


@pytest.mark.parametrize("way", tuple(DataPath))
def test_instances_come_over_tls_and_only_from_clients_with_a_certificate_that_is_known(
    open_door, papers, make_ct, encode, way
):
    door = open_door(data_path=way, tls=tls_options(papers, clients=True), pdu_timeout_s=5.0)
    assert store(door, client(papers, "client"), make_ct, encode) == 0
    for who in (None, "foreigner"):
        with pytest.raises((OSError, ConnectionError)):
            store(door, client(papers, who), make_ct, encode)
    with pytest.raises((OSError, ConnectionError, AssertionError)):
        door.raw().associate()  # without TLS
    assert len(door.kept()) == 1


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_why_a_client_is_refused_is_in_the_log(open_door, papers, make_ct, encode, caplog, newest):
    door = open_door(tls=tls_options(papers, clients=True), pdu_timeout_s=5.0)
    for who in (None, "foreigner"):
        with pytest.raises((OSError, ConnectionError)):
            store(door, client(papers, who, newest), make_ct, encode)
    with pytest.raises((OSError, ConnectionError, AssertionError)):
        door.raw().associate()  # without TLS
    with pytest.raises(ssl.SSLError):
        ssl.create_default_context(cafile=papers.stranger).wrap_socket(door.raw().socket, server_hostname="localhost")
    door.raw().socket.close()  # somebody looks whether the port is open: that is nothing

    def told() -> set[str]:
        return {record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING}

    until(lambda: len(told()) >= 4)
    assert told() == {
        "refused a connection of 127.0.0.1: it shows no certificate",
        "refused a connection of 127.0.0.1: its certificate is not taken (unable to get local issuer certificate)",
        "refused a connection of 127.0.0.1: it does not speak TLS",
        "refused a connection of 127.0.0.1: it does not take our certificate: it does not know who signed it",
    }


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_is_agreed_on_has_forward_secrecy_and_authenticated_encryption(open_door, papers, newest):
    door = open_door(tls=tls_options(papers, clients=False))
    context = client(papers, None, newest)
    with context.wrap_socket(socket.create_connection(("127.0.0.1", door.port)), server_hostname="localhost") as peer:
        name, version, _ = peer.cipher()
        assert "GCM" in name or "CHACHA20" in name
        assert version == "TLSv1.3" or name.startswith(("ECDHE", "DHE"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_versions_and_weaker_ciphers_are_refused(open_door, papers):
    door = open_door(tls=tls_options(papers, clients=False))
    old, weak = client(papers, None, ssl.TLSVersion.TLSv1_1), client(papers, None, ssl.TLSVersion.TLSv1_2)
    old.set_ciphers("ALL:@SECLEVEL=0")
    weak.set_ciphers("AES128-SHA:AES256-GCM-SHA384:ECDHE-RSA-AES128-SHA256")
    for context in (old, weak):
        with pytest.raises(OSError, match=r"(?i)alert|version|protocol|reset|EOF"):
            context.wrap_socket(socket.create_connection(("127.0.0.1", door.port)), server_hostname="localhost")


def test_a_handshake_that_stalls_holds_up_nobody_and_is_given_up(open_door, papers, make_ct, encode):
    door = open_door(tls=tls_options(papers, clients=False), pdu_timeout_s=0.5, association_timeout_s=0.5)
    silent = [door.raw() for _ in range(5)]
    silent[0].socket.sendall(b"\x16\x03\x01")
    assert store(door, client(papers, None), make_ct, encode) == 0
    assert all(peer.is_closed_within(4) for peer in silent)


@pytest.mark.dcmtk
@pytest.mark.parametrize("clients", [False, True])
def test_dcmtk_sends_over_tls(open_door, papers, make_ct, tmp_path, clients):
    if not shutil.which("storescu"):
        pytest.skip("DCMTK is not installed")
    door = open_door(tls=tls_options(papers, clients))
    make_ct().save_as(tmp_path / "one.dcm", enforce_file_format=True)

    def send(*more: object) -> int:
        command = ["storescu", *map(str, more), "127.0.0.1", str(door.port), str(tmp_path / "one.dcm")]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode

    certificate, key = papers.of("client")
    assert send("+tls", key, certificate, "+cf", papers.authority) == 0
    assert (send("+tla", "+cf", papers.authority) == 0) == (not clients)
    assert send() != 0
    assert len(door.kept()) == 1


@pytest.mark.parametrize("missing", ["node.crt", "node.key", "authority.crt"])
def test_papers_that_cannot_be_read_are_told(papers, tmp_path, missing):
    for name in ("node.crt", "node.key", "authority.crt"):
        if name != missing:
            shutil.copy(papers.folder / name, tmp_path / name)
    files = [str(tmp_path / name) for name in ("node.crt", "node.key", "authority.crt")]
    with pytest.raises(DeploymentError, match=r"receiver\.tls") as caught:
        server_context(TlsOptions(*files))
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"certificate": "a"}, {"key": "a"}, {"client_authorities": "a"}])
def test_halves_of_options_are_refused(wrong):
    with pytest.raises(ValueError, match=r"together|needs"):
        TlsOptions(**wrong)
