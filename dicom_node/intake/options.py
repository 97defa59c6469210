"""What steers the front door."""

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum

from dicom_node.spool import MIB


class DataPath(StrEnum):
    """Who reads associations."""

    DIRECT = "direct"  # ours: a thread an association that waits for nothing but the network and the disk
    PYNETDICOM = (
        "pynetdicom"  # that library's own: several times slower, for the case that a peer gets on better with it
    )


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """TLS as DICOM PS3.15 B.12 (BCP 195) wants it: 1.2 or later, forward secrecy, authenticated encryption."""

    certificate: str = ""  # PEM file of the node's certificate and those between it and its root; empty: no TLS
    key: str = ""  # PEM file of its private key, without a passphrase
    client_authorities: str = (
        ""  # PEM file of the authorities whose clients may connect; empty: no certificate is asked for
    )

    def __post_init__(self) -> None:
        """Refuse halves."""
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together")
        if self.client_authorities and not self.certificate:
            raise ValueError("client_authorities needs a certificate")


@dataclass(frozen=True, slots=True)
class CommitmentPeer:
    """Where the result of a storage commitment is told."""

    ae_title: str  # theirs; who asks under this title is told there, over an association of ours
    host: str
    port: int

    def __post_init__(self) -> None:
        """Refuse what DICOM or TCP can't express."""
        check_ae_titles((self.ae_title,))
        if not self.host or not 1 <= self.port <= 65535:
            raise ValueError("a commitment peer needs a host and a port from 1 to 65535")


@dataclass(frozen=True, slots=True)
class ReceiverOptions:
    """Where the front door is, who may use it, and what one sender may take up."""

    ae_title: str = "TRABECULA"
    other_ae_titles: tuple[str, ...] = ()  # by which it may be called too
    host: str = "127.0.0.1"  # only this machine; a hospital's node listens on an address of its network, or "0.0.0.0"
    port: int = 11112  # 0: any free one
    data_path: DataPath = DataPath.DIRECT
    check_called_ae_title: bool = False  # refuse associations that call another AE title
    calling_ae_titles: tuple[str, ...] = ()  # who may send; empty: anybody. AE titles are no authentication
    allowed_networks: tuple[str, ...] = ()  # addresses or networks that may connect; empty: any
    accept_deflated: bool = False  # agree on the deflated transfer syntax: a small object may unpack to a huge one
    max_associations: int = 32
    max_pdu_bytes: int = 131072
    max_instance_mib: int = 512  # a larger one ends the association
    pdu_timeout_s: float = 15.0  # in which a PDU that began must be complete
    instance_timeout_s: float = 900.0  # in which an instance that began must be complete
    association_timeout_s: float = 15.0  # in which a connection must ask for an association
    idle_timeout_s: float = 60.0  # after which an association on which nothing moves is ended
    stop_grace_s: float = 10.0  # at a stop, associations may take so long to end by themselves
    watermark_mib: int = (
        2048  # free space below which no new association for storage is taken; see also spool.reserve_mib
    )
    max_queue_age_s: float = 0.0  # likewise while the oldest job has waited for longer; 0: whatever its age
    storage_commitment: bool = True  # commit to what lies in the spool
    commitment_peers: tuple[CommitmentPeer, ...] = ()  # others are told over the association on which they asked
    tls: TlsOptions = field(default_factory=TlsOptions)

    def __post_init__(self) -> None:
        """Refuse what DICOM or TCP can't express, and amounts without meaning."""
        check_ae_titles((self.ae_title, *self.other_ae_titles, *self.calling_ae_titles))
        for network in self.allowed_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError(
                    f"allowed_networks has addresses or networks such as 10.1.0.0/16, not {network!r}"
                ) from None
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")
        if not 4096 <= self.max_pdu_bytes <= 16 * MIB:
            raise ValueError(f"max_pdu_bytes must be 4096 to {16 * MIB}, not {self.max_pdu_bytes}")
        if min(self.max_associations, self.max_instance_mib) < 1:
            raise ValueError("max_associations and max_instance_mib must be 1 or more")
        timeouts = (self.pdu_timeout_s, self.instance_timeout_s, self.association_timeout_s, self.idle_timeout_s)
        if min(timeouts) <= 0 or self.stop_grace_s < 0:
            raise ValueError("timeouts must be above 0")
        if self.watermark_mib < 0 or self.max_queue_age_s < 0:
            raise ValueError("watermark_mib and max_queue_age_s must be 0 or more")

    @property
    def called_ae_titles(self) -> tuple[str, ...]:
        """AE titles that may be called; empty: any."""
        return (self.ae_title, *self.other_ae_titles) if self.check_called_ae_title or self.other_ae_titles else ()


def check_ae_titles(titles: tuple[str, ...]) -> None:
    """Refuse what is no AE title (VR AE)."""
    for title in titles:
        if not 1 <= len(title.strip()) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
            raise ValueError("an AE title has 1 to 16 plain characters")
