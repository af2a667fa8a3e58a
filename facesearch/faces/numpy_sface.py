"""SFace in numpy: a face or two embedded in less time than `import torch` takes.

A command that answers one photo would spend two seconds of CPU time on importing torch, to embed
its faces in milliseconds. This is the same network in float32 for that case alone: slower by the
face than torch, and ready at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from threadpoolctl import threadpool_limits

from facesearch.errors import ModelError
from facesearch.faces.known_models import Preprocessing
from facesearch.values import F32, Crops

INT8, SCALE, ZERO = ".int8", ".scale", ".zero"
"""Suffixes of a quantised tensor's parts: values, and one row of blocks for each output."""
BODY_EPS, HEAD_EPS = 1e-3, 2e-5
"""Of the batch norms, as in `networks.SFace`."""
HALVING = (3, 7, 11, 23)
"""Convolutions (0 is the first) of stride 2: the depthwise ones of blocks 2, 4, 6 and 12."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution with its batch norm folded in, and the PReLU after it.

    Attributes:
        weight: (kernel * kernel * before, after); (3, 3, channels) if depthwise.
        bias: (after,).
        slope: (after,), of the PReLU.
        stride: 1 or 2.
    """

    weight: F32
    bias: F32
    slope: F32
    stride: int

    def __call__(self, x: F32) -> F32:
        """(H, W, before) to (H / stride, W / stride, after)."""
        if self.weight.ndim == 3:
            y = np.einsum("hwcij,ijc->hwc", windows(x, self.stride), self.weight)
        elif len(self.weight) == x.shape[2]:
            y = x @ self.weight
        else:
            y = windows(x).transpose(0, 1, 3, 4, 2).reshape(*x.shape[:2], -1) @ self.weight
        y += self.bias
        return np.asarray(np.maximum(y, 0) + self.slope * np.minimum(y, 0))


class NumpySFace:
    """SFace in float32, a face at a time.

    Args:
        path: its `.safetensors` file, in int8 blocks as it ships or in floating point.
        preprocessing: what the weights expect of pixels.

    Raises:
        ModelError: the file is missing, damaged or not SFace's.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        try:
            state = _dense(load_file(path))
            self._layers = list(_body(state))
            self._before = affine(state, "bn2", HEAD_EPS)
            self._linear = state["fc.weight"], state["fc.bias"]
            self._after = affine(state, "features", HEAD_EPS)
        except FileNotFoundError as err:
            raise ModelError(f"{path}: no such weights file") from err
        except (SafetensorError, OSError, KeyError, ValueError) as err:
            raise ModelError(f"{path}: not readable as weights of sface ({err})") from err

    def __call__(self, crops: Crops) -> F32:
        """(N, D) embeddings, not of unit length, of (N, 112, 112, 3) uint8 BGR crops; N >= 1."""
        # matrices this small gain little from a second core, which then burns time waiting
        with threadpool_limits(1, "blas"):
            return np.stack([self._embed(crop) for crop in crops])

    def _embed(self, crop: NDArray[np.uint8]) -> F32:
        ordered = crop[..., ::-1] if self._preprocessing.order == "rgb" else crop
        x = (ordered.astype(np.float32) - self._preprocessing.mean) / self._preprocessing.scale
        for layer in self._layers:
            x = layer(x)
        scale, shift = self._before
        weight, bias = self._linear
        y = weight @ (x * scale + shift).transpose(2, 0, 1).ravel() + bias
        scale, shift = self._after
        return np.asarray(y * scale + shift)


def windows(x: F32, stride: int = 1) -> F32:
    """A view of the 3x3 neighbourhoods of (H, W, C), zeros beyond its edges: (h, w, C, 3, 3)."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))[::stride, ::stride]


def dequantise(values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any]) -> F32:
    """int8 blocks to float32: (value - zero) * scale, every row of scales covering one output.

    Follows https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html (blocked), bit for bit.

    Args:
        values: int8, of any shape.
        scale: (outputs, blocks) float32; as many equal blocks of values.
        zero: as `scale`, int8.
    """
    dense = values.reshape(*scale.shape, -1).astype(np.float32)
    dense -= zero[..., None]
    dense *= scale[..., None]
    return dense.reshape(values.shape)


def _dense(state: Mapping[str, NDArray[Any]]) -> dict[str, F32]:
    dense = {n: np.asarray(a, np.float32) for n, a in state.items() if not n.endswith(INT8)}
    for name in (n.removesuffix(INT8) for n in state if n.endswith(INT8)):
        dense[name] = dequantise(*(state[name + part] for part in (INT8, SCALE, ZERO)))
    return dense


def _body(state: Mapping[str, F32]) -> Iterator[Layer]:
    """The 27 convolutions: a 3x3 one, then depthwise 3x3 and 1x1 in turns."""
    for number in count():
        conv, norm, prelu = (f"body.{3 * number + part}" for part in range(3))
        if f"{conv}.weight" not in state:
            return
        scale, shift = affine(state, norm, BODY_EPS)
        weight = (state[f"{conv}.weight"] * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        depthwise = weight.shape[2] == 1
        weight = weight[:, :, 0] if depthwise else weight.reshape(-1, weight.shape[3])
        stride = 2 if number in HALVING else 1
        yield Layer(np.ascontiguousarray(weight), shift, state[f"{prelu}.weight"], stride)


def affine(state: Mapping[str, F32], norm: str, eps: float) -> tuple[F32, F32]:
    """A batch norm as scale and shift."""
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + np.float32(eps))
    return scale, state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
