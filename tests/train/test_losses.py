"""Each loss: its value by another implementation, its gradient by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from facesearch.train import losses

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])
F64 = NDArray[np.float64]


def unit(n: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64))


def contrastive(x: F64, labels: list[int], margin: float) -> float:
    same, other = [], []
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            distance = math.dist(x[i], x[j])
            if labels[i] == labels[j]:
                same.append(distance**2)
            else:
                other.append(max(0.0, margin - distance) ** 2)
    return 0.5 * (float(np.mean(same)) + float(np.mean(other)))


def triplet(x: F64, labels: list[int], margin: float) -> float:
    values = []
    for a in range(len(x)):
        others = [math.dist(x[a], x[n]) ** 2 for n in range(len(x)) if labels[n] != labels[a]]
        for p in range(len(x)):
            if p == a or labels[p] != labels[a]:
                continue
            positive = math.dist(x[a], x[p]) ** 2
            harder = [d for d in others if d > positive]
            negative = min(harder) if harder else max(others)
            values.append(max(0.0, positive - negative + margin))
    return float(np.mean(values))


def margin_softmax(
    cosines: F64, labels: list[int], scale: float, own: Callable[[float], float]
) -> float:
    total = 0.0
    for row, label in zip(cosines, labels, strict=True):
        logits = [scale * (own(float(c)) if j == label else float(c)) for j, c in enumerate(row)]
        top = max(logits)
        total += top + math.log(sum(math.exp(v - top) for v in logits)) - logits[label]
    return total / len(labels)


def sface(cosines: F64, labels: list[int], scale: float) -> float:
    total = 0.0
    for row, label in zip(cosines, labels, strict=True):
        for j, c in enumerate(row):
            angle = math.acos(float(c))
            if j == label:
                total -= scale / (1 + math.exp(-80 * (angle - 0.9))) * float(c)
            else:
                total += scale / (1 + math.exp(80 * (angle - 1.2))) * float(c)
    return total / len(labels)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dim", [3, 16])
def test_values_are_those_of_another_implementation(seed: int, dim: int) -> None:
    x, directions = unit(8, dim, seed), unit(4, dim, seed + 100)
    cosines = x @ directions.T
    plain, labels, scores = x.numpy(), LABELS.tolist(), cosines.numpy()
    close = pytest.approx
    assert float(losses.contrastive(x, LABELS, 1.2)) == close(contrastive(plain, labels, 1.2))
    assert float(losses.triplet(x, LABELS, 0.3)) == close(triplet(plain, labels, 0.3))
    near = np.flatnonzero(scores[range(8), labels] > -math.cos(0.5))  # t + m is below pi
    assert len(near) >= 6
    arc = margin_softmax(
        scores[near], [labels[i] for i in near], 30.0, lambda c: math.cos(math.acos(c) + 0.5)
    )
    assert float(losses.arcface(cosines[near], LABELS[near], 30.0, 0.5)) == close(arc)
    cos = margin_softmax(scores, labels, 30.0, lambda c: c - 0.35)
    assert float(losses.cosface(cosines, LABELS, 30.0, 0.35)) == close(cos)
    assert float(losses.sface(cosines, LABELS, 64.0)) == close(sface(scores, labels, 64.0))


def test_arcface_goes_on_falling_where_the_angle_passes_pi() -> None:
    own = torch.linspace(-0.999, 0.999, 500, dtype=torch.float64)
    cosines = torch.stack([own, torch.zeros_like(own)], dim=1)
    labels = torch.zeros(1, dtype=torch.long)
    values = [float(losses.arcface(row[None], labels, 10.0, 0.5)) for row in cosines]
    assert np.all(np.diff(values) < 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["contrastive", "triplet", "arcface", "cosface"])
def test_gradients_agree_with_finite_differences(name: str, seed: int) -> None:
    loss: Callable[[Tensor, Tensor], Tensor] = getattr(losses, name)
    directions = (2 * unit(4, 6, seed + 100)).requires_grad_(True)

    def of(raw: Tensor, towards: Tensor) -> Tensor:
        x = functional.normalize(raw)
        if name not in losses.OF_CLASSES:
            return loss(x, LABELS) + 0 * towards.sum()
        return loss(x @ functional.normalize(towards).T, LABELS) / 64

    start = (3 * unit(8, 6, seed)).requires_grad_(True)
    assert torch.autograd.gradcheck(of, (start, directions), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradient_of_sface_is_that_of_its_paper(seed: int) -> None:
    """With the weights held constant; then its length by the angle is r(t) sin(t)."""
    cosines = (unit(8, 6, seed) @ unit(4, 6, seed + 100).T).requires_grad_(True)
    weights = losses.sface_weights(cosines.detach(), LABELS)
    assert torch.autograd.gradcheck(lambda c: (weights * c).sum() / 64, (cosines,))
    (slope,) = torch.autograd.grad(losses.sface(cosines, LABELS), cosines)
    torch.testing.assert_close(slope, weights / len(LABELS))
    own = weights.gather(1, LABELS[:, None])
    assert (own <= 0).all()
    assert (weights.sum() - own.sum()) >= 0


@pytest.mark.parametrize("name", losses.LOSSES)
def test_each_loss_brings_people_together(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16, requires_grad=True)
    criterion = losses.Criterion(name, 16, 4)
    optimizer = torch.optim.Adam([x, *criterion.parameters()], lr=0.05)

    def apart() -> float:
        unit_ = functional.normalize(x.detach())
        scores = unit_ @ unit_.T
        same = LABELS[:, None] == LABELS[None, :]
        off = ~torch.eye(8, dtype=torch.bool)
        return float(scores[same & off].mean() - scores[~same].mean())

    before = apart()
    for _ in range(200):
        loss = criterion(x, LABELS)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert apart() > before + 0.3


def test_batches_without_a_pair_cost_nothing() -> None:
    x = unit(3, 4, 0)
    assert float(losses.triplet(x, torch.tensor([0, 1, 2]))) == 0.0
    assert float(losses.triplet(x, torch.tensor([0, 0, 0]))) == 0.0
    assert math.isfinite(float(losses.contrastive(x, torch.tensor([0, 1, 2]))))
