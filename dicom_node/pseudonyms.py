"""
The key of the pseudonyms and the database belong together, and that they do is looked at before either is used.

Under another key each patient of the database would be one more patient from then on, and nothing would tell. So the
database keeps a fingerprint of the first key that was used with it.
"""

import hmac
import logging
from contextlib import closing
from pathlib import Path

from db.connection import Database, is_missing, open_database
from db.pseudonyms import Traces, remember, traces
from dicom_node.config import NodeConfig, site_key
from engine.errors import SeriesError, WrongKey
from engine.loading.headers import read_header

log = logging.getLogger(__name__)

CONSTANT = b"trabecula: fingerprint of the key of the pseudonyms"  # no identifier is hashed as bytes that begin so


def key_of_database(config: NodeConfig) -> bytes:
    """The site's key; made where there is none, and where no database rests on another. Makes no database.

    Raises:
        WrongKey: the database rests on a key that is gone, or on another one.
        DeploymentError: as `site_key`; or the database can't be opened.
    """
    path, found = Path(config.pseudonym_key_file), _traces(config)
    if not path.exists() and found.are_there:
        raise WrongKey(
            f"'{path.name}', the key of the pseudonyms, is gone, and the database rests on it: restore it"
            " from its copy (see 'pseudonym_key_file')"
        )
    key = site_key(config)
    if not found.are_there:
        return key
    is_its_own = _is_of(found, key)
    if is_its_own is False:
        raise _wrong(path.name)
    if is_its_own is None:
        log.warning("nothing here tells under which key the database's patients are known; it is taken to be this one")
    return key


def rests_on_a_key(config: NodeConfig) -> bool:
    """Whether the patients of the configured database are known by a key.

    Raises:
        DeploymentError: the database can't be opened.
    """
    return _traces(config).are_there


def use(database: Database, key: bytes) -> None:
    """Bind a database that is up to date to a key, unless it is bound already.

    Raises:
        WrongKey: it is bound to another one.
    """
    with database.begin() as connection:
        stands = remember(connection, fingerprint(key))
    if not hmac.compare_digest(stands, fingerprint(key)):
        raise _wrong("pseudonym_key_file")


def fingerprint(key: bytes) -> str:
    """What a key is recognised by; tells nothing of it (HMAC-SHA-256, RFC 2104), 64 hexadecimal digits."""
    return hmac.digest(key, CONSTANT, "sha256").hex()


def _traces(config: NodeConfig) -> Traces:
    if is_missing(config.database):
        return Traces(None, False, ())
    with closing(open_database(config.database, read_only=True)) as database, database.read() as connection:
        return traces(connection)


def _is_of(found: Traces, key: bytes) -> bool | None:
    """Whether it is the key of a database; None: it shows no fingerprint, and no file of its patients is here."""
    if found.fingerprint is not None:
        return hmac.compare_digest(found.fingerprint, fingerprint(key))
    for patient_key, path in found.files:
        try:
            return read_header(Path(path), key).patient_key == patient_key
        except SeriesError:
            continue
    return None


def _wrong(name: str) -> WrongKey:
    return WrongKey(
        f"'{name}' holds another key of the pseudonyms than the database rests on, so each of its patients would become"
        " one more: restore the key from its copy; a node with another key needs an empty database"
    )
