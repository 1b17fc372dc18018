"""ONNX files that take an image as it comes, H x W x 3 of RGB bytes, and need nothing but a runtime."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.cli.errors import DatasetError
from finetune.runs.answers import Answer

OPSET = 17
INPUT = "image"


def _numbers(count: Any) -> Tensor:
    """0, 1, ... below a number that is a tensor, which torch traces, though its types don't say so."""
    return torch.arange(count)


def linear_weights(before: Tensor, after: Tensor) -> Tensor:
    """after x before: OpenCV's INTER_LINEAR along one axis as a matrix; both are numbers of pixels, 0-dim."""
    scale = before.float() / after.float()
    place = ((_numbers(after)[:, None].float() + 0.5) * scale - 0.5).clamp(min=0)
    place = torch.minimum(place, before.float() - 1)
    return (1 - (place - _numbers(before)[None].float()).abs()).clamp(min=0)


def area_weights(before: Tensor, after: Tensor) -> Tensor:
    """after x before: OpenCV's INTER_AREA along one axis, each cell the mean of what it covers."""
    scale = before.float() / after.float()
    row, column = _numbers(after)[:, None].float(), _numbers(before)[None].float()
    shared = torch.minimum((row + 1) * scale, column + 1) - torch.maximum(row * scale, column)
    return shared.clamp(min=0) / scale


def antialiased_weights(before: Tensor, after: Tensor, rows: int) -> Tensor:
    """rows x before: Pillow's BILINEAR along one axis, which averages where it shrinks; nothing from ``after`` on."""
    scale = before.float() / after.float()
    row, column = _numbers(torch.tensor(rows))[:, None], _numbers(before)[None].float()
    apart = (column + 0.5 - (row.float() + 0.5) * scale).abs() / scale.clamp(min=1)
    weights = (1 - apart).clamp(min=0) * (row < after)
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-12)


def square(image: Tensor, size: int) -> Tensor:
    """H x W x 3 bytes as 1 x 3 x S x S of 0..255 in whole numbers: ``images.to_square`` as a graph."""
    height, width, _ = lengths(image)
    side = torch.tensor(size)
    shrinks = torch.minimum(height, width) > side
    rows, columns = (
        torch.where(shrinks, area_weights(length, side), linear_weights(length, side)) for length in (height, width)
    )
    return (rows @ image.float().permute(2, 0, 1) @ columns.T).round().clamp(0, 255)[None]


def enlarged(heat: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """h x w as H x W, by INTER_LINEAR."""
    rows, columns = lengths(heat)
    return linear_weights(rows, height) @ heat @ linear_weights(columns, width).T


def lengths(value: Tensor) -> tuple[Tensor, ...]:
    """The shape as tensors, which stay open in a traced graph, as whole numbers do not."""
    return torch._shape_as_tensor(value).unbind()


def write_image_onnx(graph: nn.Module, size: int, outputs: Sequence[str], to: Path, about: dict[str, Any]) -> Path:
    """Write ``graph``, of an image that it sees at ``size`` px; an output ``heat`` is as large as the image."""
    example = {INPUT: torch.zeros(size + 32, size + 48, 3, dtype=torch.uint8)}
    open_axes = {name: {0: "height", 1: "width"} for name in (INPUT, *outputs) if name in (INPUT, "heat")}
    return write_onnx(graph, example, outputs, open_axes, to, about)


def write_onnx(
    graph: nn.Module,
    example: Mapping[str, Tensor],
    outputs: Sequence[str],
    open_axes: Mapping[str, dict[int, str]],
    to: Path,
    about: dict[str, Any],
) -> Path:
    """Trace ``graph`` (tensors named as in ``example`` -> ``outputs``) and write it, with ``about`` as its metadata.

    ``open_axes`` are those of any length; metadata are JSON values. Raises DatasetError without the onnx library.
    """
    if find_spec("onnx") is None:
        raise DatasetError("onnx is not installed: pip install -e '.[export]'")
    import onnx

    to.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that are constant on purpose, and of the older exporter
        torch.onnx.export(
            graph.eval().cpu(),
            tuple(example.values()),
            str(to),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_axes=open_axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(to))
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.save(model, str(to))
    return to


def open_onnx(file: Path) -> Callable[..., dict[str, NDArray[Any]]]:
    """A function of arrays, given by the names of the file's inputs: its outputs by name; on the CPU, by onnxruntime.

    Raises DatasetError without that library.
    """
    if find_spec("onnxruntime") is None:
        raise DatasetError("onnxruntime is not installed: pip install -e '.[export]'")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(**inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run


def judge_of(file: Path, classes: int) -> Callable[[NDArray[np.uint8]], Answer]:
    """What an exported file says of whole images (H x W x 3, RGB): a score and, where it tells them, C of classes."""
    run, unnamed = open_onnx(file), np.full(classes, np.nan)

    def judge(image: NDArray[np.uint8]) -> Answer:
        found = run(**{INPUT: image})
        return Answer([float(found["score"]), *found.get("classes", unnamed).tolist()], [], found.get("heat"))

    return judge
