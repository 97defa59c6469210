"""Ports on the loopback interface, for servers that a benchmark or the demo starts."""

import socket
import subprocess
import time


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", timeout_s: float = 60) -> None:
    """Wait until a started process listens.

    Raises:
        SystemExit: it ended, or does not listen in time.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"a server ended at its start with exit status {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port} after {timeout_s:.0f} s")
