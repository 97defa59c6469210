"""
From the spool to the registry: what was acknowledged becomes rows, many in one transaction.

The spool is the truth and the rows follow it. Instances are offered as they come; whatever keeps them from becoming
rows (a database that is down, a process that is killed), they are found again in the spool and registered later. What
can't become a row for a reason of its own is put aside with that reason, and never tried in a circle.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from db.connection import Database
from db.registry import Arrival, known_instances, known_paths, record_refusal, register_instances
from dicom_node.intake.inspection import read_content
from dicom_node.spool import Spool
from engine.digest import digest_of
from engine.errors import ScreeningError, UnreadableInstance
from engine.records import Reason

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegistrarOptions:
    """How instances are gathered into transactions."""

    most_together: int = 2000  # rows of one transaction
    gather_s: float = 1.0  # how long the first of them waits for more
    retry_s: float = 5.0  # pause while the database is out of order
    most_waiting: int = 20000  # held in memory meanwhile; further ones are found in the spool later

    def __post_init__(self) -> None:
        """Refuse numbers without meaning."""
        if min(self.most_together, self.most_waiting) < 1:
            raise ValueError("most_together and most_waiting must be 1 or more")
        if self.gather_s < 0 or self.retry_s <= 0:
            raise ValueError("gather_s can't be negative, and retry_s must be above 0")


class Registrar:
    """A thread that registers; started by `start` or `with`, ended by `stop`."""

    def __init__(
        self, database: Database, spool: Spool, pseudonym_key: bytes, options: RegistrarOptions | None = None
    ) -> None:
        """Hold what is needed; nothing runs yet."""
        self.caught_up = threading.Event()  # the spool as it was at the start is registered
        self._database = database
        self._spool = spool
        self._pseudonym_key = pseudonym_key
        self._options = options or RegistrarOptions()
        self._waiting: deque[Arrival] = deque()
        self._changed = threading.Condition()
        self._sweep_wanted = True
        self._refusals_wanted = True
        self._stopping = False
        self._unregistrable: set[str] = set()  # paths that failed alone; tried again by the next process
        self._thread = threading.Thread(target=self._run, name="registrar", daemon=True)

    def __enter__(self) -> "Registrar":
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Begin with what the spool holds and the registry doesn't know."""
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Register what waits, if the database answers, and end. What is left is found at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    @property
    def backlog(self) -> int:
        """Instances that were offered and are no rows yet."""
        return len(self._waiting)

    def offer(self, arrival: Arrival) -> None:
        """Register an instance soon. Returns at once; never fails."""
        with self._changed:
            waiting = len(self._waiting)
            if waiting < self._options.most_waiting:
                self._waiting.append(arrival)
            else:
                self._sweep_wanted = True
            if not 0 < waiting < self._options.most_together - 1:  # between these the thread would only look and wait
                self._changed.notify_all()

    def look_at_refusals(self) -> None:
        """The spool holds a new note of a refusal."""
        with self._changed:
            self._refusals_wanted = True
            self._changed.notify_all()

    def _run(self) -> None:
        while self._await_work():
            try:
                self._work()
            except ScreeningError as passing:
                log.error("instances wait in the spool: %s", passing)
                self._pause()
            except Exception:
                log.exception("instances wait in the spool")
                self._pause()

    def _await_work(self) -> bool:
        """Wait until there is something to do; False at the end."""
        with self._changed:
            while not (self._stopping or self._waiting or self._sweep_wanted or self._refusals_wanted):
                self._changed.wait()
            if not self._stopping and len(self._waiting) < self._options.most_together and not self._sweep_wanted:
                self._changed.wait_for(self._enough, self._options.gather_s)
            return not self._stopping or bool(self._waiting or self._refusals_wanted)

    def _enough(self) -> bool:
        return self._stopping or len(self._waiting) >= self._options.most_together

    def _pause(self) -> None:
        with self._changed:
            if self._stopping:  # the next start goes on from here
                self._waiting.clear()
                self._refusals_wanted = False
            self._changed.wait_for(lambda: self._stopping, self._options.retry_s)

    def _work(self) -> None:
        self._register_waiting()
        if self._refusals_wanted:
            self._refusals_wanted = False
            try:
                self._record_refusals()
            except BaseException:
                self._refusals_wanted = True
                raise
        if self._sweep_wanted and not self._stopping:
            self._sweep_wanted = False
            try:
                self._sweep()
            except BaseException:
                self._sweep_wanted = True
                raise

    def _register_waiting(self) -> None:
        """A transaction of what waits, and further ones while they would be full; a few that came since gather again.

        A transaction costs nearly the same for one instance as for many, and while it runs the door waits for its
        turns of the interpreter.
        """
        while True:
            with self._changed:
                batch = list(islice(self._waiting, self._options.most_together))
            if not batch:
                return
            self._register(batch)
            for _ in batch:  # only this thread takes from it, and only what is registered
                self._waiting.popleft()
            if not self._enough():
                return

    def _register(self, batch: Sequence[Arrival]) -> None:
        """One transaction; or, if that fails for no reason of the database's own, one for each."""
        try:
            self._register_together(batch)
        except ScreeningError:
            raise
        except Exception:
            log.exception("%d instances could not be registered together", len(batch))
            for arrival in batch:
                self._register_alone(arrival)

    def _register_together(self, batch: Sequence[Arrival]) -> None:
        with self._database.begin() as connection:
            registrations = register_instances(connection, batch)
        for arrival, registration in zip(batch, registrations, strict=True):
            if registration.reason is not None:  # its row of refusal stands already
                log.warning("put an instance aside: %s, %s", registration.reason, registration.detail)
                self._quarantine(Path(arrival.path))
        log.info("registered %d instances", sum(registration.is_new for registration in registrations))

    def _register_alone(self, arrival: Arrival) -> None:
        try:
            self._register_together([arrival])
        except ScreeningError:
            raise
        except Exception as bug:
            # Is it this instance, or the registry? If the latter, this raises and all of them wait.
            with self._database.begin() as connection:
                known_instances(connection, [arrival.header.sop_instance_uid])
                record_refusal(
                    connection,
                    Reason.HEADER_UNREADABLE,
                    f"the registry does not take it ({type(bug).__name__})",
                    subject=arrival.header.sop_instance_uid,
                )
            self._unregistrable.add(arrival.path)
            log.error("an instance stays in the spool unregistered: %s", bug)

    def _record_refusals(self) -> None:
        for notes in _chunks(self._spool.refusals(), self._options.most_together):
            with self._database.begin() as connection:
                for _, refusal in notes:
                    record_refusal(
                        connection, refusal.reason, refusal.detail, subject=refusal.subject, peer=refusal.peer
                    )
            for path, _ in notes:
                path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Register what the spool holds and the registry doesn't know; headers of the others are not read."""
        for paths in _chunks(self._spool.incoming(), self._options.most_together):
            self._register_waiting()  # what comes meanwhile does not wait for the end
            if self._stopping:
                return
            with self._database.read() as connection:
                known = known_paths(connection, map(str, paths))
            unknown = [path for path in paths if str(path) not in known and str(path) not in self._unregistrable]
            if arrivals := [arrival for path in unknown if (arrival := self._read(path)) is not None]:
                log.info("found %d instances in the spool that were not registered", len(arrivals))
                self._register(arrivals)
        self.caught_up.set()

    def _read(self, path: Path) -> Arrival | None:
        """A stored instance as it would be offered; None: it is gone, or was put aside with a reason."""
        try:
            content = path.read_bytes()
            _, header = read_content(content, self._pseudonym_key)
        except FileNotFoundError:
            return None
        except OSError as bad:
            log.error("an instance stays in the spool unregistered: %s", bad)
            self._unregistrable.add(str(path))
            return None
        except UnreadableInstance as bad:
            log.error("put an instance aside: %s", bad)
            with self._database.begin() as connection:
                record_refusal(connection, bad.reason, bad.message, subject=path.stem)
            self._quarantine(path)
            return None
        return Arrival(header, str(path), len(content), digest_of(content))

    def _quarantine(self, path: Path) -> None:
        if path.exists():
            self._spool.quarantine(path)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
