"""Makes the bundled SFace weights from OpenCV Zoo's ONNX file, reproducibly.

    python -m benchmarks.convert_models face_recognition_sface_2021dec_int8bq.onnx [OUTPUT]

The int8 blocks are kept as they are, with their scales and zero points; only names change. The
SHA-256 of the original goes into the file's metadata. Needs `onnx` (benchmarks/requirements.txt).
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from facesearch.faces.known_models import KNOWN
from facesearch.faces.numpy_sface import INT8, SCALE, ZERO
from facesearch.resources import shipped

Arrays = dict[str, NDArray[np.generic]]
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
NORM |= {"moving_var": "running_var"}


def convert(source: Path, target: Path) -> None:
    """Write `target` (safetensors) from `source` (ONNX)."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    sface = next(model for model in KNOWN if model.name == "sface")
    if digest != sface.sha256:
        sys.exit(f"{source} is not the file this script knows: its SHA-256 is {digest}")
    initializers = onnx.load(source).graph.initializer
    arrays = {item.name: numpy_helper.to_array(item) for item in initializers}
    found: Arrays = {}
    layers = ["conv_1", *(f"conv_{i}{dw}" for i in range(2, 15) for dw in ("_dw", ""))]
    for row, layer in enumerate(layers):
        found |= _quantised(arrays, f"{layer}_conv2d_weight", f"body.{3 * row}.weight")
        found |= _norm(arrays, f"{layer}_batchnorm", f"body.{3 * row + 1}")
        found[f"body.{3 * row + 2}.weight"] = arrays[f"{layer}_relu_gamma"].reshape(-1)
    found |= _norm(arrays, "bn1", "bn2") | _norm(arrays, "fc1", "features")
    found |= _quantised(arrays, "pre_fc1_weight", "fc.weight")
    found |= _quantised(arrays, "pre_fc1_bias", "fc.bias")
    metadata = {"upstream_sha256": digest}
    save_file({name: np.ascontiguousarray(a) for name, a in found.items()}, target, metadata)
    print(f"{target}: sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


def _quantised(arrays: Arrays, name: str, new: str) -> Arrays:
    """Blocks along the last axis: values in their final shape, a row of scales an output."""
    shape = tuple(arrays[f"{name}_shape"])
    scale, zero = arrays[f"{name}_scales"], arrays[f"{name}_zero_point"]
    if scale.ndim == 1:
        scale, zero = scale[None], zero[None]
    return {
        new + INT8: arrays[f"{name}_quantized"].reshape(shape),
        new + SCALE: scale,
        new + ZERO: zero,
    }


def _norm(arrays: Arrays, name: str, new: str) -> Arrays:
    return {f"{new}.{ours}": arrays[f"{name}_{theirs}"] for theirs, ours in NORM.items()}


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    default = shipped("models") / "face_recognition_sface_2021dec_int8bq.safetensors"
    convert(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else default)
