"""The two embedding networks, and folding their batch norms away.

Both take (N, 3, 112, 112) normalised pixels and give (N, D) embeddings that are not yet of unit
length. Parameters carry no values until weights are loaded (`facesearch.faces.weights`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

HEAD_PIXELS = 7 * 7
"""A 112x112 crop leaves both networks' bodies as 7x7."""


class Network(nn.Module):
    """A convolutional body and the head both families share: batch norm, linear, batch norm.

    Attributes:
        body: crops to (N, channels, 7, 7).
        bn2: batch norm of the body's output.
        fc: linear layer over the output flattened in (C, H, W) order.
        features: batch norm of the embedding.
    """

    def __init__(self, channels: int, dim: int, eps: float) -> None:
        super().__init__()
        self.body: nn.Module = nn.Identity()
        self.bn2: nn.Module = nn.BatchNorm2d(channels, eps=eps)
        self.fc = nn.Linear(channels * HEAD_PIXELS, dim)
        self.features: nn.Module = nn.BatchNorm1d(dim, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) of normalised pixels (N, 3, 112, 112)."""
        return self.head(self.body(x))

    def head(self, x: Tensor) -> Tensor:
        """Embeddings (N, D) of the body's output (N, channels, 7, 7)."""
        return cast("Tensor", self.features(self.fc(self.bn2(x).flatten(1))))


class SFace(Network):
    """MobileFaceNet-like: a 3x3 convolution, then 13 depthwise-separable blocks. 128-d.

    Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", 2021;
    layers, widths and epsilons as in OpenCV Zoo's face_recognition_sface_2021dec.
    """

    WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    HALVING: tuple[int, ...] = (2, 4, 6, 12)
    """Blocks (1 is the first) whose depthwise convolution has stride 2."""
    STEM = 1
    """Stride of the first convolution."""
    EPS = 1e-3

    def __init__(self) -> None:
        super().__init__(self.WIDTHS[-1], 128, eps=2e-5)
        layers = self._layer(3, self.WIDTHS[0], kernel=3, stride=self.STEM)
        for block, (before, after) in enumerate(pairwise(self.WIDTHS), start=1):
            stride = 2 if block in self.HALVING else 1
            layers += self._layer(before, before, kernel=3, stride=stride, groups=before)
            layers += self._layer(before, after, kernel=1)
        self.body = nn.Sequential(*layers)

    @classmethod
    def _layer(
        cls, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> list[nn.Module]:
        convolution = nn.Conv2d(
            before, after, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        return [convolution, nn.BatchNorm2d(after, eps=cls.EPS), nn.PReLU(after)]


class Mobile(SFace):
    """SFace at a third of its width that halves the picture at once, to be trained on a CPU. 128-d.

    The early halving is MobileFaceNet's: Chen et al., "MobileFaceNets", 2018.
    """

    WIDTHS = (16, 32, 48, 48, 96, 96, 160, 160, 160, 160, 160, 160, 320, 320)
    HALVING = (4, 6, 12)
    STEM = 2


class Block(nn.Module):
    """The improved residual unit of ArcFace: norm, conv, norm, PReLU, conv, norm, plus shortcut.

    Args:
        before: input channels.
        after: output channels.
        stride: of the second convolution and the shortcut.
        projected: the shortcut is a 1x1 convolution; otherwise it only subsamples.
    """

    def __init__(self, before: int, after: int, stride: int, *, projected: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.prelu = nn.PReLU(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        if projected:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, H, W) to (N, after, H / stride, W / stride)."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return cast("Tensor", self.bn3(self.conv2(y)) + self.downsample(x))


class IResNet(Network):
    """IResNet, the backbone of ArcFace, AdaFace and their kin. 512-d.

    Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019; as in
    InsightFace's `arcface_torch/backbones/iresnet.py` and, with `projected_first=False`, AdaFace's
    `net.py`, which subsamples instead of projecting where the width stays the same.

    Args:
        blocks: residual units in each of the four stages.
        projected_first: the first stage's shortcut is a 1x1 convolution.
    """

    WIDTHS = (64, 128, 256, 512)

    def __init__(self, blocks: tuple[int, int, int, int], *, projected_first: bool) -> None:
        super().__init__(self.WIDTHS[-1], 512, eps=1e-5)
        layers: list[nn.Module] = [
            nn.Conv2d(3, self.WIDTHS[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(self.WIDTHS[0]),
            nn.PReLU(self.WIDTHS[0]),
        ]
        before = self.WIDTHS[0]
        for count, width in zip(blocks, self.WIDTHS, strict=True):
            layers.append(Block(before, width, 2, projected=projected_first or before != width))
            layers += [Block(width, width, 1, projected=False) for _ in range(count - 1)]
            before = width
        self.body = nn.Sequential(*layers)


IRESNET_BLOCKS = {"iresnet50": (3, 4, 14, 3), "iresnet100": (3, 13, 30, 3)}


def fold(network: Network) -> None:
    """Fold every batch norm that follows a convolution or the linear layer into it, in place.

    In both networks a batch norm declared right after a convolution is also applied right after it.
    IResNet's pre-activation norms stay: their shift cannot pass through zero padding.
    """
    with torch.no_grad():
        fold_convolutions(network.body)
        _fold_head(network)


def fold_convolutions(body: nn.Module) -> None:
    """Fold every batch norm declared right after a convolution into it, in place, no gradients."""
    for module in list(body.modules()):
        for (name, layer), (next_name, following) in pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, following))
                setattr(module, next_name, nn.Identity())


def _fold_head(network: Network) -> None:
    before, after = network.bn2, network.features
    if not isinstance(before, nn.BatchNorm2d) or not isinstance(after, nn.BatchNorm1d):
        return
    scale = before.weight * torch.rsqrt(cast("Tensor", before.running_var) + before.eps)
    shift = before.bias - cast("Tensor", before.running_mean) * scale
    weight = network.fc.weight.view(network.fc.out_features, -1, HEAD_PIXELS)
    network.fc.bias.copy_(network.fc.bias + weight.sum(2) @ shift)
    network.fc.weight.copy_((weight * scale[:, None]).flatten(1))
    network.fc = fuse_linear_bn_eval(network.fc, after)
    network.bn2, network.features = nn.Identity(), nn.Identity()
