"""What an index loses, and what a query costs.

*Identification loss* is the share of the mated probes that exact search identifies (a face of the
right identity at rank 1, scoring at least the threshold) and the index does not. Fetched rows are
scored exactly, so the index's answer is the best of the true nearest rows among those it fetches:
nothing needs to be scored again to know it, and one fetch tells it for every smaller `rerank`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facesearch.index.exact import Mask, top
from facesearch.index.keys import unpack
from facesearch.index.segment import Faces, Scope
from facesearch.values import F32, I64

NEAREST = 10
"""Nearest faces that recall is about."""
BATCH = 256
"""Queries searched together when throughput is measured."""
_CHUNK = 512
_ANSWERS = 5
"""Identities asked for when time is measured: the default of `identify`."""


@dataclass(frozen=True, slots=True)
class Probes:
    """Faces of enrolled people that are not in the gallery.

    Attributes:
        vectors: (Q, D) float32 unit norm.
        identities: (Q,) int64 identity of each.
        threshold: cosine from which an answer counts as an identification.
        origin: where they come from, for people.
    """

    vectors: F32
    identities: I64
    threshold: float
    origin: str

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class Truth:
    """What exact search answers.

    Attributes:
        rows: (Q, `NEAREST`) int64, best first; -1 where there are no more.
        right: (Q, `NEAREST`) bool, where a row is the probe's identity and reaches the threshold.
        identified: (Q,) bool, where the best row does.
    """

    rows: I64
    right: Mask
    identified: Mask


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Times of single queries, milliseconds."""

    p50: float
    p95: float
    p99: float


class Finds(Protocol):
    """Nearest rows of a gallery, as an index has them: a `VectorIndex`, or what asks a server."""

    def search(self, queries: F32, k: int, allowed: Mask | None) -> I64:
        """As `VectorIndex.search`."""
        ...


class Answers(Protocol):
    """Identities, as the engine finds them: a `Segment`, or an index over a server."""

    def search_identities(self, queries: F32, k: int, scope: Scope, /) -> object:
        """The best face of each of the k nearest identities of (Q, D) queries."""
        ...


def enrolled(faces: Faces) -> Mask | None:
    """(N,) bool, the rows that are somebody; None if all are."""
    mask: Mask = faces.identity_ids > 0
    return None if mask.all() else mask


def exact_truth(faces: Faces, probes: Probes, allowed: Mask | None) -> Truth:
    """The exact answers to `probes` among the allowed rows."""
    parts = [
        top(probes.vectors[start : start + _CHUNK], faces.vectors, NEAREST, allowed)
        for start in range(0, len(probes), _CHUNK)
    ]
    rows, scores = unpack(np.concatenate([np.zeros((0, NEAREST), np.int64), *parts]))
    right = faces.identity_ids[np.maximum(rows, 0)] == probes.identities[:, None]
    right &= (rows >= 0) & (scores >= probes.threshold)
    return Truth(rows, right, right[:, 0])


def places(index: Finds, probes: Probes, truth: Truth, fetch: int, allowed: Mask | None) -> I64:
    """Where each true row stands among the `fetch` that the index returns.

    Returns:
        (Q, `NEAREST`) int64, 0 for the first; `fetch` where it is missing.
    """
    found = np.full(truth.rows.shape, fetch, np.int64)
    for start in range(0, len(probes), _CHUNK):
        part = slice(start, start + _CHUNK)
        fetched = index.search(probes.vectors[part], fetch, allowed)
        for rank in range(NEAREST):
            hit = (fetched == truth.rows[part, rank : rank + 1]) & (fetched >= 0)
            found[part, rank] = np.where(hit.any(axis=1), hit.argmax(axis=1), fetch)
    return found


def lost(truth: Truth, found: I64, rerank: int) -> Mask:
    """(Q,) bool: identified by exact search, and not with the first `rerank` rows fetched."""
    fetched = found < rerank
    best = fetched.argmax(axis=1)
    answered = fetched.any(axis=1) & np.take_along_axis(truth.right, best[:, None], axis=1)[:, 0]
    return np.asarray(truth.identified & ~answered)


def recall(truth: Truth, found: I64, rerank: int) -> float:
    """The share of the `NEAREST` nearest rows among the first `rerank` fetched."""
    there = truth.rows >= 0
    return float(np.mean((found < rerank)[there])) if there.any() else 1.0


def latency(index: Answers, queries: F32, seconds: float) -> Percentiles:
    """Time of single queries as the engine makes them: search, re-ranking, grouping, masks.

    Stops after `seconds`, but not before 30 queries.
    """
    times: list[float] = []
    for number in range(min(5, len(queries))):
        index.search_identities(queries[number : number + 1], _ANSWERS, Scope())
    begun = time.perf_counter()
    for number in range(len(queries)):
        before = time.perf_counter()
        index.search_identities(queries[number : number + 1], _ANSWERS, Scope())
        times.append(1e3 * (time.perf_counter() - before))
        if len(times) >= 30 and time.perf_counter() - begun > seconds:
            break
    p50, p95, p99 = np.percentile(times, (50, 95, 99)).tolist()
    return Percentiles(round(p50, 4), round(p95, 4), round(p99, 4))


def throughput(index: Answers, queries: F32) -> float:
    """Queries a second in batches of `BATCH`."""
    batch = queries[:BATCH]
    index.search_identities(batch[:8], _ANSWERS, Scope())
    before = time.perf_counter()
    index.search_identities(batch, _ANSWERS, Scope())
    return round(len(batch) / (time.perf_counter() - before), 1)


def clopper_pearson(events: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a rate (Clopper and Pearson, Biometrika 1934), by bisection.

    Args:
        events: how often it happened.
        trials: how often it could have; (0, 1) is returned for 0.
        confidence: of the two-sided interval.
    """
    if trials == 0:
        return 0.0, 1.0
    tail = (1.0 - confidence) / 2.0
    low = _solve(lambda p: 1.0 - _at_most(events - 1, trials, p), tail) if events else 0.0
    high = _solve(lambda p: 1.0 - _at_most(events, trials, p), 1.0 - tail)
    return low, high if events < trials else 1.0


def _solve(rising: Callable[[float], float], value: float) -> float:
    """Where a rising function of a probability reaches `value`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2.0


def _at_most(events: int, trials: int, p: float) -> float:
    """P(X <= events) of a binomial."""
    if p <= 0.0 or p >= 1.0:
        return float(p <= 0.0 or events >= trials)
    log, log1 = math.log(p), math.log1p(-p)
    total = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            total - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log + (trials - k) * log1
        )
        for k in range(events + 1)
    )
