"""What an embedder is: aligned crops to unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from facesearch.errors import ModelError
from facesearch.values import F32, Crops, Embeddings, ModelContract

CROP = 112
"""Side of an aligned crop, pixels."""


class Embedder(Protocol):
    """Aligned faces to unit vectors."""

    @property
    def contract(self) -> ModelContract:
        """What makes its vectors comparable."""

    def embed(self, crops: Crops) -> Embeddings:
        """Unit vectors of (N, 112, 112, 3) uint8 BGR crops, in order; N may be 0."""


def embed_each(embedder: Embedder, groups: Sequence[Crops]) -> list[Embeddings]:
    """The embeddings of each group of crops (say, of one photo), computed together."""
    if not groups:
        return []
    together = embedder.embed(np.concatenate(groups))
    ends = np.cumsum([len(group) for group in groups]).tolist()
    return [
        Embeddings(together.vectors[start:end], together.quality[start:end], together.contract)
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def checked(crops: Crops) -> Crops:
    """`crops`, which are crops.

    Raises:
        ValueError: not (N, 112, 112, 3) uint8.
    """
    if crops.dtype != np.uint8 or crops.shape[1:] != (CROP, CROP, 3):
        raise ValueError(f"crops must be (N, {CROP}, {CROP}, 3) uint8, not {crops.shape}")
    return crops


def nothing(contract: ModelContract) -> Embeddings:
    """The embeddings of no faces."""
    return Embeddings(np.zeros((0, contract.dim), np.float32), np.zeros(0, np.float32), contract)


def unit(raw: F32, contract: ModelContract) -> Embeddings:
    """(N, D) outputs of a network as unit vectors, and the length each had.

    Raises:
        ModelError: one is zero or not finite.
    """
    norms = np.linalg.norm(raw, axis=1)
    if not np.all(np.isfinite(norms) & (norms > 0)):
        raise ModelError(
            f"model '{contract.name}' gave an embedding that is zero or not finite: "
            "its weights are damaged, or not of this architecture"
        )
    return Embeddings(raw / norms[:, None], norms, contract)
