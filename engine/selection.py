"""
Which series of a study serves a program, and why not the others.
"""

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202")

READABLE_TRANSFER_SYNTAXES = frozenset(
    {IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, RLE, *JPEG_LOSSLESS, JPEG_LS, JPEG_2000, *HTJ2K}
)
"""What the decoders of loading read; a test holds the two together."""

LOSSY_TRANSFER_SYNTAXES = frozenset(
    {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 52, 53, 54, 55, 56, 59, 60, 61, 62, 63, 64, 81, 91, 93, 203)}
    | {f"1.2.840.10008.1.2.4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108, 112)}
)
"""Those that may lose something (DICOM PS3.6 table A-1): most JPEG processes, near-lossless JPEG-LS,
JPEG 2000 and HTJ2K without the promise to be lossless, and video."""


def is_lossy(transfer_syntax_uid: str) -> bool:
    """Whether pixels in this transfer syntax may differ from the scanner's."""
    return transfer_syntax_uid in LOSSY_TRANSFER_SYNTAXES
