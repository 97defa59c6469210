"""An archive as the peer that we call: by which title, how long it is waited for, and over TLS where it wants that."""

from dicom_node.backfill.options import Archive, BackfillOptions
from dicom_node.peers.association import Peer, Tls


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
