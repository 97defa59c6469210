"""
The one file that steers a node: every room's options gathered from one TOML, and the key of the pseudonyms.

Each table is the options of the room that it is named after, defined beside that room's code; nothing is defined here
twice. Relative paths are relative to the file, so that a node's folder can be moved.
"""

import os
import secrets
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from db.connection import DatabaseOptions
from dicom_node.backfill.options import Archive, BackfillOptions
from dicom_node.clearing import ClearingOptions
from dicom_node.intake.options import ReceiverOptions, TlsOptions
from dicom_node.intake.registrar import RegistrarOptions
from dicom_node.intake.studies import StudyOptions
from dicom_node.logs import LogOptions
from dicom_node.metrics import MetricsOptions
from dicom_node.report.options import ReportOptions
from dicom_node.sender.options import Destination, SenderOptions
from dicom_node.spool import SpoolOptions
from dicom_node.worker import WorkerOptions
from engine.errors import BadOption, DeploymentError
from engine.options import read_options
from engine.programs.vertebral_options import VertebralOptions
from engine.runtime.backends import RuntimeOptions
from engine.selection import SelectionOptions

_Peer = TypeVar("_Peer", Archive, Destination)

KEY_BYTES = 32  # of the pseudonyms' key: as long as the hash (RFC 2104, section 3)

ROUNDS_TO_BE_QUIET = 2
"""Rounds of registering without which a series counts as quiet. Our choice: what comes all the time is registered once
in a round, and the second one is for the time that registering takes."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """All options of a node; the defaults are a whole node on SQLite and CPU."""

    pseudonym_key_file: str = "pseudonym.key"  # made at the first start; who loses it can't link patients any more
    database: DatabaseOptions = field(default_factory=DatabaseOptions)
    spool: SpoolOptions = field(default_factory=SpoolOptions)
    receiver: ReceiverOptions = field(default_factory=ReceiverOptions)
    registrar: RegistrarOptions = field(default_factory=RegistrarOptions)
    studies: StudyOptions = field(default_factory=StudyOptions)
    selection: SelectionOptions = field(default_factory=SelectionOptions)
    vertebral: VertebralOptions = field(default_factory=VertebralOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    report: ReportOptions = field(default_factory=ReportOptions)
    sender: SenderOptions = field(default_factory=SenderOptions)
    clearing: ClearingOptions = field(default_factory=ClearingOptions)
    backfill: BackfillOptions = field(default_factory=BackfillOptions)
    logs: LogOptions = field(default_factory=LogOptions)
    metrics: MetricsOptions = field(default_factory=MetricsOptions)

    def __post_init__(self) -> None:
        """Refuse a missing name, and times of two tables that don't go together."""
        if not self.pseudonym_key_file:
            raise ValueError("pseudonym_key_file must name a file")
        least = ROUNDS_TO_BE_QUIET * self.registrar.gather_s
        if self.studies.quiet_s < least:
            raise ValueError(
                f"studies.quiet_s must be {least:g} or more, {ROUNDS_TO_BE_QUIET} times registrar.gather_s, not"
                f" {self.studies.quiet_s:g}: studies would be closed between two rounds of registering what still comes"
            )


def read_config(path: Path | None) -> NodeConfig:
    """Read a node's configuration; None: the defaults, in the current folder.

    Returns:
        With every path made absolute.

    Raises:
        BadOption: the file can't be read, is no TOML, or says what is not known; in one line.
    """
    if path is None:
        return _placed(NodeConfig(), Path.cwd())
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as bad:
        raise BadOption(f"the configuration file '{path.name}' can't be read: {bad.strerror}") from None
    except UnicodeDecodeError:
        raise BadOption(f"the configuration file '{path.name}' is no UTF-8 text") from None
    except tomllib.TOMLDecodeError as bad:
        raise BadOption(f"the configuration file '{path.name}' is no TOML: {bad}") from None
    return _placed(read_options(NodeConfig, table), path.absolute().parent)


def site_key(config: NodeConfig) -> bytes:
    """The key under which patient IDs become patient keys; made where there is none.

    It is never logged and never leaves its file: who has it can test whether a patient ID is in the database.

    Raises:
        DeploymentError: it can't be read or made, or is no key.
    """
    path = Path(config.pseudonym_key_file)
    try:
        if not path.exists():
            _make_key(path)
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as bad:
        raise DeploymentError(f"the key of the pseudonyms can't be read or made: {bad.strerror}") from None
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise DeploymentError(
            f"'{path.name}' is no key of pseudonyms: it must hold {2 * KEY_BYTES} hexadecimal digits; restore it, as"
            " with another key every patient becomes another one"
        )
    return key


def _make_key(path: Path) -> None:
    """Written aside, then linked: of processes that start at once one wins, and none reads half a key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _placed(config: NodeConfig, folder: Path) -> NodeConfig:
    """The same with each relative path below a folder."""

    def place(path: str) -> str:
        return str(folder / path) if path else ""

    url = config.database.url
    scheme, found, file = url.partition(":///")
    if scheme.startswith("sqlite") and found and file != ":memory:":
        url = f"{scheme}:///{place(file)}"
    of_peers = ("tls_authorities", "tls_certificate", "tls_key", "token_file")

    def placed(peer: _Peer, *names: str) -> _Peer:
        return replace(peer, **cast(dict[str, Any], {name: place(getattr(peer, name)) for name in names}))

    archives = tuple(placed(archive, *of_peers, "ca_file") for archive in config.backfill.archives)
    destinations = tuple(placed(destination, *of_peers) for destination in config.sender.destinations)
    return replace(
        config,
        sender=replace(config.sender, destinations=destinations),
        backfill=replace(config.backfill, archives=archives),
        pseudonym_key_file=place(config.pseudonym_key_file),
        database=replace(config.database, url=url),
        spool=replace(config.spool, folder=place(config.spool.folder)),
        vertebral=replace(
            config.vertebral,
            calibration=replace(config.vertebral.calibration, table=place(config.vertebral.calibration.table)),
        ),
        runtime=replace(config.runtime, models=place(config.runtime.models)),
        receiver=replace(
            config.receiver,
            tls=TlsOptions(*(place(getattr(config.receiver.tls, name)) for name in TlsOptions.__slots__)),
        ),
        logs=replace(config.logs, file=place(config.logs.file)),
    )
