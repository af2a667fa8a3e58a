"""Candidate lists made up with a seed, complete: every probe against every identity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from facesearch.evaluate.lists import Lists, Probe, of_probes


def made(
    rng: np.random.Generator,
    gallery: int = 40,
    mated: int = 60,
    strangers: int = 50,
    top: int | None = None,
    step: float = 0.05,
) -> tuple[Lists, NDArray[np.float64]]:
    """Lists, and the (P, N) scores they come from, rounded to `step` so that many tie."""
    own = np.concatenate([rng.integers(gallery, size=mated), np.full(strangers, -1)])
    scores = rng.normal(0.2, 0.1, (len(own), gallery))
    scores[np.arange(mated), own[:mated]] += rng.normal(0.25, 0.15, mated)
    scores = np.round(scores / step) * step
    probes = []
    for row, column in enumerate(own.tolist()):
        order = np.argsort(-scores[row], kind="stable")[:top]
        listed = [(f"id{n:03}", float(scores[row, n])) for n in order.tolist()]
        person = f"id{column:03}" if column >= 0 else f"stranger{row // 2}"
        probes.append(Probe(f"p{row}", person, column >= 0, listed))
    return of_probes(probes, gallery), scores
