"""
What the front door agrees on: services, SOP classes and transfer syntaxes. docs/conformance.md says the same, and a
test holds them together.
"""

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"  # push model
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"  # its well-known SOP instance

IMAGES = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture, and its multi-frame kinds: single bit, byte, word, true colour
    "1.2.840.10008.5.1.4.1.1.7.1",
    "1.2.840.10008.5.1.4.1.1.7.2",
    "1.2.840.10008.5.1.4.1.1.7.3",
    "1.2.840.10008.5.1.4.1.1.7.4",
    "1.2.840.10008.5.1.4.1.1.66.4",  # segmentation
)
DOCUMENTS = (
    "1.2.840.10008.5.1.4.1.1.88.11",  # basic text SR
    "1.2.840.10008.5.1.4.1.1.88.22",  # enhanced SR
    "1.2.840.10008.5.1.4.1.1.88.33",  # comprehensive SR
    "1.2.840.10008.5.1.4.1.1.88.34",  # comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.88.35",  # extensible SR
    "1.2.840.10008.5.1.4.1.1.88.67",  # X-ray radiation dose SR, which comes with many a CT
)
SOP_CLASSES = (*IMAGES, *DOCUMENTS)
"""What is taken. Only CT is read; the rest comes with CT studies and is set aside with a reason a person can query."""

TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",  # explicit VR little endian
    "1.2.840.10008.1.2",  # implicit VR little endian
    "1.2.840.10008.1.2.5",  # RLE
    "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  # JPEG lossless
    "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K lossless, RPCL
    "1.2.840.10008.1.2.4.92",  # JPEG 2000 part 2, lossless
    "1.2.840.10008.1.2.4.110",  # JPEG XL lossless
    "1.2.840.10008.1.2.1.98",  # encapsulated uncompressed
    "1.2.840.10008.1.2.2",  # explicit VR big endian, retired, but archives hold it
    "1.2.840.10008.1.2.4.50",  # from here on lossy: taken so that the series is known, then set aside
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.4.93",
    "1.2.840.10008.1.2.4.111",
    "1.2.840.10008.1.2.4.112",
)
"""The first that a sender offers too is agreed on."""

LITTLE_ENDIAN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
"""Of messages that are no storage: verification and storage commitment. Implicit VR, explicit VR."""

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Agreed on only where `receiver.accept_deflated` asks for it: a megabyte may unpack to any size."""


def transfer_syntaxes(accept_deflated: bool) -> list[str]:
    """What is on offer for storage."""
    return [*TRANSFER_SYNTAXES, DEFLATED] if accept_deflated else list(TRANSFER_SYNTAXES)
