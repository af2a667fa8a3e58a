"""Ground-truth audit: what looks mislabelled, most suspicious first.

A label that is wrong looks like an error of the system. These lists are for a person to go through
before the figures are believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facesearch.evaluate.lists import Lists
from facesearch.values import F32

MOST = 50
"""Entries of each list."""
BLOCK = 2048
"""Templates compared with all others at a time."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A probe whose label is in doubt.

    Attributes:
        probe: its row among the lists.
        photo: name of the probe photo.
        person: who it is said to show; empty if nobody said.
        own: score of that identity; None where it is not enrolled or not on the list.
        offered: who it resembles.
        score: of that candidate.
    """

    probe: int
    photo: str
    person: str
    own: float | None
    offered: str
    score: float


@dataclass(frozen=True, slots=True)
class Twins:
    """Two enrolled identities that look like one person."""

    first: str
    second: str
    score: float


@dataclass(frozen=True, slots=True)
class Audit:
    """What looks mislabelled.

    Attributes:
        strangers: non-mated probes that match somebody enrolled, highest score first.
        swapped: mated probes below the threshold with their own identity, and above it with
            another, largest difference first.
        twins: enrolled pairs at or above the threshold, highest score first.
        found: how many of each there are in all; None for twins that were not looked for.
    """

    strangers: tuple[Suspect, ...]
    swapped: tuple[Suspect, ...]
    twins: tuple[Twins, ...]
    found: dict[str, int | None]


def audit(lists: Lists, threshold: float, twins: Sequence[Twins] | None, most: int = MOST) -> Audit:
    """Look for labels in doubt.

    Args:
        lists: what was answered.
        threshold: at or above it two faces are taken for one person.
        twins: see `twins_of`; None where templates were not compared.
        most: entries of each list.
    """
    best, own = lists.best_scores, lists.own_scores
    wrong = lists.candidates[:, 0] != lists.people
    strangers = np.flatnonzero(~lists.mated & (best >= threshold))
    swapped = np.flatnonzero(lists.mated & wrong & (own < threshold) & (best >= threshold))
    # an identity that is not listed scores at most what the last listed one does
    listed = np.maximum(1, (lists.candidates >= 0).sum(axis=1))
    at_most = np.where(np.isfinite(own), own, lists.scores[np.arange(len(lists)), listed - 1])
    strangers = strangers[np.argsort(-best[strangers], kind="stable")]
    swapped = swapped[np.argsort(at_most[swapped] - best[swapped], kind="stable")]
    return Audit(
        tuple(_suspect(lists, row) for row in strangers[:most].tolist()),
        tuple(_suspect(lists, row) for row in swapped[:most].tolist()),
        tuple(twins or ())[:most],
        {
            "strangers": len(strangers),
            "swapped": len(swapped),
            "twins": None if twins is None else len(twins),
        },
    )


def twins_of(templates: F32, owners: Sequence[str], threshold: float) -> list[Twins]:
    """Pairs of identities of which two templates reach the threshold, highest score first.

    Args:
        templates: (N, D) float32 unit vectors.
        owners: N identities; one may have several templates.
        threshold: cosine.
    """
    found: dict[tuple[str, str], float] = {}
    for start in range(0, len(templates), BLOCK):
        scores = templates[start : start + BLOCK] @ templates[start:].T
        for row, column in zip(*np.nonzero(np.triu(scores >= threshold, 1)), strict=True):
            first, second = sorted((owners[start + row], owners[start + column]))
            if first != second:
                score = float(scores[row, column])
                found[first, second] = max(score, found.get((first, second), -1.0))
    pairs = [Twins(first, second, score) for (first, second), score in found.items()]
    return sorted(pairs, key=lambda pair: (-pair.score, pair.first, pair.second))


def _suspect(lists: Lists, row: int) -> Suspect:
    own = float(lists.own_scores[row])
    return Suspect(
        probe=row,
        photo=lists.photos[row],
        person=lists.labels[row],
        own=own if np.isfinite(own) else None,
        offered=lists.names[int(lists.candidates[row, 0])],
        score=float(lists.scores[row, 0]),
    )
