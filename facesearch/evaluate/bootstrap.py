"""Intervals by the bootstrap over people: probes of one person are not independent of each other.

People are drawn with replacement, as many as there are, and each brings all of their probes; what
is measured on such a draw is measured again, and the middle 95 % of the results is the interval
(percentile bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13,
for clusters: Bolle, Ratha and Pankanti, "Error analysis of pattern recognition systems: the subsets
bootstrap", CVIU 93(1), 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from facesearch.evaluate.metrics import FPIRS, SearchScores, open_set
from facesearch.values import I64

RESAMPLES = 1000
RULE_OF_THREE = 3.0
"""Where nothing happened in n trials, the rate is below 3 / n with 95 % confidence."""

F64 = NDArray[np.float64]
Interval = tuple[float, float]


def resampled(people: I64, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows of one draw of people with replacement, each with all of their rows.

    Args:
        people: (N,) int64 label of the person in each row.
        rng: where the draw comes from.
    """
    labels, of_row = np.unique(people, return_inverse=True)
    times = np.bincount(rng.integers(len(labels), size=len(labels)), minlength=len(labels))
    return np.repeat(np.arange(len(people)), times[of_row])


def resampled_scores(scores: SearchScores, rng: np.random.Generator) -> SearchScores:
    """One draw of the mated people and one of the non-mated people."""
    mated = resampled(_people(scores.mated_people, len(scores.mated_scores)), rng)
    nonmated = resampled(_people(scores.nonmated_people, len(scores.nonmated_scores)), rng)
    return replace(
        scores,
        mated_ranks=scores.mated_ranks[mated],
        mated_scores=scores.mated_scores[mated],
        nonmated_scores=scores.nonmated_scores[nonmated],
        mated_people=None,
        nonmated_people=None,
    )


def tpir_intervals(
    scores: SearchScores,
    fpirs: Sequence[float] = FPIRS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """95 % interval of TPIR at each FPIR; the threshold is found anew on every draw."""
    rng = np.random.default_rng(seed)
    draws = (resampled_scores(one, rng) for one in repeat(scores, resamples))
    rates = [[point.tpir for point in open_set(draw, fpirs).points] for draw in draws]
    return tuple(middle(column) for column in np.transpose(rates))


def mean_interval(
    values: NDArray[np.bool_] | NDArray[np.float64],
    people: I64,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """95 % interval of a share, or of a mean, over people.

    A share of 0 or 1 has no spread to draw from: its open side is set by the rule of three, 3 /
    people (Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 249,
    1983).

    Args:
        values: (N,) 0 or 1, or any number, a row.
        people: (N,) int64 label of the person in each row.
        resamples: draws.
        seed: of the draws.
    """
    rows_of, sums = counts_of(people, values[:, None])
    times = draws_of(len(rows_of), resamples, np.random.default_rng(seed))
    low, high = middle((times @ sums)[:, 0] / (times @ rows_of))
    if values.dtype == np.bool_:
        room = min(1.0, RULE_OF_THREE / len(rows_of))
        low = 1.0 - room if values.all() else low
        high = high if values.any() else room
    return low, high


def counts_of(people: I64, values: NDArray[np.generic]) -> tuple[F64, F64]:
    """Rows each person has, (P,), and the sum of their rows, (P, C), people ascending.

    Args:
        people: (N,) int64 label of the person in each row.
        values: (N, C).
    """
    labels, of_row = np.unique(people, return_inverse=True)
    sums = np.zeros((len(labels), values.shape[1]))
    np.add.at(sums, of_row, values.astype(np.float64))
    return np.bincount(of_row, minlength=len(labels)).astype(np.float64), sums


def draws_of(people: int, resamples: int, rng: np.random.Generator) -> F64:
    """(resamples, people) how often each person is drawn, with replacement, in each draw."""
    return rng.multinomial(people, np.full(people, 1.0 / people), size=resamples).astype(np.float64)


def middle(values: Sequence[float] | NDArray[np.float64], level: float = 0.95) -> Interval:
    """The interval that holds the middle `level` of the values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def _people(people: I64 | None, count: int) -> I64:
    return np.arange(count) if people is None else people
