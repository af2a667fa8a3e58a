"""The fast path on the CPU: a folded network rewritten for oneDNN, in float32 or bfloat16.

Figures are in docs/models.md. What makes it fast and keeps it accurate:

- SFace, depthwise convolutions and PReLU throughout, runs in oneDNN's own tensor layout from end to
  end: there both are several times as fast as in torch's layouts. IResNet's dense 3x3 convolutions
  gain nothing from it and stay in channels-last. So does YuNet: its ReLUs can be part of the
  convolutions before them there, and what lies between convolutions is faster.
- In bfloat16 biases stay float32: torch's ordinary convolution would round them.
- In bfloat16 each 3x3 filter is rounded so that its nine taps keep their sum. Neighbouring pixels
  of a face are nearly equal, so what a filter's rounding errors do is mostly their sum, which plain
  rounding leaves to chance. In SFace's first layers that cost the worst face 0.003 of cosine.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from facesearch.faces.networks import Network, SFace

_POINTWISE = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
"""A convolution followed by a function of each value; torch's compiler uses it, not all builds have
it."""


class Convolution(nn.Module):
    """A convolution with a float32 bias, whatever the type of weights and input.

    Args:
        layer: what it computes.
        dtype: float32 or bfloat16.
        opaque: its input will be in oneDNN's own layout.
        relu: negative output becomes 0.
    """

    def __init__(
        self, layer: nn.Conv2d, dtype: torch.dtype, *, opaque: bool, relu: bool = False
    ) -> None:
        super().__init__()
        self._relu = relu
        weight = round_keeping_sums(layer.weight, dtype)
        self.weight = (
            weight.to_mkldnn() if opaque else weight.contiguous(memory_format=torch.channels_last)
        )
        bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias
        self.bias = bias.to_mkldnn() if opaque else bias
        self.padding = cast("tuple[int, ...]", layer.padding)  # a string where it is "same"
        self.stride, self.dilation, self.groups = layer.stride, layer.dilation, layer.groups

    def forward(self, x: Tensor) -> Tensor:
        """Output in the type and layout of the input."""
        how = self.padding, self.stride, self.dilation, self.groups
        if not self._relu:
            return torch.mkldnn_convolution(x, self.weight, self.bias, *how)
        if _POINTWISE is not None:  # in one pass over memory
            return cast("Tensor", _POINTWISE(x, self.weight, self.bias, *how, "relu", [], ""))
        return torch.relu_(torch.mkldnn_convolution(x, self.weight, self.bias, *how))


class OpaquePReLU(nn.Module):
    """PReLU over tensors in oneDNN's own layout."""

    def __init__(self, layer: nn.PReLU, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = layer.weight.to(dtype).to_mkldnn()

    def forward(self, x: Tensor) -> Tensor:
        """Output in the type and layout of the input."""
        return torch.prelu(x, self.weight)


class OpaqueBody(nn.Module):
    """A body whose tensors are in oneDNN's own layout, between ordinary ones."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) to (N, C, 7, 7)."""
        return cast("Tensor", self.body(x.contiguous().to_mkldnn()).to_dense())


def to_onednn(network: Network, dtype: torch.dtype) -> None:
    """Rewrite a folded network, in place, to compute in `dtype` (float32, bfloat16) on the CPU."""
    opaque = isinstance(network, SFace)
    rewrite(network.body, dtype, opaque=opaque)
    if opaque:
        network.body = OpaqueBody(network.body)
    with torch.no_grad():
        network.fc.to(dtype)


def rewrite(body: nn.Module, dtype: torch.dtype, *, opaque: bool) -> None:
    """Rewrite the convolutions and PReLUs of a body, in place, for oneDNN.

    Args:
        body: without batch norms right after convolutions.
        dtype: float32 or bfloat16.
        opaque: its tensors will be in oneDNN's own layout.
    """
    with torch.no_grad():
        for module in list(body.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, nn.Conv2d):
                    setattr(module, name, Convolution(layer, dtype, opaque=opaque))
                elif isinstance(layer, nn.PReLU):
                    setattr(module, name, OpaquePReLU(layer, dtype) if opaque else layer.to(dtype))


def round_keeping_sums(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight` (out, in, h, w) in `dtype`, each h x w filter keeping its sum.

    The taps are rounded from the largest to the smallest, each taking over the error so far; what
    is left is half a unit in the last place of the smallest tap.
    """
    if weight.shape[2:] == (1, 1) or dtype == weight.dtype:
        return weight.to(dtype)
    taps = weight.flatten(2)
    order = taps.abs().argsort(dim=2, descending=True)
    pending = taps.gather(2, order)
    rounded = torch.empty_like(pending, dtype=dtype)
    carry = torch.zeros_like(pending[..., 0])
    for tap in range(pending.shape[2]):
        exact = pending[..., tap] + carry
        rounded[..., tap] = exact.to(dtype)
        carry = exact - rounded[..., tap].float()
    return torch.empty_like(rounded).scatter_(2, order, rounded).view_as(weight)
