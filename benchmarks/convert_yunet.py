"""Makes YuNet's weights for torch from the ONNX file that ships, reproducibly.

    python -m benchmarks.convert_yunet [OUTPUT]

The int8 blocks are dequantised to float32, as ONNX's DequantizeLinear defines it; the four heads of
each grid are put side by side, as `torch_yunet.YuNetNetwork` has them. Needs `onnx`.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from facesearch.faces import torch_yunet, yunet
from facesearch.faces.numpy_sface import dequantise
from facesearch.resources import shipped

Arrays = dict[str, NDArray[Any]]
BODY = [
    "stem",
    *(f"narrow.{i}" for i in range(4)),
    *(f"wide.{level}.{i}" for level in range(3) for i in range(2)),
    *(f"neck.{level}" for level in (2, 1, 0)),
]
"""The network's units after its first convolution, in the order of the file."""
HEADS, GRIDS = 4, 3
"""class, box, object, landmarks: each for all grids in turn."""


def convert(source: Path, target: Path) -> None:
    """Write `target` (safetensors) from `source` (ONNX)."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != yunet.SHA256:
        sys.exit(f"{source} is not the file this script knows: its SHA-256 is {digest}")
    layers = _convolutions(onnx.load(source))
    found: Arrays = {}
    _put(found, "first", [layers.pop(0)])
    for unit in BODY:
        _put(found, f"{unit}.pointwise", [layers.pop(0)])
        _put(found, f"{unit}.depthwise", [layers.pop(0)])
    for grid in range(GRIDS):
        pairs = [layers[2 * (GRIDS * head + grid) :][:2] for head in range(HEADS)]
        _put(found, f"heads.{grid}.pointwise", [pair[0] for pair in pairs])
        _put(found, f"heads.{grid}.depthwise", [pair[1] for pair in pairs])
    save_file(found, target, {"upstream_sha256": digest})
    print(f"{target}: sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


def _convolutions(model: Any) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """(weight, bias) of every convolution, in order."""
    values: Arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            blocks, scale, zero = (values[name] for name in node.input)
            dense = dequantise(blocks, np.atleast_2d(scale), np.atleast_2d(zero))
            values[node.output[0]] = dense
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]].reshape(values[node.input[1]])
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [(values[node.input[1]], values[node.input[2]]) for node in convolutions]


def _put(found: Arrays, name: str, parts: list[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    for suffix, arrays in zip(("weight", "bias"), zip(*parts, strict=True), strict=True):
        found[f"{name}.{suffix}"] = np.ascontiguousarray(np.concatenate(arrays), np.float32)


if __name__ == "__main__":
    folder = shipped("models")
    default = folder / torch_yunet.WEIGHTS
    convert(folder / yunet.WEIGHTS, Path(sys.argv[1]) if len(sys.argv) == 2 else default)
