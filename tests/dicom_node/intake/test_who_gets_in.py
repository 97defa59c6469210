"""The front door agrees on what is listed, with whom is listed; it opens and closes in order."""

import threading

import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from pynetdicom import AE
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation

from dicom_node.intake.options import DataPath, ReceiverOptions
from dicom_node.intake.receiver import Receiver
from dicom_node.intake.services import SOP_CLASSES, TRANSFER_SYNTAXES
from engine.errors import DeploymentError


def test_only_what_is_listed_is_agreed_on(door):
    wanted = [(uid, [syntax]) for uid in SOP_CLASSES[:3] for syntax in TRANSFER_SYNTAXES]
    refused = [
        (MRImageStorage, [ExplicitVRLittleEndian]),
        (CTImageStorage, [DeflatedExplicitVRLittleEndian]),
    ]
    with door.association(*wanted, *refused) as association:
        accepted = [(cx.abstract_syntax, list(cx.transfer_syntax)) for cx in association.accepted_contexts]
        assert accepted == wanted
        assert [cx.abstract_syntax for cx in association.rejected_contexts] == [cx[0] for cx in refused]
    several = [ImplicitVRLittleEndian, "1.2.840.10008.1.2.4.50", ExplicitVRLittleEndian]
    with door.association((CTImageStorage, several)) as association:
        assert [cx.transfer_syntax for cx in association.accepted_contexts] == [[ExplicitVRLittleEndian]]


def test_asynchronous_operations_are_answered_with_one(door):
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 0  # without limit
    ae = AE()
    ae.add_requested_context(CTImageStorage)
    association = ae.associate("127.0.0.1", door.port, ext_neg=[window])
    assert association.acceptor.asynchronous_operations == (1, 1)
    association.release()


def test_ae_titles_are_checked_where_that_is_asked_for(open_door):
    door = open_door(calling_ae_titles=("PACS", "CT1"), check_called_ae_title=True, ae_title="NODE")
    assert door.raw().rejection(calling="PACS", called="NODE") is None
    assert door.raw().rejection(calling="OTHER", called="NODE") == (1, 1, 3)  # calling AE title not recognized
    assert door.raw().rejection(calling="CT1", called="TRABECULA") == (1, 1, 7)  # called AE title not recognized


def test_whoever_is_turned_away_is_named_with_the_reason(open_door, make_ct, encode, caplog):
    door = open_door(data_path=DataPath.DIRECT, calling_ae_titles=("PACS",), check_called_ae_title=True)
    door.raw().rejection(calling="OTHER")
    door.raw().rejection(calling="PACS", called="WHO\nAMI")
    image = make_ct()
    peer = door.raw()
    assert peer.rejection(calling="PACS") is None
    assert peer.store(encode(image), "1.2.3") != 0  # which is not its own
    told = caplog.text
    assert (
        "rejected an association of 'OTHER' at 127.0.0.1: its AE title is not among receiver.calling_ae_titles" in told
    )
    assert "rejected an association of 'PACS' at 127.0.0.1: it calls an AE title that is none of ours" in told
    assert "refused an instance of 'PACS': " in told
    assert "AMI" not in told


def test_an_address_that_is_not_allowed_is_named(open_door, caplog):
    door = open_door(data_path=DataPath.DIRECT, allowed_networks=("10.1.0.0/16",))
    assert door.raw().is_closed_within(4)
    assert "refused a connection of 127.0.0.1: not in receiver.allowed_networks" in caplog.text


@pytest.mark.parametrize("data_path", DataPath)
@pytest.mark.parametrize(("network", "accepted"), [("127.0.0.0/8", True), ("10.1.0.0/16", False), ("::/0", False)])
def test_only_addresses_on_the_list_get_in(network, accepted, data_path, open_door):
    door = open_door(allowed_networks=(network,), data_path=data_path)
    ae = AE()
    ae.add_requested_context(CTImageStorage)
    association = ae.associate("127.0.0.1", door.port)
    assert association.is_established == accepted
    if accepted:
        association.release()


@pytest.mark.parametrize("data_path", DataPath)
def test_a_node_has_several_names_and_no_others(data_path, open_door):
    door = open_door(ae_title="NODE", other_ae_titles=("NIGHT", "OLD_NAME"), data_path=data_path)
    for called, accepted in (("NODE", True), ("NIGHT", True), ("OLD_NAME", True), ("TRABECULA", False)):
        ae = AE()
        ae.add_requested_context(CTImageStorage)
        association = ae.associate("127.0.0.1", door.port, ae_title=called)
        assert association.is_established == accepted
        if accepted:
            association.release()


@pytest.mark.parametrize(
    "wrong",
    [
        {"ae_title": ""},
        {"ae_title": "SEVENTEEN LETTERS"},
        {"calling_ae_titles": ("A\\B",)},
        {"port": 70000},
        {"max_pdu_bytes": 0},
        {"max_associations": 0},
        {"pdu_timeout_s": 0.0},
    ],
)
def test_options_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must|has"):
        ReceiverOptions(**wrong)


def test_a_taken_port_or_a_strange_host_is_told(door):
    for options in (ReceiverOptions(port=door.port), ReceiverOptions(host="no.such.host.invalid")):
        with pytest.raises(DeploymentError, match=r"can't listen.*receiver\.port"):
            Receiver(options, door.spool, door.registrar, b"key").start()


def test_a_stop_lets_an_association_end_and_takes_no_new_one(open_door, make_ct, encode):
    door = open_door(stop_grace_s=5.0)
    dataset, peer, silent = make_ct(), door.raw().associate(), door.raw()
    port = door.port
    stopping = threading.Thread(target=door.receiver.stop)
    stopping.start()
    stopping.join(0.3)
    assert peer.store(encode(dataset), dataset.SOPInstanceUID) == 0
    with pytest.raises(ConnectionRefusedError):
        type(peer)(port)
    peer.send_pdu(5, bytes(4))
    assert peer.read_pdu()[0] == 6
    stopping.join(5)
    assert not stopping.is_alive()
    assert silent.is_closed_within(1)
