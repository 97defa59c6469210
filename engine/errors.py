"""
Every error that is raised on purpose, as a tree ordered by what the caller should do.

    ScreeningError
      SeriesError(reason, message)   set this series aside, write the reason down, go on
        UnreadableInstance             one file or data set is no usable CT instance
        UnsupportedSeries              a series that no program reads
        IncompleteSeries               slices are missing, doubled or contradict each other
        UndecodableSeries              the pixels can't be had
        AnatomyNotFound                nothing to measure was found, or it can't be named
      PeerError                      a peer did not answer or refused: try again later
        PeerAway                       it is not there, or takes nobody now
      DeploymentError                wrong on this machine: stop, a person must act
        BadOption                      an option is unknown or has no meaning
        UnusableCredentials            certificates, a key or a token for one peer can't be used
        UnusableModel                  a model package is missing, damaged or not what it says
        BackendUnavailable             no session can run here
        StorageFull                    the disk does not take what must be kept
        SchemaMismatch                 the database is of another version
        WrongKey                       the key of the pseudonyms is not the one that the database rests on
        DatabaseUnavailable            the database can't be reached, or is locked; it may pass

A message says what was found and what was expected. It never holds patient data or a path.
"""

from engine.records import Reason


class ScreeningError(Exception):
    """Root of all errors raised on purpose."""


class SeriesError(ScreeningError):
    """Raised when a series (or instance) can't be used; set it aside with the reason and go on."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Keep both arguments, so that the error survives pickling."""
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        """Reason first, then what was found."""
        return f"{self.reason}: {self.message}"


class UnreadableInstance(SeriesError):
    """Raised when one file or data set is no usable instance."""


class UnsupportedSeries(SeriesError):
    """Raised when a series is of a kind that no program reads."""


class IncompleteSeries(SeriesError):
    """Raised when slices are missing, doubled or contradict each other."""


class UndecodableSeries(SeriesError):
    """Raised when the pixels can't be had, or can't be right."""


class AnatomyNotFound(SeriesError):
    """Raised when nothing to measure was found, or it can't be named."""


class PeerError(ScreeningError):
    """Raised when a peer did not answer or refused; try again later."""


class PeerAway(PeerError):
    """Raised when a peer is not there, or takes nobody now: it is no fault of what was asked."""


class DeploymentError(ScreeningError):
    """Raised when this machine is set up wrongly; stop, a person must act."""


class BadOption(DeploymentError):
    """Raised when an option is unknown or its value has no meaning."""


class UnusableCredentials(DeploymentError):
    """Raised when the certificates, key or token that a peer is called with can't be used; others may be."""


class UnusableModel(DeploymentError):
    """Raised when a model package is missing, damaged or not what its manifest says."""


class BackendUnavailable(DeploymentError):
    """Raised when no session can run a model here; the message says why for each."""


class StorageFull(DeploymentError):
    """Raised when the disk does not take what must be kept."""


class SchemaMismatch(DeploymentError):
    """Raised when the database is of another version than this program."""


class WrongKey(DeploymentError):
    """Raised when the key of the pseudonyms is gone, or another than the one that the database's patients have."""


class DatabaseUnavailable(DeploymentError):
    """Raised when the database can't be reached or is locked; what was begun is undone, and trying again may help."""
