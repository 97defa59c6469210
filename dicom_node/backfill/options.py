"""
Which archives there are, and how gently they are asked.
"""

from dataclasses import dataclass
from enum import StrEnum

from dicom_node.backfill.window import read_windows


class Retrieve(StrEnum):
    """How a PACS is asked for images."""

    GET = "get"  # C-GET: they come over the association that we asked for
    MOVE = "move"  # C-MOVE: it sends them to our front door, whose AE title and address it must know


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that is asked: a PACS by its AE title, or a DICOMweb server by its URL."""

    name: str  # ours; stands in the database and in `status`
    ae_title: str = ""
    host: str = ""
    port: int = 104
    retrieve: Retrieve = Retrieve.GET
    tls_authorities: str = ""  # PEM file of the authorities that its certificate is checked against; empty: no TLS
    tls_certificate: str = ""  # PEM file of ours, where it asks for one
    tls_key: str = ""  # PEM file of its private key
    url: str = ""  # of DICOMweb, such as "https://pacs.example/dicom-web"; then no AE title
    token_file: str = ""  # holds the bearer token that the DICOMweb server wants
    ca_file: str = ""  # certificates that the DICOMweb server's is checked against; empty: the system's

    def __post_init__(self) -> None:
        """Refuse what can't be asked."""
        if not 1 <= len(self.name) <= 64:
            raise ValueError("an archive needs a name of 1 to 64 characters")
        if bool(self.url) == bool(self.ae_title):
            raise ValueError(f"archive '{self.name}' needs either an ae_title and a host, or the url of DICOMweb")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url of archive '{self.name}' must begin with http:// or https://")
        if self.ae_title:
            if len(self.ae_title.strip()) > 16 or not self.ae_title.isascii() or "\\" in self.ae_title:
                raise ValueError(f"ae_title of archive '{self.name}' must be 1 to 16 plain characters")
            if not self.host or not 1 <= self.port <= 65535:
                raise ValueError(f"archive '{self.name}' needs a host, and a port from 1 to 65535")
        self._check_tls()

    def _check_tls(self) -> None:
        if self.url and (self.tls_authorities or self.tls_certificate or self.tls_key):
            raise ValueError(
                f"archive '{self.name}': a DICOMweb server is checked against ca_file, not by tls_ options"
            )
        if bool(self.tls_certificate) != bool(self.tls_key) or (self.tls_certificate and not self.tls_authorities):
            raise ValueError(f"archive '{self.name}': tls_certificate and tls_key go together, with tls_authorities")


@dataclass(frozen=True, slots=True)
class BackfillOptions:
    """When, how fast and how patiently archives are read."""

    ae_title: str = "TRABECULA"  # how we call ourselves towards archives; C-MOVE sends to it
    archives: tuple[Archive, ...] = ()
    windows: tuple[str, ...] = ()  # "mon-fri 19:00-07:00" in local time; none: at any time
    associations: int = 2  # series that are fetched at a time, at most
    sample: bool = True  # where an archive's answers tell too little, fetch one slice before the whole series
    slow_factor: float = 3.0  # an archive so many times slower than at its best is asked less
    longest_pause_s: float = 600.0  # while an archive is away or slow
    live_pause_s: float = 30.0  # nothing is fetched for so long after something came by itself
    most_unread: int = 200  # series waiting to be analysed, with which no more are fetched
    keep_free_mib: int = 4096  # beyond the spool's reserve; below it nothing is fetched
    immediate_retries: int = 2  # of what is missing of a series, at once
    attempts: int = 3  # of a series or a search; then it is a dead letter
    retry_after_s: float = 300.0  # pause before the second attempt; doubles with each
    connect_timeout_s: float = 10.0
    association_timeout_s: float = 30.0  # for an answer to the request of an association
    answer_timeout_s: float = 120.0  # for the next answer, image or byte
    arrival_timeout_s: float = 30.0  # after C-MOVE, for the front door to register what came
    poll_s: float = 1.0  # how often is looked whether there is something to do

    def __post_init__(self) -> None:
        """Refuse numbers without meaning, and two archives of one name."""
        read_windows(self.windows)
        names = [archive.name for archive in self.archives]
        if len(set(names)) < len(names):
            raise ValueError("two archives have the same name")
        if not 1 <= len(self.ae_title.strip()) <= 16 or not self.ae_title.isascii() or "\\" in self.ae_title:
            raise ValueError("ae_title must be 1 to 16 plain characters")
        if min(self.associations, self.attempts, self.most_unread) < 1:
            raise ValueError("associations, attempts and most_unread must be 1 or more")
        if min(self.immediate_retries, self.keep_free_mib) < 0 or min(self.live_pause_s, self.retry_after_s) < 0:
            raise ValueError("amounts and pauses can't be negative")
        if self.slow_factor <= 1:
            raise ValueError("slow_factor must be above 1")
        timeouts = (self.connect_timeout_s, self.association_timeout_s, self.answer_timeout_s, self.arrival_timeout_s)
        if min(*timeouts, self.longest_pause_s, self.poll_s) <= 0:
            raise ValueError("timeouts, longest_pause_s and poll_s must be above 0")
