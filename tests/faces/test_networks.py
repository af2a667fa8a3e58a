"""The networks: sizes as published, folding and the oneDNN rewriting keep what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from facesearch.faces.device import has_onednn
from facesearch.faces.networks import IRESNET_BLOCKS, IResNet, Network, SFace, fold
from facesearch.faces.onednn import round_keeping_sums, to_onednn


def randomised(network: Network) -> Network:
    """Every parameter and statistic drawn so that activations stay near one."""
    generator = torch.Generator().manual_seed(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert isinstance(module.running_mean, Tensor)
            assert isinstance(module.running_var, Tensor)
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.uniform_(low, high, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, fan_in**-0.5, generator=generator)
    return network.eval().requires_grad_(requires_grad=False)


def pixels(count: int) -> Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize(
    ("architecture", "millions"), [("iresnet50", 43.59), ("iresnet100", 65.15)]
)
def test_iresnet_has_the_published_number_of_parameters(architecture: str, millions: float) -> None:
    with torch.device("meta"):
        network = IResNet(IRESNET_BLOCKS[architecture], projected_first=True)
    counted = sum(p.numel() for p in network.parameters()) / 1e6
    assert counted == pytest.approx(millions, abs=0.01)


def test_sface_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = SFace()
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 9.64


@pytest.fixture(
    params=[
        pytest.param(SFace, id="sface"),
        pytest.param(lambda: IResNet((2, 1, 2, 1), projected_first=True), id="insightface"),
        pytest.param(lambda: IResNet((2, 1, 2, 1), projected_first=False), id="adaface"),
    ]
)
def network(request: pytest.FixtureRequest) -> Network:
    made = request.param()
    assert isinstance(made, Network)
    return randomised(made)


def test_folding_changes_nothing_but_the_number_of_layers(network: Network) -> None:
    x = pixels(2)
    before = network(x)
    norms = sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in network.modules())
    fold(network)
    after = network(x)
    left = [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.allclose(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    assert len(left) < norms / 3
    assert all(name.endswith("bn1") for name in left), "only pre-activation norms stay"


def test_folding_twice_is_folding_once(network: Network) -> None:
    fold(network)
    once = network(pixels(1))
    fold(network)
    assert torch.equal(network(pixels(1)), once)


@pytest.mark.skipif(not has_onednn(), reason="torch without oneDNN")
def test_onednn_in_float32_computes_the_same(network: Network) -> None:
    fold(network)
    plain = network(pixels(3))
    to_onednn(network, torch.float32)
    assert torch.allclose(network(pixels(3)), plain, atol=2e-5 * float(plain.abs().max()))


@pytest.mark.skipif(
    not (has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="this CPU's oneDNN has no bfloat16",
)
def test_onednn_in_bfloat16_points_the_same_way(network: Network) -> None:
    fold(network)
    plain = network(pixels(3))
    to_onednn(network, torch.bfloat16)
    fast = network(pixels(3).bfloat16()).float()
    assert float(torch.cosine_similarity(fast, plain).min()) > 0.999


def test_rounding_keeps_the_sum_of_each_filter() -> None:
    weight = torch.randn(64, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    rounded = round_keeping_sums(weight, torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    assert rounded.shape == weight.shape
    off = (rounded.double() - weight.double()).sum((2, 3)).abs()
    plain = (weight.bfloat16().double() - weight.double()).sum((2, 3)).abs()
    half_unit = weight.abs().amin((2, 3)) * 2**-8
    assert bool((off <= half_unit * 1.5 + 1e-6).float().mean() > 0.95)
    assert float(off.mean()) < float(plain.mean()) / 5
    # no tap moves by more than two units in its last place
    assert bool(((rounded.float() - weight).abs() <= weight.abs().amax((2, 3), True) * 2**-7).all())


def test_rounding_of_single_taps_is_plain_rounding() -> None:
    weight = torch.randn(16, 16, 1, 1, generator=torch.Generator().manual_seed(2))
    assert torch.equal(round_keeping_sums(weight, torch.bfloat16), weight.bfloat16())
