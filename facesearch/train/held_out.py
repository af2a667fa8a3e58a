"""What embeddings of people held out are worth: the figures that a training run is followed by."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facesearch.evaluate.metrics import verification
from facesearch.identify.versus import FEWEST_PEOPLE, search
from facesearch.values import F32, I64

FPIR = 0.01
PAIRS = 3000
"""Pairs of one person, and as many of two, that verification is measured on, at most."""


def measure(vectors: F32, people: I64, seed: int = 0) -> tuple[float, float]:
    """Verification accuracy in ten folds on random pairs, and TPIR at FPIR 1 %.

    NaN stands for a figure that too few people allow.

    Args:
        vectors: (N, D) unit vectors.
        people: (N,) number of the person of each.
        seed: of the pairs.
    """
    rng = np.random.default_rng(seed)
    a, b, same = pairs(people, rng)
    accuracy = math.nan
    if same.any() and len(same) >= 20:
        folds = rng.permutation(len(same)) % 10
        scores = np.einsum("pd,pd->p", vectors[a], vectors[b])
        accuracy = verification(scores, same, folds.astype(np.int64)).accuracy
    labels, whose, counts = np.unique(people, return_inverse=True, return_counts=True)
    probes = np.flatnonzero(counts[whose] > 1)
    tpir = math.nan
    if len(np.unique(whose[probes])) >= FEWEST_PEOPLE and len(labels) > FEWEST_PEOPLE:
        found = search(vectors, whose.astype(np.int64), probes)
        once = np.ones((1, int(found.people.max()) + 1))
        tpir = float(found.tpir(once, FPIR)[0])
    return accuracy, tpir


def pairs(
    people: I64, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Rows of pairs of one person, at most `PAIRS`, and of as many pairs of two."""
    same = people[:, None] == people[None, :]
    a, b = np.nonzero(np.triu(same, 1))
    chosen = rng.permutation(len(a))[:PAIRS]
    a, b = a[chosen], b[chosen]
    c, d = rng.integers(len(people), size=(2, 4 * len(a) + 1))
    apart = np.flatnonzero(people[c] != people[d])[: len(a)]
    labels = np.repeat([True, False], [len(a), len(apart)])
    return np.concatenate([a, c[apart]]), np.concatenate([b, d[apart]]), labels
