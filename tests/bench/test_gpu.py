"""The measurement of a GPU says when there is none, and its parts run on the CPU twins of what runs on one."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu, loader
from bench.report import RESULTS
from engine.errors import BackendUnavailable
from engine.runtime import device_memory
from engine.runtime.manifest import PACKAGED_MODELS, open_package
from engine.runtime.onnxruntime_session import OnnxRuntimeSession

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not device_memory.why_not(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_keeps_nothing():
    before = {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    ran = subprocess.run([sys.executable, "-m", "bench.gpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("BackendUnavailable: there is no GPU to measure on: ")
    assert {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()} == before


def test_decoding_and_resampling_are_compared_before_they_are_timed(tmp_path, monkeypatch):
    pytest.importorskip("nvidia.nvimgcodec")
    pytest.importorskip("nvidia.dali")
    monkeypatch.setattr(loader, "CACHE", tmp_path)
    found = gpu.measure_decoding(gpu.TWINS, 10, 1) | gpu.measure_resampling(gpu.TWINS, 10, 1)
    assert found["resample_difference_hounsfield"] <= 0.05
    assert min(found["ratio_decode_j2k"], found["ratio_decode_htj2k"], found["ratio_resample"]) > 0


def test_a_backend_that_is_not_there_is_told_and_no_other_takes_its_place():
    package = open_package(PACKAGED_MODELS / "vertebral-class-densenet")
    with pytest.raises(BackendUnavailable, match="CUDAExecutionProvider"):
        gpu.OnnxRuntimeCuda(package)
    with OnnxRuntimeSession(package, threads=1) as cpu, gpu._opened(package, "openvino") as session:
        found = gpu._one_network("class_openvino", session, cpu, 3, 1)
    assert found["apart_class_openvino"] < 1e-3
    assert found["precision_class_openvino"] == "f32"
    assert found["ratio_class_openvino"] > 0
