"""
A small storage SCP that stands for the PACS: it keeps what the node sends back.

    python -m bench.pacs FOLDER PORT
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

SHORT = {
    Comprehensive3DSRStorage: "SR",
    ComprehensiveSRStorage: "SR",
    SegmentationStorage: "SEG",
    SecondaryCaptureImageStorage: "SC",
}


def keep(event: Any, folder: Path) -> int:
    """Write one received object; the same SOP Instance UID lands under the same name."""
    request = event.request
    kind = SHORT.get(request.AffectedSOPClassUID, "OTHER")
    name = hashlib.sha256(str(request.AffectedSOPInstanceUID).encode()).hexdigest()[:16]
    aside = folder / f".{kind}_{name}.part"
    aside.write_bytes(event.encoded_dataset())
    aside.rename(folder / f"{kind}_{name}.dcm")
    return 0x0000


def serve(folder: Path, port: int, ae_title: str = "PACS") -> Any:
    """Start listening on the loopback interface; returns the running server."""
    folder.mkdir(parents=True, exist_ok=True)
    ae = AE(ae_title=ae_title)
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(Verification)
    return ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep, [folder])])


def main() -> None:
    """Serve until the parent goes away."""
    server = serve(Path(sys.argv[1]), int(sys.argv[2]))
    print("listening", flush=True)
    try:
        while os.read(0, 4096):
            pass
    finally:
        server.shutdown()


if __name__ == "__main__":
    main()
