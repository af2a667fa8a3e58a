"""YuNet in torch, for bulk work: pictures of many threads looked at together.

The same weights as `yunet.YuNet` runs through OpenCV, and the same finds: in float32 to rounding.
In bfloat16, where the processor multiplies it natively, it takes a third of OpenCV's time for a
large picture (docs/decisions/0007). A small picture costs mostly the way into the library and back,
so those that several threads ask about at the same time go in together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from facesearch.errors import ModelError
from facesearch.faces import device as devices
from facesearch.faces.onednn import Convolution
from facesearch.faces.together import Together
from facesearch.faces.yunet import CANDIDATES, OVERLAP, sound
from facesearch.resources import shipped
from facesearch.values import F32, Pixels

WEIGHTS = "face_detection_yunet_2023mar.safetensors"
"""Made from `yunet.WEIGHTS` by `benchmarks/convert_yunet.py`."""
STRIDES = (8, 16, 32)
"""Spacing of the grids on which faces are predicted, pixels."""
PADDED = 32
"""A picture is padded, below and to the right, to a multiple of this."""
MOST_PIXELS = 2**20
"""Pictures computed together have no more pixels than this, or are one; more gain nothing."""
CLASS, BOX, OBJECT, LANDMARKS = 0, slice(1, 5), 5, slice(6, 16)
"""The 16 channels of the network's outputs."""


class Unit(nn.Module):
    """A 1x1 convolution, a depthwise 3x3 one and, unless it is an output, a ReLU."""

    def __init__(self, before: int, after: int, *, output: bool = False) -> None:
        super().__init__()
        self.pointwise: nn.Module = nn.Conv2d(before, after, 1)
        self.depthwise: nn.Module = nn.Conv2d(after, after, 3, padding=1, groups=after)
        self.activation: nn.Module = nn.Identity() if output else nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H, W)."""
        return cast("Tensor", self.activation(self.depthwise(self.pointwise(x))))


class YuNetNetwork(nn.Module):
    """YuNet's layers, batch norms folded in, the four heads of each grid side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first: nn.Module = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.activation: nn.Module = nn.ReLU(inplace=True)
        self.stem = Unit(16, 16)
        self.narrow = nn.Sequential(Unit(16, 16), Unit(16, 32), Unit(32, 32), Unit(32, 64))
        self.wide = nn.ModuleList(
            nn.Sequential(Unit(64, 64), Unit(64, 64)) for _ in range(len(STRIDES))
        )
        self.neck = nn.ModuleList(Unit(64, 64) for _ in STRIDES)
        self.heads = nn.ModuleList(Unit(64, 16, output=True) for _ in STRIDES)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) pixels, sides multiples of 32, to (N, 16, H / s, W / s) of each stride s."""
        x = halved(self.stem(self.activation(self.first(x))))
        x = self.narrow(x)
        levels = []
        for wide in self.wide:
            x = wide(halved(x))
            levels.append(x)
        x = self.neck[-1](levels[-1])
        outputs = [self.heads[-1](x)]
        for grid in range(len(STRIDES) - 2, -1, -1):
            doubled = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.neck[grid](levels[grid] + doubled)
            outputs.append(self.heads[grid](x))
        return outputs[::-1]


def halved(x: Tensor) -> Tensor:
    """The largest of every 2 x 2 values, none negative, (N, C, H, W) to (N, C, H / 2, W / 2).

    Six times as fast on the CPU as torch's pooling: where nothing is negative, floating-point
    numbers are in the order of their bits, and integers are compared many at a time.
    """
    whole = torch.int16 if x.itemsize == 2 else torch.int32
    bits = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).view(whole)
    n, height, width, channels = bits.shape
    rows = bits.view(n, height // 2, 2, width, channels)
    rows = torch.maximum(rows[:, :, 0], rows[:, :, 1])
    pairs = rows.view(n, height // 2, width // 2, 2, channels)
    return torch.maximum(pairs[:, :, :, 0], pairs[:, :, :, 1]).view(x.dtype).permute(0, 3, 1, 2)


def to_onednn(network: YuNetNetwork, dtype: torch.dtype) -> None:
    """Rewrite the network, in place, to compute in `dtype` (float32, bfloat16) on the CPU."""

    def rewritten(layer: nn.Module, *, relu: bool) -> Convolution:
        assert isinstance(layer, nn.Conv2d)
        return Convolution(layer, dtype, opaque=False, relu=relu)

    with torch.no_grad():
        network.first, network.activation = rewritten(network.first, relu=True), nn.Identity()
        for unit in [module for module in network.modules() if isinstance(module, Unit)]:
            relu = isinstance(unit.activation, nn.ReLU)
            unit.pointwise = rewritten(unit.pointwise, relu=False)
            unit.depthwise = rewritten(unit.depthwise, relu=relu)
            unit.activation = nn.Identity()


class TorchYuNet:
    """The network, loaded. `find` may be called from any number of threads.

    Args:
        score: least confidence of what is found, 0..1.
        device: where it computes.
        precision: "auto", or "fp32" to force float32.
        threads: pictures computed at the same time on the CPU, with a core each.

    Raises:
        ModelError: the weights are missing or damaged.
    """

    def __init__(
        self, score: float, device: torch.device, precision: str = "auto", threads: int = 1
    ) -> None:
        self._score = score
        self._device = device
        on_cpu = device.type == "cpu"
        self._dtype = devices.pick_dtype(device, precision) if on_cpu else torch.float32
        network = load()
        if on_cpu and devices.has_onednn():
            to_onednn(network, self._dtype)
        else:
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network
        self._together = Together(self._found, _padded_size, _fits, threads if on_cpu else 1)

    def find(self, pictures: Sequence[Pixels]) -> list[F32]:
        """The faces in each picture, as `yunet.YuNet.find` gives them."""
        return self._together(pictures)

    def _found(self, pictures: Sequence[Pixels]) -> list[F32]:
        """The faces in pictures of one padded size."""
        pixels = torch.from_numpy(_stacked(pictures))
        with torch.inference_mode():
            if self._device.type == "cuda":
                pixels = pixels.pin_memory().to(self._device, non_blocking=True)
            x = pixels.to(self._device).permute(0, 3, 1, 2).to(self._dtype)
            outputs = self._network(x)
            rows = _rows(outputs, self._score)
        return [_suppressed(rows[rows[:, 15] == i, :15], self._score) for i in range(len(pictures))]


def load() -> YuNetNetwork:
    """The network with its weights: fp32, on the CPU.

    Raises:
        ModelError: the weights are missing or damaged.
    """
    path = shipped("models") / WEIGHTS
    with torch.device("meta"):
        network = YuNetNetwork()
    try:
        network.load_state_dict(load_file(path), assign=True)
    except (SafetensorError, OSError, RuntimeError) as err:
        raise ModelError(f"{path}: not the detector that ships; reinstall facesearch") from err
    return network.eval().requires_grad_(requires_grad=False)


def _padded_size(picture: Pixels) -> tuple[int, int]:
    height, width = picture.shape[:2]
    return -(-height // PADDED) * PADDED, -(-width // PADDED) * PADDED


def _fits(size: tuple[int, int]) -> int:
    """How many pictures of a padded size are computed together."""
    return max(1, MOST_PIXELS // (size[0] * size[1]))


def _stacked(pictures: Sequence[Pixels]) -> NDArray[np.uint8]:
    """(N, H, W, 3) BGR of pictures of one padded size; what is added is black."""
    stacked = np.zeros((len(pictures), *_padded_size(pictures[0]), 3), np.uint8)
    for picture, padded in zip(pictures, stacked, strict=True):
        height, width = picture.shape[:2]
        padded[:height, :width] = picture
    return stacked


def _rows(outputs: Sequence[Tensor], score: float) -> F32:
    """(n, 16) finds of all grids: box x1 y1 x2 y2, landmarks, confidence, number of the picture."""
    cells = torch.cat([y.permute(0, 2, 3, 1).flatten(1, 2) for y in outputs], dim=1)
    sure = (cells[..., CLASS].float().sigmoid() * cells[..., OBJECT].float().sigmoid()).sqrt()
    picture, cell = (sure >= score).nonzero(as_tuple=True)
    values = cells[picture, cell].float().cpu().numpy()
    stride, at = _grid(tuple((y.shape[2], y.shape[3]) for y in outputs))
    cell_numbers = cell.cpu().numpy()
    stride, at = stride[cell_numbers], at[cell_numbers]
    middle = (values[:, 1:3] + at) * stride
    half = np.exp(values[:, 3:5]) * (stride / 2)
    points = (values[:, LANDMARKS].reshape(-1, 5, 2) + at[:, None]) * stride[:, None]
    confidence = sure[picture, cell].cpu().numpy()
    columns = [middle - half, middle + half, points.reshape(-1, 10), confidence[:, None]]
    return np.concatenate([*columns, picture.cpu().numpy()[:, None]], axis=1, dtype=np.float32)


@lru_cache(maxsize=64)
def _grid(sizes: tuple[tuple[int, int], ...]) -> tuple[F32, F32]:
    """Of all cells of grids of (height, width), finest first: (n, 1) stride, (n, 2) column, row."""
    places = [np.indices(size, np.float32)[::-1].reshape(2, -1).T for size in sizes]
    strides = np.repeat(STRIDES, [len(one) for one in places]).astype(np.float32)
    return strides[:, None], np.concatenate(places)


def _suppressed(rows: F32, score: float) -> F32:
    """(N, 15) finds of a picture without those that overlap a better one, best first."""
    if len(rows) > 1:
        boxes = rows[:, :4].astype(np.int32)  # as OpenCV does: whole pixels
        sides = (rows[:, 2:4] - rows[:, :2]).astype(np.int32)
        whole = np.concatenate([boxes[:, :2], sides], axis=1).tolist()
        kept = cv2.dnn.NMSBoxes(
            whole, rows[:, 14].tolist(), score, OVERLAP, eta=1.0, top_k=CANDIDATES
        )
        rows = rows[np.asarray(kept, np.intp)]
    return rows[sound(rows)]
