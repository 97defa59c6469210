"""
The floor under a receiver: bytes from a socket into a file, synced, named, and the folder synced, without any DICOM.

    python -m bench.raw_receiver PORT FOLDER
"""

import os
import socket
import struct
import sys
import threading
from pathlib import Path


def serve(connection: socket.socket, folder: str, mark: str) -> None:
    """One thread a connection: length and bytes in, one byte back when they are durable."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer, head = memoryview(bytearray(1 << 20)), memoryview(bytearray(8))
    descriptor = os.open(folder, os.O_RDONLY)
    number = 0
    while _fill(connection, head):
        (length,) = struct.unpack(">Q", head)
        if not _fill(connection, buffer[:length]):
            break
        number += 1
        aside, final = f"{folder}/{mark}_{number}.part", f"{folder}/{mark}_{number}"
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(file, buffer[:length])
        os.fdatasync(file)
        os.close(file)
        Path(aside).rename(final)
        os.fsync(descriptor)
        connection.send(b"x")


def _fill(connection: socket.socket, view: memoryview) -> bool:
    have = 0
    while have < len(view):
        got = connection.recv_into(view[have:])
        if not got:
            return False
        have += got
    return True


def main() -> None:
    """Serve until ended."""
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    number = 0
    while True:
        connection, _ = listening.accept()
        number += 1
        threading.Thread(target=serve, args=(connection, sys.argv[2], str(number)), daemon=True).start()


if __name__ == "__main__":
    main()
