"""An archive as the peer or server that we call: how it is named, how long it is waited for, how it is trusted."""

from dicom_node.backfill.options import Archive, BackfillOptions
from dicom_node.peers.association import Peer, Tls
from dicom_node.peers.dicomweb import Server


def archive_peer(archive: Archive, options: BackfillOptions, answer_timeout_s: float) -> Peer:
    """Of an archive that speaks DICOM's own protocol."""
    tls = Tls(archive.tls_authorities, archive.tls_certificate, archive.tls_key) if archive.tls_authorities else None
    return Peer(
        archive.name,
        archive.ae_title,
        archive.host,
        archive.port,
        options.ae_title,
        options.connect_timeout_s,
        options.association_timeout_s,
        answer_timeout_s,
        answer_timeout_s,
        tls,
    )


def archive_server(archive: Archive, options: BackfillOptions) -> Server:
    """Of an archive that speaks DICOMweb."""
    return Server(
        archive.name,
        archive.url,
        options.connect_timeout_s,
        options.answer_timeout_s,
        archive.token_file,
        archive.ca_file,
    )
