"""The landmark networks: a face of 128 x 128 pixels to 68 points.

Both take (N, 3, 128, 128) RGB pixels scaled to 0..1. They give points as parts of the crop's side,
0 at its left or upper edge, and how unsure each point is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from facesearch.faces.networks import fold_convolutions

POINTS = 68
"""Points of a face, in the order of iBUG's 300-W."""
SIDE = 128
"""Side of a crop, pixels."""
GRID = 32
"""Side of a heatmap, cells."""


def convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU; the output is as large as the input over the stride."""
    padding = (kernel - stride + 1) // 2
    layer = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
    return [layer, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]


class Plain(nn.Module):
    """Three convolutions to features of 32 x 32 x 64, and a regression to 136 values.

    The features are averaged over blocks of 4 x 4 before the regression, which else would have 9
    million weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *convolution(3, 16),
            nn.MaxPool2d(2),
            *convolution(16, 32),
            nn.MaxPool2d(2),
            *convolution(32, 64),
        )
        self.pool = nn.AvgPool2d(4)
        self.hidden = nn.Linear(64 * 8 * 8, 128)
        self.regression = nn.Linear(128, 2 * POINTS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points (N, 68, 2), and (N, 68) zeros: it does not know how unsure they are."""
        x = self.pool(self.features(x)).flatten(1)
        points = self.regression(torch.relu(self.hidden(x))).float() + 0.5
        return points.view(-1, POINTS, 2), points.new_zeros(len(points), POINTS)


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*convolution(width, width), *convolution(width, width)[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        return torch.relu(cast("Tensor", self.body(x)) + x)


class Heat(nn.Module):
    """A small residual network down to 4 x 4 and back up to a heatmap of 32 x 32 for each point.

    A point is its heatmap's expectation (Sun et al., "Integral Human Pose Regression", ECCV 2018),
    its uncertainty the heatmap's spread. The first layer goes to 32 x 32 at once: what a face of 38
    pixels between the outer eye corners shows beyond that is worth little, and costs most.
    """

    WIDTHS = (32, 64, 96, 96)
    """Channels at 32 x 32, 16 x 16, 8 x 8 and 4 x 4."""
    UP = 64
    """Channels on the way up."""

    def __init__(self) -> None:
        super().__init__()
        w = self.WIDTHS
        self.stem = nn.Sequential(*convolution(3, w[0], kernel=8, stride=4))
        self.downs = nn.ModuleList(
            nn.Sequential(*convolution(before, after, stride=2), Residual(after))
            for before, after in pairwise(w)
        )
        self.sides = nn.ModuleList(nn.Conv2d(width, self.UP, 1) for width in w)
        self.ups = nn.ModuleList(nn.Sequential(*convolution(self.UP, self.UP)) for _ in range(2))
        self.heat = nn.Conv2d(self.UP, POINTS, 1)
        self.register_buffer("cells", (torch.arange(GRID) + 0.5) / GRID, persistent=False)

    def heatmaps(self, x: Tensor) -> Tensor:
        """(N, 68, 32, 32) float32: logarithms of probabilities, but for a constant a point."""
        levels = [cast("Tensor", self.stem(x))]
        for down in self.downs:
            levels.append(down(levels[-1]))
        y = self.sides[3](levels[3])
        for up, n in zip(self.ups, (2, 1), strict=True):
            y = up(interpolate(y, scale_factor=2.0, mode="nearest") + self.sides[n](levels[n]))
        y = interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
        y = torch.relu(y + self.sides[0](levels[0]))
        return cast("Tensor", self.heat(y)).float()

    def located(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Points (N, 68, 2), and the standard deviation (N, 68) of each heatmap."""
        p = heatmaps.flatten(2).softmax(2).view_as(heatmaps)
        cells = cast("Tensor", self.cells).to(p.dtype)
        across, down = p.sum(2), p.sum(3)
        x, y = across @ cells, down @ cells
        variance = across @ cells**2 - x**2 + down @ cells**2 - y**2
        return torch.stack([x, y], 2), variance.clamp_min(0).sqrt()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points (N, 68, 2), and how unsure each is, (N, 68), all in sides of the crop."""
        return self.located(self.heatmaps(x))


OFFSET = "offset"
"""Name, in a weights file, of how far to the right of the network's points the labels lay that it
was trained on, in distances between the outer eye corners."""

NETWORKS: dict[str, type[Plain | Heat]] = {"heat": Heat, "plain": Plain}


def fold(network: Plain | Heat) -> None:
    """Fold every batch norm into the convolution before it, in place."""
    with torch.no_grad():
        fold_convolutions(network)
