"""Two models on the same labelled faces: which one identifies more people at the same FPIR.

Every face of a person who has several is a probe once, against a gallery of everybody's mean
template, in which the person's own is made without that face. Its own template gives the mated
score, the best of the others what a stranger with that face would have scored. The interval of the
difference is the bootstrap over people, the same draws for both models, so that it is paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facesearch.evaluate.bootstrap import Interval, draws_of, middle
from facesearch.values import F32, I64

MOST_PROBES = 5000
MOST_PEOPLE = 10_000
"""Drawn at random where there are more."""
FEWEST_PEOPLE = 20
"""People with several faces, below which nothing is said."""
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Side:
    """One model's figures: TPIR and its 95 % interval, and how often the first place is right."""

    tpir: float
    tpir_95: Interval
    rank1: float


@dataclass(frozen=True, slots=True)
class Versus:
    """What two models reach on the same faces.

    Attributes:
        fpir: false-positive identification rate of both, on these probes.
        gallery: people compared with.
        people: with several faces, whose faces are the probes.
        probes: faces searched.
        before: the former model.
        after: the new one.
        gain: TPIR of the new less that of the former.
        gain_95: its 95 % interval.
    """

    fpir: float
    gallery: int
    people: int
    probes: int
    before: Side
    after: Side
    gain: float
    gain_95: Interval


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search gave for each of P probes.

    Attributes:
        own: (P,) score of the probe's own template.
        best: (P,) best score of another person's.
        people: (P,) number of the probe's person, 0 .. M - 1.
    """

    own: F32
    best: F32
    people: I64

    def tpir(self, times: NDArray[np.float64], fpir: float) -> NDArray[np.float64]:
        """(B,) share of probes whose own template is the best and above the threshold.

        Args:
            times: (B, M) how often each person counts.
            fpir: share of probes, at most, for whom another person's template is above it.
        """
        order = np.argsort(-self.best, kind="stable")
        alarms = np.cumsum(times[:, self.people[order]], axis=1)
        beyond = alarms > fpir * alarms[:, -1:] + 1e-9
        floor = self.best[order][beyond.argmax(axis=1)]
        hits = (self.own > self.best) & (self.own > floor[:, None])
        weights = times[:, self.people]
        rates: NDArray[np.float64] = (weights * hits).sum(axis=1) / weights.sum(axis=1)
        return rates


def compare(before: F32, after: F32, people: I64, fpir: float, seed: int = 0) -> Versus | None:
    """Compare two models on the same faces; None where too few people have several.

    Args:
        before: (N, D) unit vectors by one model, as they are compared.
        after: (N, E) of the same faces by the other.
        people: (N,) label of the person of each.
        fpir: rate to compare at.
        seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    kept = _some(people, rng)
    before, after = before[kept], after[kept]
    labels, people, counts = np.unique(people[kept], return_inverse=True, return_counts=True)
    probes = np.flatnonzero(counts[people] > 1)
    if len(np.unique(people[probes])) < FEWEST_PEOPLE:
        return None
    if len(probes) > MOST_PROBES:
        probes = np.sort(rng.choice(probes, MOST_PROBES, replace=False))
    found = [search(vectors, people.astype(np.int64), probes) for vectors in (before, after)]
    those = len(np.unique(found[0].people))
    times = np.concatenate([np.ones((1, those)), draws_of(those, RESAMPLES, rng)])
    rates = [one.tpir(times, fpir) for one in found]
    sides = [
        Side(float(rate[0]), middle(rate[1:]), float((one.own > one.best).mean()))
        for one, rate in zip(found, rates, strict=True)
    ]
    gain = rates[1] - rates[0]
    gain_95 = middle(gain[1:])
    return Versus(
        fpir, len(labels), those, len(probes), sides[0], sides[1], float(gain[0]), gain_95
    )


def search(vectors: F32, people: I64, probes: NDArray[np.integer]) -> Searched:
    """Each probe, left out of its own template, against everybody's.

    Args:
        vectors: (N, D) unit vectors.
        people: (N,) number of the person, 0 .. M - 1, all of which have a face.
        probes: rows of faces of people who have another.
    """
    sums = np.zeros((int(people.max()) + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, people, vectors)
    templates = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    x, whose = vectors[probes], people[probes]
    others = sums[whose] - x
    own = np.einsum("pd,pd->p", x, others) / np.linalg.norm(others, axis=1)
    scores = x @ templates.T
    scores[np.arange(len(x)), whose] = -np.inf
    return Searched(own, scores.max(axis=1), np.unique(whose, return_inverse=True)[1])


def _some(people: I64, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(N,) which faces are compared: those of `MOST_PEOPLE`, people with several before others."""
    labels, whose, counts = np.unique(people, return_inverse=True, return_counts=True)
    if len(labels) <= MOST_PEOPLE:
        return np.ones(len(people), np.bool_)
    order = np.lexsort((rng.random(len(labels)), counts == 1))
    chosen: NDArray[np.bool_] = np.isin(whose, order[:MOST_PEOPLE])
    return chosen
