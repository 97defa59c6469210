"""Certificates for the tests, made by OpenSSL."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True)
class Papers:
    """Certificates and keys: of the node, of a client, and of a client that another authority vouches for."""

    folder: Path

    def of(self, who: str) -> tuple[str, str]:
        return str(self.folder / f"{who}.crt"), str(self.folder / f"{who}.key")

    @property
    def authority(self) -> str:
        return str(self.folder / "authority.crt")

    @property
    def stranger(self) -> str:
        """An authority that vouches for nobody here but the foreigner."""
        return str(self.folder / "stranger.crt")


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


def made_papers(folder: Path) -> Papers:
    """All of them, in a folder."""
    for authority in ("authority", "stranger"):
        openssl("req", "-x509", *NEW_KEY, "-nodes", "-days", 2, "-subj", f"/CN={authority}",
                "-keyout", folder / f"{authority}.key", "-out", folder / f"{authority}.crt")  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for who, by in (("node", "authority"), ("client", "authority"), ("foreigner", "stranger")):
        openssl("req", *NEW_KEY, "-nodes", "-subj", f"/CN={who}",
                "-keyout", folder / f"{who}.key", "-out", folder / f"{who}.csr")  # fmt: skip
        openssl("x509", "-req", "-in", folder / f"{who}.csr", "-CA", folder / f"{by}.crt", "-CAkey",
                folder / f"{by}.key", "-CAcreateserial", "-days", 2, "-extfile", folder / "names",
                "-out", folder / f"{who}.crt")  # fmt: skip
    return Papers(folder)
