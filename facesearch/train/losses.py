"""What embeddings are trained by: five losses, each as published.

Losses of pairs look at the batch alone; losses of classes keep a direction for every identity.
Embeddings are of unit length, `cosines` are theirs with the classes' directions, also unit.

    contrastive  Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant
                 Mapping", CVPR 2006, equation 4
    triplet      Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition
                 and Clustering", CVPR 2015, equation 3, with its semi-hard negatives
    arcface      Deng et al., "ArcFace: Additive Angular Margin Loss", CVPR 2019, equation 3
    cosface      Wang et al., "CosFace: Large Margin Cosine Loss", CVPR 2018, equation 4
    sface        Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss", IEEE TIP 2021,
                 equations 5 to 8
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Loss = Literal["triplet", "contrastive", "arcface", "cosface", "sface"]
LOSSES: tuple[str, ...] = get_args(Loss)
OF_CLASSES = ("arcface", "cosface", "sface")


def squared_distances(x: Tensor) -> Tensor:
    """(N, N) squared Euclidean distances of (N, D) unit vectors."""
    return (2.0 - 2.0 * x @ x.T).clamp_min(0.0)


def contrastive(x: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Half the mean of d^2 over pairs of one person, plus that of max(0, m - d)^2 over the others.

    The two means are taken apart, since a batch has far more pairs of different people.
    """
    rows, columns = torch.triu_indices(len(x), len(x), 1, device=x.device)
    same = labels[rows] == labels[columns]
    squared = squared_distances(x)[rows, columns]
    distance = (squared + 1e-12).sqrt()
    apart = functional.relu(margin - distance).square()
    return 0.5 * (_mean(squared[same]) + _mean(apart[~same]))


def triplet(x: Tensor, labels: Tensor, margin: float = 0.2) -> Tensor:
    """Mean of max(0, d_ap^2 - d_an^2 + m) over all (anchor, positive) pairs.

    The negative is the semi-hard one: the nearest of those farther than the positive; where there
    is none, the farthest of all.
    """
    squared = squared_distances(x)
    same = labels[:, None] == labels[None, :]
    anchors, positives = torch.nonzero(same & ~torch.eye(len(x), dtype=torch.bool), as_tuple=True)
    if not len(anchors) or same.all():
        return 0.0 * x.sum()
    to_positive = squared[anchors, positives]
    to_all = squared[anchors].masked_fill(same[anchors], math.inf)
    outside = to_all.masked_fill(to_all <= to_positive[:, None], math.inf).min(dim=1).values
    farthest = squared[anchors].masked_fill(same[anchors], -math.inf).max(dim=1).values
    negative = torch.where(outside.isinf(), farthest, outside)
    return functional.relu(to_positive - negative + margin).mean()


def arcface(cosines: Tensor, labels: Tensor, scale: float = 64.0, margin: float = 0.5) -> Tensor:
    """Cross-entropy over s cos(t_j), with s cos(t_y + m) for the face's own class.

    Where t_y + m is beyond pi, the cosine goes on falling as cos(t_y) - m sin(m), as in the
    authors' code.
    """
    own = cosines.gather(1, labels[:, None]).clamp(-1 + 1e-7, 1 - 1e-7)
    sine = (1.0 - own.square()).sqrt()
    turned = own * math.cos(margin) - sine * math.sin(margin)
    turned = torch.where(own > -math.cos(margin), turned, own - margin * math.sin(margin))
    return functional.cross_entropy(scale * cosines.scatter(1, labels[:, None], turned), labels)


def cosface(cosines: Tensor, labels: Tensor, scale: float = 64.0, margin: float = 0.35) -> Tensor:
    """Cross-entropy over s cos(t_j), with s (cos(t_y) - m) for the face's own class."""
    own = cosines.gather(1, labels[:, None])
    logits = cosines.scatter(1, labels[:, None], own - margin)
    return functional.cross_entropy(scale * logits, labels)


def sface(cosines: Tensor, labels: Tensor, scale: float = 64.0) -> Tensor:
    """- r_intra(t_y) cos(t_y) + sum over the others of r_inter(t_j) cos(t_j), mean over faces.

    The weights r are functions of the angles, but constants to the gradient.
    """
    weights = sface_weights(cosines.detach(), labels, scale)
    return (weights * cosines).sum(dim=1).mean()


def sface_weights(
    cosines: Tensor,
    labels: Tensor,
    scale: float = 64.0,
    slope: float = 80.0,
    intra: float = 0.9,
    inter: float = 1.2,
) -> Tensor:
    """(N, C) the signed weights of `sface`: sigmoids of slope k about the angles a and b, radians.

    r_intra(t) = s / (1 + exp(-k (t - a)))    pulls until t is small
    r_inter(t) = s / (1 + exp(k (t - b)))     pushes until t is large
    """
    angles = cosines.clamp(-1, 1).acos()
    weights = scale * torch.sigmoid(-slope * (angles - inter))
    own = -scale * torch.sigmoid(slope * (angles - intra))
    return weights.scatter(1, labels[:, None], own.gather(1, labels[:, None]))


class Criterion(nn.Module):
    """A loss by name, with the classes' directions where it has them.

    Args:
        loss: a name of `LOSSES`.
        dim: length of an embedding.
        classes: identities trained on.
    """

    def __init__(self, loss: str, dim: int, classes: int) -> None:
        super().__init__()
        self.loss = loss
        if loss in OF_CLASSES:
            self.directions = nn.Parameter(functional.normalize(torch.randn(classes, dim)))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of (N, D) embeddings of any length, (N,) class numbers."""
        x = functional.normalize(embeddings.float())
        if self.loss not in OF_CLASSES:
            return (triplet if self.loss == "triplet" else contrastive)(x, labels)
        cosines = x @ functional.normalize(self.directions).T
        return {"arcface": arcface, "cosface": cosface, "sface": sface}[self.loss](cosines, labels)


def _mean(values: Tensor) -> Tensor:
    """The mean; 0 of none."""
    return values.mean() if len(values) else values.sum()
