"""Boxes that overlap: x1 y1 x2 y2, in whatever unit both are in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def shared(boxes: NDArray[np.floating], box: NDArray[np.floating]) -> tuple[F64, F64]:
    """(N,) areas of the intersection and of the union of each of (N, 4) boxes with a (4,) box."""
    boxes, box = boxes.astype(np.float64), box.astype(np.float64)
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return common, areas + np.prod(box[2:] - box[:2]) - common


def overlap(boxes: NDArray[np.floating], box: NDArray[np.floating]) -> F64:
    """(N,) intersection over union of each of (N, 4) boxes with a (4,) box."""
    common, union = shared(boxes, box)
    return np.asarray(common / np.maximum(union, 1e-9))
