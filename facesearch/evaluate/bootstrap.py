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


def middle(values: Sequence[float] | NDArray[np.float64], level: float = 0.95) -> Interval:
    """The interval that holds the middle `level` of the values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def _people(people: I64 | None, count: int) -> I64:
    return np.arange(count) if people is None else people
