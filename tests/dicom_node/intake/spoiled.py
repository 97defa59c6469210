"""Encoded instances spoiled in one way each."""


def cut_pixels(data: bytes) -> bytes:
    return data[:-100]


def cut_header(data: bytes) -> bytes:
    return data[:200]


def cut_value(data: bytes) -> bytes:
    return data[: data.index(b"ORIGINAL") + 4]


def garbage(data: bytes) -> bytes:
    return b"\xff\x00ZZMARK^PATIENT" * 500


def nothing(data: bytes) -> bytes:
    return b""


def claims_too_much(data: bytes) -> bytes:
    return data[:8] + b"\x10\x00\x10\x00UN\x00\x00\xff\xff\xff\x7fZZMARK" + data[8:]


def nested(data: bytes) -> bytes:
    return b"\x08\x00\x05\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 500 + data
