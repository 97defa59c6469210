"""
Foreign peers for the tests: Orthanc and DCMTK's archive, in a network of their own.

Both listen to every network of the machine and can't be told not to, so they run in an empty network namespace that
only has a loopback; a test enters it for as long as it talks to them.
"""

import ctypes
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41
PLUGINS = Path("/usr/share/orthanc/plugins")


class Namespace:
    """A network with nothing but a loopback."""

    def __init__(self) -> None:
        """Make one; the test that needs it skips where that is not allowed."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if self._libc.unshare(CLONE_NEWNET):
            os.close(self._outside)
            pytest.skip("no network namespace can be made here, and Orthanc listens to every network")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
                fcntl.ioctl(door, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP_RUNNING))
            self._inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            self._enter(self._outside)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets, threads and processes that are made meanwhile are inside."""
        self._enter(self._inside)
        try:
            yield
        finally:
            self._enter(self._outside)

    def close(self) -> None:
        os.close(self._inside)
        os.close(self._outside)

    def _enter(self, place: int) -> None:
        if self._libc.setns(place, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


class Orthanc:
    """An Orthanc with its DICOMweb plug-in, started inside a namespace."""

    def __init__(self, folder: Path) -> None:
        self.dicom_port, self.http_port = free_port(), free_port()
        configuration = {
            "Name": "tests",
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "AuthenticationEnabled": False,
            "RemoteAccessAllowed": False,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomAlwaysAllowFind": True,
            "DicomCheckModalityHost": False,
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "OverwriteInstances": False,
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self._log = (folder / "orthanc.log").open("wb")
        self._process = subprocess.Popen(
            ["Orthanc", str(folder / "orthanc.json")],
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        wait_for_port(self.http_port, self._process)
        wait_for_port(self.dicom_port, self._process)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def rest(self, method: str, path: str, body: bytes | dict[str, Any] | list[Any] | None = None) -> Any:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data, method=method)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def add(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self.rest("POST", "/instances", path.read_bytes())

    def knows(self, ae_title: str, port: int) -> None:
        """From now on it finds an AE title at a port."""
        self.rest("PUT", f"/modalities/{ae_title.lower()}", [ae_title, "127.0.0.1", port])

    def clear(self) -> None:
        for patient in self.rest("GET", "/patients"):
            self.rest("DELETE", f"/patients/{patient}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


class Dcmqrscp:
    """DCMTK's archive, started inside a namespace."""

    def __init__(self, folder: Path, movers: dict[str, int]) -> None:
        self.port = free_port()
        storage = folder / "ARCHIVE"
        storage.mkdir()
        hosts = "\n".join(f"{name.lower()} = ({name}, 127.0.0.1, {port})" for name, port in movers.items())
        (folder / "dcmqrscp.cfg").write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nARCHIVE {storage} RW (500, 1024mb) ANY\nAETable END\n"
        )
        self._log = (folder / "dcmqrscp.log").open("wb")
        self._process = subprocess.Popen(
            ["dcmqrscp", "--config", str(folder / "dcmqrscp.cfg"), "-v"],
            stdout=self._log,
            stderr=self._log,
            cwd=folder,
            env={**os.environ, "TCP_NODELAY": "1"},
        )
        wait_for_port(self.port, self._process)

    def add(self, paths: Sequence[Path]) -> None:
        command = ["storescu", "-R", "-aec", "ARCHIVE", "127.0.0.1", str(self.port), *map(str, paths)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TCP_NODELAY": "1"})

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()


def need(*programs: str) -> None:
    """Skip where a foreign program is missing."""
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)} (.ci/tools installs them on Debian, as root)")
    if "Orthanc" in programs and not (PLUGINS / "libOrthancDicomWeb.so").exists():
        pytest.skip("not installed: Orthanc's DICOMweb plug-in (.ci/tools installs it on Debian, as root)")


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at port {port}")
