"""Which part of an embedding network is trained: a frozen beginning, and a trained end.

    adapter   a linear layer behind the network, first the identity; folded into its last layer
    head      the last layer
    last      the last block, and the head
    all       everything

What the frozen beginning makes of a face is computed once (`train.embedder`), so that an epoch of
`adapter`, `head` or `last` costs little.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from facesearch.faces.networks import Network, SFace

Part = Literal["adapter", "head", "last", "all"]
PARTS: tuple[str, ...] = get_args(Part)


class Frozen(nn.Module):
    """The beginning of a network: pixels to what the trained end takes. Not trained."""

    def __init__(self, network: Network, part: str) -> None:
        super().__init__()
        self.body = nn.Sequential(*_layers(network)[: _cut(network, part)])
        self.whole = network if part == "adapter" else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 112, 112) normalised pixels to (N, ...)."""
        return cast("Tensor", self.body(x) if self.whole is None else self.whole(x))


class Trained(nn.Module):
    """The end of a network: what `Frozen` made to embeddings (N, D)."""

    def __init__(self, network: Network, part: str) -> None:
        super().__init__()
        self.network = network
        self.part = part
        self.cut = _cut(network, part)
        self.adapter: nn.Linear | None = None
        if part == "adapter":
            dim = network.fc.out_features
            self.adapter = nn.Linear(dim, dim)
            with torch.no_grad():
                self.adapter.weight.copy_(torch.eye(dim))
                self.adapter.bias.zero_()

    def parameters_trained(self) -> list[nn.Parameter]:
        """The parameters of this part, and no others require a gradient."""
        self.network.requires_grad_(False)
        if self.adapter is not None:
            return list(self.adapter.parameters())
        found = [*self.network.bn2.parameters(), *self.network.fc.parameters()]
        found += self.network.features.parameters()
        for layer in _layers(self.network)[self.cut :]:
            found += layer.parameters()
        for parameter in found:
            parameter.requires_grad_(True)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to (N, D)."""
        if self.adapter is not None:
            return cast("Tensor", self.adapter(x))
        for layer in _layers(self.network)[self.cut :]:
            x = layer(x)
        return self.network.head(x)

    def finished(self) -> Network:
        """The network as trained, the adapter folded into its last layer."""
        if self.adapter is not None:
            _fold_adapter(self.network, self.adapter)
            self.adapter = None
        return self.network


def _layers(network: Network) -> list[nn.Module]:
    return list(network.body.children())


def _cut(network: Network, part: str) -> int:
    """Number of the first layer of the body that is trained."""
    layers = len(_layers(network))
    last = 6 if isinstance(network, SFace) else 1  # of SFace: two convolutions, norms and PReLUs
    return {"all": 0, "last": layers - last}.get(part, layers)


def _fold_adapter(network: Network, adapter: nn.Linear) -> None:
    """Make the linear layer and batch norm at the end do what the adapter does behind them."""
    norm = cast("nn.BatchNorm1d", network.features)
    with torch.no_grad():
        scale = norm.weight * torch.rsqrt(cast("Tensor", norm.running_var) + norm.eps)
        shift = (network.fc.bias - cast("Tensor", norm.running_mean)) * scale + norm.bias
        network.fc.weight.copy_(adapter.weight @ (network.fc.weight * scale[:, None]))
        network.fc.bias.copy_(adapter.weight @ shift + adapter.bias)
        norm.weight.fill_((1.0 + norm.eps) ** 0.5)
        norm.bias.zero_()
        cast("Tensor", norm.running_mean).zero_()
        cast("Tensor", norm.running_var).fill_(1.0)
