"""A stream that crashes a decoder, hangs it or makes it take memory sets its own series aside; the next one goes on."""

import os
import signal
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.pixels.encoders import RLELosslessEncoder

from engine.errors import BackendUnavailable, SeriesError
from engine.loading.decode import decode_raw
from engine.loading.isolation import Decoders, Isolation, IsolationOptions
from engine.loading.load import LoadingOptions, load
from engine.records import Reason
from engine.selection import EXPLICIT_LITTLE_ENDIAN, JPEG_LS, RLE

OPTIONS = LoadingOptions(threads=2)
ONE_THREAD = LoadingOptions(threads=1)  # needs one process at most
ILL = 11  # rows of a series whose streams do harm


def crash(stream, form, room):
    if form.rows == ILL:
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode_raw(stream, form, room)


def hang(stream, form, room):
    if form.rows == ILL:
        threading.Event().wait()
    return decode_raw(stream, form, room)


def take_memory(stream, form, room):
    if form.rows == ILL:
        np.ones(2**28)  # 2 GiB
    return decode_raw(stream, form, room)


def answer_nonsense(stream, form, room):
    return (np.zeros((form.rows, form.columns)), 99) if form.rows == ILL else decode_raw(stream, form, room)


def crash_once(stream, form, room):
    mark = Path(os.environ["CRASHED_ONCE"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_raw(stream, form, room)


@pytest.fixture
def coded(ct, tmp_path):
    """A series of so many rows, in JPEG-LS, and its HU."""

    def write(rows):
        (tmp_path / str(rows)).mkdir()
        folder = type(ct)(tmp_path / str(rows))
        folder.write(12, rows=rows, transfer_syntax_uid=JPEG_LS[0], encode=imagecodecs.jpegls_encode)
        return folder.series(), np.stack([expected(k, rows) for k in range(12)])

    return write


def expected(k, rows):
    j, i = np.mgrid[:rows, :9]
    return 1000 + 100 * k + 7 * j + i - 1024


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (crash, "the decoder crashed (SIGSEGV)"),
        (hang, "the decoder took too long"),
        (take_memory, "the decoder gave up with MemoryError"),
        (answer_nonsense, "the decoder answered nonsense"),
    ],
)
def test_what_a_stream_does_to_its_decoder_takes_its_own_series_only(coded, decoder, words):
    (ill, _), (good, hounsfield) = coded(ILL), coded(10)
    limits = IsolationOptions(memory_mib=256, limit_s=1.0)
    with Decoders(limits, decoder) as decoders:
        assert np.array_equal(load(good, OPTIONS, decoders).hounsfield, hounsfield)
        with pytest.raises(SeriesError) as caught:
            load(ill, OPTIONS, decoders)
        assert (caught.value.reason, caught.value.message) == (Reason.PIXELS_UNREADABLE, words)
        assert np.array_equal(load(good, OPTIONS, decoders).hounsfield, hounsfield)


def test_a_process_that_somebody_else_ended_is_started_again(coded, tmp_path, monkeypatch):
    monkeypatch.setenv("CRASHED_ONCE", str(tmp_path / "crashed"))
    series, hounsfield = coded(10)
    with Decoders(IsolationOptions(), crash_once) as decoders:
        assert np.array_equal(load(series, ONE_THREAD, decoders).hounsfield, hounsfield)
        assert (tmp_path / "crashed").exists()
        (before,) = decoders.pids
        os.kill(before, signal.SIGKILL)  # while it waits
        assert np.array_equal(load(series, ONE_THREAD, decoders).hounsfield, hounsfield)
        (after,) = decoders.pids
        assert after != before
    with pytest.raises(ProcessLookupError):
        os.kill(after, 0)


def test_a_damaged_stream_is_refused_in_the_same_words_wherever_it_is_decoded(ct):
    paths = ct.write(12, transfer_syntax_uid=JPEG_LS[0], encode=imagecodecs.jpegls_encode)
    series, content = ct.series(), paths[3].read_bytes()
    paths[3].write_bytes(content.replace(b"\xff\xda", b"\xff\xdb"))
    said = set()
    for isolate in (Isolation.NEVER, Isolation.CODECS):
        with pytest.raises(SeriesError) as caught:
            load(series, LoadingOptions(isolation=IsolationOptions(isolate)))
        said.add((caught.value.reason, caught.value.message))
    assert len(said) == 1


@pytest.mark.parametrize(
    ("syntax", "isolate", "processes"),
    [(EXPLICIT_LITTLE_ENDIAN, "always", 0), (RLE, "codecs", 0), (RLE, "always", 1), (JPEG_LS[0], "never", 0)],
)
def test_what_is_trusted_needs_no_process(ct, syntax, isolate, processes):
    def rle(values):
        return RLELosslessEncoder.encode(
            values, rows=10, columns=9, number_of_frames=1, samples_per_pixel=1, bits_allocated=16, bits_stored=12,
            pixel_representation=0, photometric_interpretation="MONOCHROME2", encoding_plugin="pydicom",
        )  # fmt: skip

    encode = {EXPLICIT_LITTLE_ENDIAN: None, RLE: rle, JPEG_LS[0]: imagecodecs.jpegls_encode}[syntax]
    ct.write(12, transfer_syntax_uid=syntax, encode=encode)
    with Decoders(IsolationOptions(Isolation(isolate))) as decoders:
        volume = load(ct.series(), ONE_THREAD, decoders)
        assert len(decoders.pids) == processes
    assert np.array_equal(volume.hounsfield[5], expected(5, 10))


def no_function_of_ours(stream, form, room):
    raise NotImplementedError


def test_a_process_that_can_t_start_is_the_machine_s_fault(coded):
    series, _ = coded(10)
    no_function_of_ours.__module__ = "no_module_of_ours"
    with Decoders(IsolationOptions(), no_function_of_ours) as decoders, pytest.raises(BackendUnavailable):
        load(series, OPTIONS, decoders)


@pytest.mark.parametrize("values", [{"memory_mib": 1}, {"limit_s": 0.0}])
def test_limits_without_meaning_are_refused(values):
    with pytest.raises(ValueError, match="memory_mib"):
        IsolationOptions(**values)
