"""What training of the landmark networks makes small."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WIDTH, CURVATURE = 8.0, 1.5
"""Of the wing, in pixels of the crop (outer eye corners are 38 apart)."""
SPREAD = 1.0
"""Standard deviation of the heatmap that is aimed at, cells."""
HEAT = 1.0
"""Weight of the heatmaps' loss beside the points'."""


def wing(difference: Tensor, width: float = WIDTH, curvature: float = CURVATURE) -> Tensor:
    """Wing loss of each difference: logarithmic below `width`, and linear above.

    Small and medium errors, of which there are many, weigh more than with a quadratic or linear
    loss. Feng et al., "Wing Loss for Robust Facial Landmark Localisation with Convolutional Neural
    Networks", CVPR 2018.

    Args:
        difference: any shape.
        width: where it becomes linear.
        curvature: the less, the steeper at zero.
    """
    off = difference.abs()
    above = width - width * math.log1p(width / curvature)
    return torch.where(off < width, width * torch.log1p(off / curvature), off - above)


def cross_entropy(heatmaps: Tensor, points: Tensor, cells: Tensor) -> Tensor:
    """Between heatmaps and the normal distribution around each point, less what cannot be had.

    Args:
        heatmaps: (N, K, G, G) logarithms of probabilities, but for a constant each.
        points: (N, K, 2) parts of the side.
        cells: (G,) middles of the cells, parts of the side.

    Returns:
        (N, K): the Kullback-Leibler divergence; a point outside counts at the nearest cell.
    """
    width = SPREAD / len(cells)
    inside = points.clamp(float(cells[0]), float(cells[-1]))
    near = torch.exp(-(((cells - inside[..., None]) / width) ** 2) / 2)
    near = near / near.sum(-1, keepdim=True)
    target = near[:, :, 1, :, None] * near[:, :, 0, None, :]
    logs = heatmaps.flatten(2).log_softmax(2).view_as(heatmaps)
    return (target * (target.clamp_min(1e-12).log() - logs)).sum((2, 3))
