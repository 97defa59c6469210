"""
A sender that costs next to nothing, so that a receiver is what is measured: every PDU of every image is made
beforehand, and what is timed is sending bytes and waiting for answers.

    python -m bench.lean_sender PORT ASSOCIATIONS IMAGES [--raw | --per-image] [--rle]

Prints one JSON line. With --raw it speaks to `bench.raw_receiver`: a length, the bytes, one byte back.
"""

import argparse
import json
import os
import socket
import struct
import time
from multiprocessing import get_context
from threading import BrokenBarrierError
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid
from pynetdicom.dsutils import encode

from dicom_node.intake.commands import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    C_STORE_RQ,
    COMMAND_FIELD,
    DATA_SET_TYPE,
    MESSAGE_ID,
    data_pdus,
    write_command,
)

LONGEST_PDU = 131072
IMAGE_BYTES = 2 * 512 * 512


def image(series: str, study: str, number: int, syntax: str) -> tuple[str, bytes]:
    """SOP Instance UID and data set of a CT slice of 512 x 512 x 16 bit."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.Modality, made.PatientID, made.PatientName = "CT", "BENCH", "BENCH"
    made.Manufacturer, made.KVP, made.SliceThickness = "Trabecula", 120, 1.0
    made.ImageType, made.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], number + 1
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    made.Rows = made.Columns = 512
    made.PixelSpacing, made.RescaleIntercept, made.RescaleSlope = [0.7, 0.7], 0, 1
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 15, 1, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    coarse = 1 if syntax == ExplicitVRLittleEndian else 4  # RLE of noise would be larger than it; so it has about half
    noise = np.random.default_rng(number).integers(-1000, 1000, (512, 512 // coarse), dtype=np.int16)
    made.PixelData = np.repeat(noise, coarse, axis=1).tobytes()
    made["PixelData"].VR = "OW"
    if syntax != ExplicitVRLittleEndian:
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # so far
        made.compress(syntax, generate_instance_uid=False)
    return str(made.SOPInstanceUID), encode(made, is_implicit_vr=False, is_little_endian=True) or b""


def message(uid: str, data: bytes, number: int) -> bytes:
    """All PDUs of one C-STORE request."""
    elements = [
        (AFFECTED_SOP_CLASS_UID, _uid(CTImageStorage)),
        (COMMAND_FIELD, C_STORE_RQ.to_bytes(2, "little")),
        (MESSAGE_ID, (number % 0xFFFF + 1).to_bytes(2, "little")),
        (0x0700, b"\0\0"),
        (DATA_SET_TYPE, b"\1\0"),
        (AFFECTED_SOP_INSTANCE_UID, _uid(uid)),
    ]
    return data_pdus(1, write_command(elements), True, LONGEST_PDU) + data_pdus(1, data, False, LONGEST_PDU)


def associate(port: int, syntax: str, called: str) -> socket.socket:
    """An open association."""
    connection = _connect(port)
    context = b"\1\0\0\0" + _item(0x30, CTImageStorage.encode()) + _item(0x40, syntax.encode())
    user = _item(0x51, struct.pack(">I", LONGEST_PDU)) + _item(0x52, b"1.2.3.4")
    body = b"\0\1\0\0" + called.encode().ljust(16) + b"BENCH".ljust(16) + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, user)
    connection.sendall(struct.pack(">BxI", 1, len(body)) + body)
    kind, _ = read_pdu(connection)
    if kind != 2:
        raise SystemExit(f"the association was not accepted: PDU {kind}")
    return connection


def release(connection: socket.socket) -> None:
    """End an association in order."""
    connection.sendall(struct.pack(">BxIxxxx", 5, 4))
    read_pdu(connection)
    connection.close()


def read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    """Type and body."""
    kind, length = struct.unpack(">BxI", _read(connection, 6))
    return kind, _read(connection, length)


def status_of(body: bytes) -> int:
    """Of a C-STORE response: one item that holds a whole command set."""
    at = 6
    while at + 8 <= len(body):
        _, element, length = struct.unpack_from("<HHI", body, at)
        if element == 0x0900:
            return int.from_bytes(body[at + 8 : at + 8 + length], "little")
        at += 8 + length
    raise SystemExit("an answer has no status")


def send(port: int, messages: list[bytes], syntax: str, called: str, per_image: bool) -> None:
    """Store all of them; an answer that is no success ends the benchmark."""
    connection = None
    for one in messages:
        connection = connection or associate(port, syntax, called)
        connection.sendall(one)
        kind, body = read_pdu(connection)
        if kind != 4:
            raise SystemExit(f"an image was not stored: PDU {kind}")
        if status := status_of(body):
            raise SystemExit(f"an image was not stored: {status:04X}")
        if per_image:
            release(connection)
            connection = None
    if connection is not None:
        release(connection)


def send_raw(port: int, images: list[bytes]) -> None:
    """The same without DICOM."""
    connection = _connect(port)
    for one in images:
        connection.sendall(struct.pack(">Q", len(one)))
        connection.sendall(one)
        if _read(connection, 1) != b"x":
            raise SystemExit("an image was not stored")
    connection.close()


def _work(arguments: argparse.Namespace, number: int, ready: Any, start: Any, results: Any) -> None:
    try:
        images = _images(arguments, number)
    except BaseException:
        ready.abort()  # nobody waits for one that is gone
        raise
    messages = [data if arguments.raw else message(uid, data, n) for n, (uid, data) in enumerate(images)]
    size_bytes = sum(len(data) for _, data in images)
    ready.wait()
    start.wait()
    if arguments.raw:
        send_raw(arguments.port, messages)
    else:
        syntax = RLELossless if arguments.rle else ExplicitVRLittleEndian
        send(arguments.port, messages, syntax, arguments.called, arguments.per_image)
    results.put((time.monotonic(), len(messages), size_bytes))


def _images(arguments: argparse.Namespace, number: int) -> list[tuple[str, bytes]]:
    syntax = RLELossless if arguments.rle else ExplicitVRLittleEndian
    study, series = generate_uid(), generate_uid()
    count = arguments.images // arguments.associations
    images = [image(series, study, number * 10000 + n, syntax) for n in range(min(count, 24))]
    while len(images) < count:  # the same pixels under further UIDs of the same length, as making them costs time
        uid, data = images[len(images) % 24]
        other = f"{uid[:-12]}{int.from_bytes(os.urandom(6), 'big') % 10**12:012d}"
        images.append((other, data.replace(uid.encode(), other.encode(), 1)))
    return images


def touch_memory(size_bytes: int) -> None:
    """Use memory and give it back, so that what the receiver's disk cache takes next costs no fault in a host.

    A virtual machine may return free memory to its host at once, and pays for each page when it is used again: without
    this, several tenths of a millisecond an image to any receiver.
    """
    np.ones(size_bytes, np.uint8)


def main() -> None:
    """Send, and print how fast it went."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("port", type=int)
    arguments.add_argument("associations", type=int)
    arguments.add_argument("images", type=int)
    arguments.add_argument("--called", default="TRABECULA")
    arguments.add_argument("--raw", action="store_true")
    arguments.add_argument("--rle", action="store_true")
    arguments.add_argument("--per-image", action="store_true")
    asked = arguments.parse_args()
    context = get_context("fork")
    ready, start, results = context.Barrier(asked.associations + 1), context.Event(), context.Queue()
    workers = [context.Process(target=_work, args=(asked, n, ready, start, results)) for n in range(asked.associations)]
    for worker in workers:
        worker.start()
    try:
        ready.wait()
    except BrokenBarrierError:
        raise SystemExit("a sender failed") from None
    touch_memory(asked.images * IMAGE_BYTES * 3 // 2)
    began = time.monotonic()
    start.set()
    done: list[tuple[float, int, int]] = []
    while len(done) < len(workers):
        if any(worker.exitcode for worker in workers):
            raise SystemExit("a sender failed")
        if not results.empty():
            done.append(results.get())
        else:
            time.sleep(0.005)
    seconds = max(ended for ended, _, _ in done) - began
    count, size_bytes = sum(n for _, n, _ in done), sum(n for _, _, n in done)
    print(json.dumps({"images": count, "seconds": seconds, "images_per_s": count / seconds, "bytes": size_bytes}))


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise SystemExit("the receiver closed the connection")
        data += more
    return data


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _uid(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


if __name__ == "__main__":
    main()
