"""
The same work as people usually do it, to be measured beside ours.

One series a call: SimpleITK reads and resamples it, the model is loaded, MONAI slides a window over the whole volume
with half a window's overlap, PyTorch computes eagerly in float32. Weights are ours, read from the packaged ONNX files;
what follows (names, cores, crops) is ours too, as the peers have no common way for it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from engine.anatomy.crops import crop_vertebrae
from engine.anatomy.levels import LevelOptions, name_levels
from engine.anatomy.trabecular import trabecular_core
from engine.records import SeriesRef, VertebralLevel
from engine.runtime.manifest import ModelManifest, ModelPackage
from engine.volume import CANONICAL, Geometry, Segmentation, TissueMap, Volume


def analyse(
    series: SeriesRef, spine: ModelPackage, density: ModelPackage, spacing_mm: float | None = None
) -> tuple[Segmentation, dict[VertebralLevel, float]]:
    """Vertebral bodies on the volume's grid and a density for each of them.

    Args:
        spacing_mm: isotropic, of the grid that is segmented; None: the one that the model was trained on.
    """
    import torch

    volume = read(series)
    step = spine.manifest.spacing_mm if spacing_mm is None else (spacing_mm,) * 3
    grid, hounsfield = resampled(volume, step)
    network = as_torch(spine)
    labels, body = segmented(hounsfield, network, spine.manifest)
    tissues = TissueMap(grid, labels, body, spine.manifest.labels)
    named = name_levels(tissues, volume.geometry, LevelOptions())
    cores = trabecular_core(named.bodies, 3.0)
    manifest = density.manifest
    crops = crop_vertebrae(volume, cores, manifest.tile, manifest.spacing_mm)
    regressor = as_torch(density)
    with torch.no_grad():
        answers = [regressor(torch.from_numpy(manifest.normalise(crop.hounsfield)[None, None])) for crop in crops]
    values = [float(answer) * manifest.output_scale + manifest.output_offset for answer in answers]
    return named.bodies, {crop.level: value for crop, value in zip(crops, values, strict=True)}


def read(series: SeriesRef) -> Volume:
    """By SimpleITK's reader of series."""
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageSeriesReader()
    folder = str(Path(series.instances[0].path).parent)
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
    image = sitk.DICOMOrient(reader.Execute(), "LPS")
    i, j, k = image.GetSize()
    di, dj, dk = image.GetSpacing()
    geometry = Geometry((k, j, i), (dk, dj, di), image.GetOrigin(), CANONICAL)
    return Volume(geometry, sitk.GetArrayFromImage(image).astype(np.int16), series.series_instance_uid, ())


def resampled(volume: Volume, step: tuple[float, ...]) -> tuple[Geometry, Any]:
    """By SimpleITK's linear interpolation."""
    import SimpleITK as sitk  # noqa: N813

    source = volume.geometry
    image = sitk.GetImageFromArray(volume.hounsfield.astype(np.float32))
    image.SetSpacing(source.spacing_mm[::-1])
    image.SetOrigin(source.origin_mm)
    shape = tuple(
        int(np.ceil(n * have / want)) for n, have, want in zip(source.shape, source.spacing_mm, step, strict=True)
    )
    grid = Geometry(shape, tuple(step), source.origin_mm, CANONICAL)
    out = sitk.Resample(image, shape[::-1], sitk.Transform(), sitk.sitkLinear, source.origin_mm, step[::-1],
                        image.GetDirection(), -1024.0, sitk.sitkFloat32)  # fmt: skip
    return grid, sitk.GetArrayFromImage(out)


def segmented(hounsfield: Any, network: Any, manifest: ModelManifest) -> tuple[Any, Any]:
    """By MONAI's sliding window over everything."""
    import torch
    from monai.inferers import sliding_window_inference

    image = torch.from_numpy(manifest.normalise(hounsfield)[None, None])
    with torch.no_grad():
        scores = sliding_window_inference(
            image, manifest.tile, 1, network, overlap=0.5, mode="gaussian", padding_mode="constant", cval=-1.0
        )
        labels = scores.argmax(dim=1)[0].to(torch.uint8).numpy()
        body = torch.softmax(scores[0], dim=0)[manifest.labels.index("vertebral_body")].numpy()
    return labels, body


def as_torch(package: ModelPackage) -> Any:
    """A packaged network as an eager torch module: one call of torch for each node of its graph."""
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load(str(package.weights)).graph
    constants = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    steps = [(node, {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}) for node in graph.node]

    def run(image: Any) -> Any:
        known = {**constants, graph.input[0].name: image}
        for node, attributes in steps:
            known[node.output[0]] = _step(node.op_type, attributes, [known[name] for name in node.input])
        return known[graph.output[0].name]

    return run


def _step(kind: str, at: dict[str, Any], x: list[Any]) -> Any:
    import torch
    from torch.nn import functional as f

    edges = at.get("pads", [0] * 6)[:3]
    match kind:
        case "Conv":
            return f.conv3d(x[0], x[1], x[2] if len(x) > 2 else None, at.get("strides", 1), edges)
        case "ConvTranspose":
            return f.conv_transpose3d(x[0], x[1], x[2] if len(x) > 2 else None, at["strides"])
        case "Relu":
            return f.relu(x[0])
        case "Add":
            return x[0] + x[1]
        case "Concat":
            return torch.cat(x, dim=at["axis"])
        case "BatchNormalization":
            return f.batch_norm(x[0], x[3], x[4], x[1], x[2], eps=at["epsilon"])
        case "AveragePool":
            return f.avg_pool3d(x[0], at["kernel_shape"], at["strides"])
        case "ReduceMean":
            return x[0].mean(dim=x[1].tolist() if len(x) > 1 else at["axes"], keepdim=bool(at["keepdims"]))
        case "Pad":
            before, after = x[1].tolist()[2:5], x[1].tolist()[7:10]  # of the axes in space; torch wants the last first
            ends = [end for pair in zip(reversed(before), reversed(after), strict=True) for end in pair]
            return f.pad(x[0], ends, mode={b"edge": "replicate", b"reflect": "reflect"}[at["mode"]])
        case "Gemm":
            return x[0] @ x[1].T + x[2]
    raise ValueError(f"the reference networks have no {kind}")
