"""
Whether this machine can do the node's work, and what a person would have to do where it can't.

Looks, and changes nothing: no key, spool or database is made, none is brought up to date. What is told is all that a
report of a fault needs, and nothing of a patient.
"""

import errno
import os
import platform
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from db import overview
from db.connection import Database, is_missing, open_database, shown_url
from db.migrate import expected_version, schema_version
from dicom_node import reachable
from dicom_node.config import NodeConfig
from dicom_node.intake.options import ReceiverOptions
from dicom_node.intake.receiver import server_context
from dicom_node.pseudonyms import key_of_database, rests_on_a_key
from dicom_node.reachable import Finding
from dicom_node.spool import MIB, Spool
from engine.errors import DeploymentError
from engine.measurement.calibration import read_site_table
from engine.records import Program
from engine.runtime.backends import backend_statuses
from engine.runtime.manifest import find_package, open_package

PACKAGES = (
    *("trabecula", "numpy", "scipy", "pydicom", "pynetdicom", "highdicom", "imagecodecs"),
    *("sqlalchemy", "alembic", "openvino", "onnxruntime", "pillow"),
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TASKS = {Program.VERTEBRAL: ("spine_segmentation", "vertebral_bmd")}


class State(StrEnum):
    """How something stands."""

    OK = "ok"
    NOTE = "note"  # worth knowing, nothing to do
    WARN = "warn"  # it works, and a person should look at it: it is not safe so, or something was given up
    WRONG = "wrong"  # a person must act


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    subject: str
    state: State
    detail: str
    finding: Finding | None = None  # of a peer that was asked


def examine(config: NodeConfig, ask_peers: bool = False) -> Iterator[Check]:
    """Look at everything, in the order of the trip.

    Args:
        ask_peers: ask each destination and archive whether it is there, and offers what it is needed for.
    """
    looks: tuple[Callable[[NodeConfig], Iterator[Check]], ...] = (
        *(_python, _backends, _models, _calibration, _key, _spool, _front_door, _memory),
        lambda config: _peers(config, ask_peers),
    )
    for look in looks:
        yield from look(config)


def _python(config: NodeConfig) -> Iterator[Check]:
    yield Check("python", State.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        try:
            yield Check(f"package {name}", State.OK, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(f"package {name}", State.WRONG, "not installed")


def _backends(config: NodeConfig) -> Iterator[Check]:
    wanted = config.runtime.backend
    statuses = backend_statuses()
    for status in statuses:
        needed = wanted == status.name or not any(other.can_run for other in statuses)
        state = State.OK if status.can_run else State.WRONG if needed else State.NOTE
        yield Check(f"backend {status.name}", state, f"{status.version} {status.why_not}".strip())


def _models(config: NodeConfig) -> Iterator[Check]:
    folder = config.runtime.model_folder
    for path in sorted(folder.glob("*/manifest.toml")):
        try:
            manifest = open_package(path.parent).manifest
        except DeploymentError as bad:
            yield Check(f"model {path.parent.name}", State.WRONG, str(bad))
            continue
        kind = "reference only, not for diagnosis" if manifest.training_data.reference_only else "for use"
        about = f"{manifest.version}, {manifest.task}, {kind}, sha256 {manifest.sha256[:12]}... as it should be"
        yield Check(f"model {manifest.name}", State.OK, about)
    for task in (task for tasks in TASKS.values() for task in tasks):
        try:
            find_package(folder, task)
        except DeploymentError as bad:
            yield Check(f"model for {task}", State.WRONG, str(bad))


def _calibration(config: NodeConfig) -> Iterator[Check]:
    options = config.vertebral.calibration
    if not options.table:
        then = "withheld" if options.uncalibrated == "withhold" else "given, with a flag"
        unknown = f"no table; the network's density is {then}"
        yield Check("calibration", State.NOTE, unknown)
        return
    try:
        table = read_site_table(Path(options.table))
    except DeploymentError as bad:
        yield Check("calibration", State.WRONG, str(bad))
        return
    yield Check("calibration", State.OK, f"{len(table.calibrations)} entries, sha256 {table.sha256[:12]}...")


def _key(config: NodeConfig) -> Iterator[Check]:
    path = Path(config.pseudonym_key_file)
    try:
        if not path.exists() and not rests_on_a_key(config):
            yield Check("key of pseudonyms", State.NOTE, "not there yet; made at the first start")
            return
        key_of_database(config)
        mode = stat.S_IMODE(path.stat().st_mode)
    except (DeploymentError, OSError) as bad:
        yield Check("key of pseudonyms", State.WRONG, _words(bad))
        return
    if mode & 0o077:
        yield Check("key of pseudonyms", State.WRONG, f"others may read it (mode {mode:04o}); chmod 600 it")
    else:
        yield Check("key of pseudonyms", State.OK, f"mode {mode:04o}")


def _spool(config: NodeConfig) -> Iterator[Check]:
    folder = Path(config.spool.folder)
    if not folder.is_dir():
        above = next(parent for parent in folder.absolute().parents if parent.is_dir())
        can = os.access(above, os.W_OK | os.X_OK)
        told = "not there yet; made at the first start" if can else "not there, and this user can't make it"
        yield Check("spool", State.NOTE if can else State.WRONG, told)
        return
    try:
        with Spool(config.spool) as spool:
            free = spool.free_bytes() // MIB
    except DeploymentError as bad:
        yield Check("spool", State.WRONG, str(bad))
        return
    reserve = config.spool.reserve_mib
    told = f"writable; {free} MiB free, {reserve} MiB of it are the reserve"
    if free <= reserve:
        yield Check("spool", State.WRONG, f"nothing is taken in: {free} MiB free, {reserve} MiB are the reserve")
    else:
        yield Check("spool", State.OK, told)


def _front_door(config: NodeConfig) -> Iterator[Check]:
    options = config.receiver
    where = f"{options.host}, port {options.port}"
    yield Check("front door", *_listening(options.host, options.port, where))
    callers = ", ".join(options.calling_ae_titles) or "anybody"
    called = ", ".join(options.called_ae_titles) or f"{options.ae_title}, or any other"
    told = f"calls itself {options.ae_title}; may be called {called}; {callers} may send"
    yield Check("AE titles", State.OK, told)
    yield _who_may_connect(options)
    yield from _tls(options)


def _who_may_connect(options: ReceiverOptions) -> Check:
    if options.allowed_networks:
        return Check("allowed networks", State.OK, ", ".join(options.allowed_networks))
    if options.tls.client_authorities:
        return Check("allowed networks", State.OK, "any, with a certificate that is known here")
    if options.host in LOOPBACK:
        return Check("allowed networks", State.OK, "this machine alone, as it listens nowhere else")
    told = "none are given: any machine that gets here may send, as AE titles are no authentication"
    return Check("allowed networks", State.WARN, f"{told}; see 'receiver.allowed_networks'")


def _tls(receiver: ReceiverOptions) -> Iterator[Check]:
    options = receiver.tls
    if not options.certificate:
        state = State.NOTE if receiver.host in LOOPBACK else State.WARN
        yield Check("TLS", state, "off: patients' data can be read on the way; see 'receiver.tls'")
        return
    try:
        server_context(options)
    except DeploymentError as bad:
        yield Check("TLS", State.WRONG, str(bad))
        return
    clients = (
        "a client certificate is asked for" if options.client_authorities else "no client certificate is asked for"
    )
    exposed = Path(options.key).stat().st_mode & 0o077
    if exposed:
        yield Check("TLS", State.WRONG, "others can read the private key; chmod 600 it")
    else:
        yield Check("TLS", State.OK, f"on; {clients}")


def _listening(host: str, port: int, where: str) -> tuple[State, str]:
    """Whether the front door could open: tried, and closed at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
    except OSError as bad:
        if bad.errno == errno.EADDRINUSE:
            return State.NOTE, f"{where}: in use; by this node, if it is running"
        return State.WRONG, f"{where}: {bad.strerror}"
    return State.OK, f"{where}: free"


def _memory(config: NodeConfig) -> Iterator[Check]:
    url = config.database.url
    if is_missing(config.database):
        yield Check("database", State.NOTE, f"{shown_url(url)}: not there yet; made at the first start")
        return
    try:
        with closing(open_database(config.database)) as database:
            yield from _schema(database, shown_url(url), config)
    except DeploymentError as bad:
        yield Check("database", State.WRONG, str(bad))


def _schema(database: Database, shown: str, config: NodeConfig) -> Iterator[Check]:
    found, expected = schema_version(database), expected_version()
    if found is None:
        yield Check("database", State.NOTE, f"{shown}: no tables yet; made at the first start")
        return
    if found != expected:
        told = (
            f"{shown}: schema {found}, this program expects {expected}; the next start brings an older one up to date"
        )
        yield Check("database", State.WRONG, told)
        return
    yield Check("database", State.OK, f"{shown}: schema {found}, as expected")
    with database.read() as connection:
        counts = overview.counts(connection)
    known = {destination.name for destination in config.sender.destinations}
    for name, states in counts.destinations.items():
        waiting = states.get("ready", 0) + states.get("leased", 0)
        if waiting and name not in known:
            yield Check("outbox", State.WRONG, f"{waiting} objects wait for '{name}', which is no destination any more")
    dead = counts.jobs.get("dead", 0) + counts.outbox.get("dead", 0)
    if dead:
        yield Check("dead letters", State.WARN, f"{dead}; see 'trabecula status', then 'trabecula retry'")


def _peers(config: NodeConfig, ask: bool) -> Iterator[Check]:
    """Destinations of reports, and archives to be read."""
    if not config.sender.destinations:
        yield Check("destinations", State.NOTE, "none: reports stay on disk and are not sent")
    for called in (*reachable.destinations(config.sender), *reachable.archives(config.backfill)):
        if not ask:
            yield Check(called.name, State.OK, f"{called.where}; --echo asks whether it is there")
            continue
        finding, told = reachable.find(called)
        state = State.OK if finding is Finding.ANSWERS else State.WRONG
        yield Check(called.name, state, f"{called.where}: {told}", finding)


def _words(bad: Exception) -> str:
    return bad.strerror or type(bad).__name__ if isinstance(bad, OSError) else str(bad)
