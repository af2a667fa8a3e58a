"""Adaptation: what all faces have in common is taken out of their embeddings before comparing.

Embeddings of different people are not spread evenly: they share a mean, and the photos of one
person differ more in some directions than in others. With m the mean over people, S the
covariance of photos about their person's mean, and D the dimension,

    x' = W (x - m) / |W (x - m)|,    W = ((1 - r) S + r (trace S / D) I)^(-1/2)

is compared by cosine instead of x: centring, and within-class whitening (the first step of linear
discriminant analysis) with shrinkage r towards no whitening, as of Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices", 2004.

The store keeps x. An index is built of x' and a query is adapted when it is searched, so that
turning an adaptation on, off, or into another one is a rebuild of the index and nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from facesearch.errors import ModelError
from facesearch.resources import shipped
from facesearch.values import F16, F32, I64, ModelContract

SHRINKAGE = 0.7
"""r: from 0.5 to 0.9 the gain is the same on people not fitted on; see `docs/levers.md`."""

_BLOCK = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """A fitted adaptation.

    Attributes:
        mean: (D,) float32, m.
        whitening: (D, D) float32, symmetric, W.
    """

    mean: F32
    whitening: F32

    def __post_init__(self) -> None:
        dim = len(self.mean)
        if self.mean.shape != (dim,) or self.whitening.shape != (dim, dim):
            raise ValueError("mean must be (D,) and whitening (D, D)")

    @property
    def key(self) -> str:
        """SHA-256 of what it does; equal keys mean comparable vectors."""
        return hashlib.sha256(
            self.mean.astype("<f4").tobytes() + self.whitening.astype("<f4").tobytes()
        ).hexdigest()

    def __call__(self, vectors: F16 | F32) -> F32:
        """(N, D) unit vectors adapted, again of unit length; float32."""
        adapted = np.empty(vectors.shape, np.float32)
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            block = (vectors[part].astype(np.float32) - self.mean) @ self.whitening
            length = np.linalg.norm(block, axis=1, keepdims=True)
            adapted[part] = block / np.maximum(length, np.finfo(np.float32).tiny)
        return adapted


def fit(vectors: F32, people: I64, shrinkage: float = SHRINKAGE) -> Adaptation:
    """The adaptation of labelled faces; at 1, `shrinkage` leaves centring alone.

    Args:
        vectors: (N, D) unit vectors.
        people: (N,) label of the person of each; some must have several rows.
        shrinkage: r, over 0 and up to 1.

    Raises:
        ValueError: `shrinkage` is out of range, or nobody has two rows.
    """
    if not 0.0 < shrinkage <= 1.0:
        raise ValueError(f"shrinkage {shrinkage} is not in (0, 1]")
    _, whose, counts = np.unique(people, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(means, whose, vectors.astype(np.float64))
    means /= counts[:, None]
    freedom = len(vectors) - len(counts)
    if freedom < 1:
        raise ValueError("within-class covariance needs people with several faces")
    within = vectors - means[whose]
    covariance: NDArray[np.float64] = within.T @ within / freedom
    dim = len(covariance)
    scale = np.trace(covariance) / dim
    # W is determined up to a factor, which the cosine does not see: S is scaled to trace D.
    values, basis = np.linalg.eigh(
        (1 - shrinkage) * covariance / scale + shrinkage * np.identity(dim)
    )
    whitening = (basis / np.sqrt(values)) @ basis.T
    return Adaptation(means.mean(axis=0).astype(np.float32), whitening.astype(np.float32))


SHIPPED = {
    (
        "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        "112x112 RGB (x-127.5)/128, averaged with its mirror image",
    ): "sface_mirrored_adaptation.safetensors",
}
"""By `ModelContract.sha256` and `.preprocessing`: files of `facesearch/models/`, written by
benchmarks/levers.py."""


@cache
def shipped_adaptation(contract: ModelContract) -> Adaptation | None:
    """The adaptation that ships for a model; None if there is none.

    Raises:
        ModelError: its file is missing or damaged.
    """
    name = SHIPPED.get((contract.sha256, contract.preprocessing))
    if name is None:
        return None
    path = shipped("models") / name
    try:
        tensors = load_file(path)
        return Adaptation(tensors["mean"], tensors["whitening"])
    except (OSError, SafetensorError, KeyError, ValueError) as err:
        raise ModelError(f"{path}: damaged ({err}); reinstall facesearch") from err
