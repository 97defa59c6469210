"""Peers that do not answer: at all, or from some moment on."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from .patience import SOON


class StallingWay:
    """A way to a server, over which nothing more comes back once something was asked for, and so many bytes came.

    If several things stall, it is reached when all of them do.
    """

    def __init__(self, server_port: int, asked: Sequence[bytes], bytes_first: int) -> None:
        self.reached, self.over, self.was_left = Event(), Event(), Event()
        self._server_port = server_port
        self._not_asked = set(asked)
        self._asked = tuple(asked)
        self._bytes_first = bytes_first
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        Thread(target=self._take, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._door.close()

    def _take(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                stalls = Event()
                Thread(target=self._ask, args=(client, server, stalls), daemon=True).start()
                Thread(target=self._answer, args=(client, server, stalls), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, stalls: Event) -> None:
        with suppress(OSError):
            while asked := client.recv(65536):
                stalling = {each for each in self._asked if each in asked}
                if stalling and not self.over.is_set():
                    self._not_asked -= stalling
                    stalls.set()
                server.sendall(asked)
        if stalls.is_set():
            self.was_left.set()
        end(server)

    def _answer(self, client: socket.socket, server: socket.socket, stalls: Event) -> None:
        with suppress(OSError):
            while answer := server.recv(65536):
                if stalls.is_set() and not self.over.is_set():
                    client.sendall(answer[: self._bytes_first])
                    if not self._not_asked:
                        self.reached.set()
                    self.over.wait(SOON)
                    break
                client.sendall(answer)
        end(client)
        end(server)


def end(connection: socket.socket) -> None:
    """Also for who reads from it in another thread."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def full_door() -> Iterator[int]:
    """The port of one who listens, and takes no more connections: whoever asks for one waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as door, ExitStack() as before:
        port = int(door.getsockname()[1])
        with suppress(TimeoutError):
            while True:
                before.enter_context(socket.create_connection(("127.0.0.1", port), 0.2))
        yield port


@contextmanager
def mute_door() -> Iterator[int]:
    """The port of one who takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield int(door.getsockname()[1])


def is_waited_for(port: int, state: str) -> bool:
    """Whether a connection of this machine to a port is in a state of Linux's: "01" stands, "02" is asked for."""
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(int(there.rpartition(":")[2], 16) == port and now == state for _, _, there, now, *_ in rows)
