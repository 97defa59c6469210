"""
pynetdicom's own receiver in the fastest configuration that we know: any storage class without negotiation, PDUs of
128 KiB, no log handlers, the data set written as it came; and as durable as ours, or, with --quick, not at all.

    python -m bench.pynetdicom_receiver PORT FOLDER [--quick]
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config, evt


def main() -> None:
    """Serve until ended."""
    port, folder, durable = int(sys.argv[1]), sys.argv[2], "--quick" not in sys.argv
    _config.LOG_HANDLER_LEVEL = "none"
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    descriptor = os.open(folder, os.O_RDONLY)

    def keep(event: Any) -> int:
        name = f"{folder}/{event.request.AffectedSOPInstanceUID}"
        file = os.open(f"{name}.part", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(file, event.encoded_dataset())
        if durable:
            os.fdatasync(file)
        os.close(file)
        Path(f"{name}.part").rename(name)
        if durable:
            os.fsync(descriptor)
        return 0

    ae = AE(ae_title="TRABECULA")
    ae.maximum_pdu_size = 131072
    ae.maximum_associations = 64
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    threading.Event().wait()


if __name__ == "__main__":
    main()
