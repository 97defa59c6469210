"""
Where reports go, and how patient the sender is.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Destination:
    """A peer that reports are sent to: by C-STORE to an AE title, or by STOW-RS to a DICOMweb server."""

    name: str  # ours; stands in the outbox and in `status`
    ae_title: str = ""
    host: str = ""
    port: int = 104
    commitment: bool = False  # ask for storage commitment after sending; only then may the spool forget
    tls_authorities: str = ""  # PEM file of the authorities that its certificate is checked against; empty: no TLS
    tls_certificate: str = ""  # PEM file of ours, where it asks for one
    tls_key: str = ""  # PEM file of its private key
    url: str = ""  # of DICOMweb, such as "https://pacs.example/dicom-web"; then no AE title
    token_file: str = ""  # holds the bearer token that the DICOMweb server wants

    def __post_init__(self) -> None:
        """Refuse what DICOM or TCP can't address."""
        if not 1 <= len(self.name) <= 64:
            raise ValueError("a destination needs a name of 1 to 64 characters")
        if self.url:
            if self.ae_title or self.commitment or not self.url.startswith(("http://", "https://")):
                raise ValueError(f"destination '{self.name}' has an http(s) url, so no ae_title and no commitment")
            return
        if not 1 <= len(self.ae_title.strip()) <= 16 or not self.ae_title.isascii() or "\\" in self.ae_title:
            raise ValueError(f"ae_title of destination '{self.name}' must be 1 to 16 plain characters")
        if not self.host:
            raise ValueError(f"destination '{self.name}' needs a host, or the url of DICOMweb")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port of destination '{self.name}' must be 1 to 65535, not {self.port}")
        if bool(self.tls_certificate) != bool(self.tls_key) or (self.tls_certificate and not self.tls_authorities):
            raise ValueError(
                f"destination '{self.name}': tls_certificate and tls_key go together, with tls_authorities"
            )


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """Where reports go, how long to wait for an answer and how patient to be."""

    ae_title: str = "TRABECULA"  # how this node calls itself
    destinations: tuple[Destination, ...] = ()  # none: reports stay on disk and are not sent
    connect_timeout_s: float = 10.0
    association_timeout_s: float = 30.0  # for an answer to the request of an association
    store_timeout_s: float = 60.0  # for an answer to one C-STORE
    idle_timeout_s: float = 60.0  # of an open association on which nothing moves
    batch: int = 16  # objects for one association
    poll_s: float = 2.0  # pause when there is nothing to send
    lease_s: float = 600.0  # how long a sender that died keeps its objects
    retry_after_s: float = 10.0  # pause when a destination is not there, or refuses an object; doubles each time
    longest_retry_s: float = 600.0  # longest pause while a destination is not there; that may last for weeks
    max_refusals: int = 20  # of one object by a destination that is there; then it is a dead letter
    refusals_in_a_row: int = 5  # of different objects; then the destination is left alone for a while
    commitment_wait_s: float = 2.0  # for a report of commitment over the association on which it was asked for
    ask_again_s: float = 3600.0  # for commitment, where no report came

    def __post_init__(self) -> None:
        """Refuse numbers without meaning, and two destinations of one name."""
        timeouts = (self.connect_timeout_s, self.association_timeout_s, self.store_timeout_s, self.idle_timeout_s)
        if min(*timeouts, self.poll_s, self.retry_after_s, self.longest_retry_s, self.ask_again_s) <= 0:
            raise ValueError("timeouts and pauses must be above 0")
        if self.lease_s < 2 * self.store_timeout_s:
            raise ValueError("lease_s must be at least twice store_timeout_s")
        if min(self.batch, self.max_refusals, self.refusals_in_a_row) < 1 or self.commitment_wait_s < 0:
            raise ValueError("batch, max_refusals and refusals_in_a_row must be 1 or more")
        names = [destination.name for destination in self.destinations]
        if len(set(names)) < len(names):
            raise ValueError("two destinations have the same name")
