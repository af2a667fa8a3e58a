"""One-to-many results with intervals: operating points, CMC, DET and the size of the gallery.

Terms as in `facesearch.evaluate.metrics`. Every interval is a 95 % bootstrap over people.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from facesearch.evaluate.bootstrap import (
    RULE_OF_THREE,
    Interval,
    mean_interval,
    middle,
    resampled_scores,
)
from facesearch.evaluate.lists import F64, Lists
from facesearch.evaluate.metrics import SearchScores, fnir, open_set, threshold_at_fpir

RANKS = (1, 5, 10, 50)
RESAMPLES = 500
DET_POINTS = 30
"""FPIRs at which the band of the DET curve is drawn."""
SUBSETS = 30
"""Random galleries of one size; their mean is reported."""
SMALLEST = 10
"""Identities in the smallest gallery of a sweep."""
HALVINGS = 5
"""Galleries of a sweep are N, N / 2, ..., N / 2**5."""


@dataclass(frozen=True, slots=True)
class Point:
    """One threshold and the errors it makes.

    Attributes:
        target: FPIR that the threshold was chosen for on these probes; None where it was given.
        threshold: a candidate at or above it is a match.
        threshold_95: interval of the threshold; None where it was given.
        fpir: FPIR(N, T) on these probes.
        fpir_95: its interval; None where the threshold was chosen on the same probes.
        fnir: FNIR(N, 1, T): mates who are not first, or below the threshold.
        fnir_95: its interval; where the threshold was chosen, it is chosen anew on every draw.
        fnir_any_rank: FNIR(N, L, T), L the length of the lists: mates who are below the threshold,
            whoever is ahead of them; NIST's identification mode.
        fnir_any_rank_95: its interval, likewise.
    """

    target: float | None
    threshold: float
    threshold_95: Interval | None
    fpir: float
    fpir_95: Interval | None
    fnir: float
    fnir_95: Interval
    fnir_any_rank: float
    fnir_any_rank_95: Interval


@dataclass(frozen=True, slots=True)
class Rank:
    """Investigation mode: the share of mated probes answered by their identity within a rank.

    Attributes:
        rank: R.
        hit: 1 - FNIR(N, R, -inf).
        hit_95: its interval.
    """

    rank: int
    hit: float
    hit_95: Interval


@dataclass(frozen=True, slots=True)
class Band:
    """A curve with its 95 % band, thinned to be drawn: false rejects at given false accepts.

    Attributes:
        false_accepts: (C,) FPIR or FMR, ascending.
        thresholds: (C,).
        false_rejects: (C,) FNIR or FNMR.
        low: (C,) lower end of the interval.
        high: (C,) upper end.
    """

    false_accepts: tuple[float, ...]
    thresholds: tuple[float, ...]
    false_rejects: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """What a gallery of n identities would give, the mean over random subsets.

    Attributes:
        gallery: n.
        fpir: FPIR(n, T) at the fixed threshold; None without one.
        fpir_95: its interval, over subsets and people.
        fnir: FNIR(n, 1, T) at the fixed threshold.
        fnir_95: likewise.
        target_threshold: the threshold that keeps the target FPIR at this size.
        target_fnir: FNIR(n, 1, T) there.
        target_fnir_95: likewise.
    """

    gallery: int
    fpir: float | None
    fpir_95: Interval | None
    fnir: float | None
    fnir_95: Interval | None
    target_threshold: float
    target_fnir: float
    target_fnir_95: Interval


def at_threshold(scores: SearchScores, threshold: float) -> Point:
    """The errors at a threshold that was not chosen on these probes."""
    alarms = scores.nonmated_scores >= threshold
    below = (scores.mated_ranks == 0) | (scores.mated_scores < threshold)
    missed = (scores.mated_ranks != 1) | below
    nonmated, mated = _people(scores)
    return Point(
        target=None,
        threshold=threshold,
        threshold_95=None,
        fpir=float(alarms.mean()),
        fpir_95=mean_interval(alarms, nonmated),
        fnir=float(missed.mean()),
        fnir_95=mean_interval(missed, mated),
        fnir_any_rank=float(below.mean()),
        fnir_any_rank_95=mean_interval(below, mated),
    )


def least_fpir(strangers: int) -> float:
    """The smallest FPIR that can be stated from non-mated probes of so many people: 3 / people."""
    return RULE_OF_THREE / strangers


def strangers_needed(fpir: float) -> int:
    """Of how many people non-mated probes are needed to state an FPIR."""
    return math.ceil(round(RULE_OF_THREE / fpir, 9))


def at_fpirs(
    scores: SearchScores, fpirs: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[tuple[Point, ...], Band]:
    """The threshold and the errors at each FPIR, and the DET curve down to the least supported.

    Raises:
        UsageError: an FPIR is outside 0..1.
    """
    least = least_fpir(len(np.unique(_people(scores)[0])))
    grid = np.geomspace(least, 1.0, DET_POINTS) if least < 1.0 else np.ones(1)
    asked = [*fpirs, *grid.tolist()]
    measured = open_set(scores, asked).points
    floor = _lowest(scores)
    rng = np.random.default_rng(seed)
    thresholds = np.empty((resamples, len(asked)))
    misses = np.empty((resamples, len(asked)))
    below = np.empty((resamples, len(fpirs)))
    n, last = len(fpirs), max(1, int(scores.mated_ranks.max()))
    for draw in range(resamples):
        drawn = resampled_scores(scores, rng)
        points = open_set(drawn, asked).points
        thresholds[draw] = [max(p.threshold, floor) for p in points]
        misses[draw] = [1.0 - p.tpir for p in points]
        below[draw] = [fnir(drawn, last, p.threshold) for p in points[:n]]
    found = tuple(
        Point(
            target=p.target,
            threshold=max(p.threshold, floor),
            threshold_95=middle(thresholds[:, i]),
            fpir=p.fpir,
            fpir_95=None,
            fnir=1.0 - p.tpir,
            fnir_95=middle(misses[:, i]),
            fnir_any_rank=fnir(scores, last, p.threshold),
            fnir_any_rank_95=middle(below[:, i]),
        )
        for i, p in enumerate(measured[:n])
    )
    ends = [middle(column) for column in misses[:, n:].T]
    det = Band(
        tuple(p.fpir for p in measured[n:]),
        tuple(max(p.threshold, floor) for p in measured[n:]),
        tuple(1.0 - p.tpir for p in measured[n:]),
        tuple(low for low, _ in ends),
        tuple(high for _, high in ends),
    )
    return found, det


def by_rank(scores: SearchScores, ranks: Sequence[int]) -> tuple[Rank, ...]:
    """The cumulative match characteristic at some ranks."""
    people = _people(scores)[1]
    found = []
    for rank in ranks:
        hit = (scores.mated_ranks >= 1) & (scores.mated_ranks <= rank)
        found.append(Rank(rank, float(hit.mean()), mean_interval(hit, people)))
    return tuple(found)


def sweep(
    lists: Lists, target: float, threshold: float | None, seed: int = 0
) -> tuple[tuple[Size, ...], tuple[int, ...]]:
    """The errors in smaller galleries: random subsets of the identities, from the same lists.

    Leaving identities out leaves the order of the rest as it is, so that a list tells what
    searching the subset would have answered, unless the whole list is left out and its end lay at
    or above the threshold. A size at which that happens is not stated.

    Args:
        lists: of the whole gallery.
        target: FPIR whose threshold is found anew at each size.
        threshold: the fixed one; None for none.
        seed: of the subsets.

    Returns:
        The sizes, descending, and those that the lists are too short for.
    """
    rng = np.random.default_rng(seed)
    sizes, short = [], []
    listed = (lists.candidates >= 0).sum(axis=1)
    ends = np.where(listed > 0, lists.scores[np.arange(len(lists)), listed - 1], -np.inf)
    ends[listed >= lists.gallery] = -np.inf  # nobody was left off
    for halving in range(HALVINGS + 1):
        size = lists.gallery >> halving
        if halving and size < SMALLEST:
            break
        rows: list[tuple[float, ...]] = []
        draws: list[tuple[float, ...]] = []
        for part, censored in _subsets(lists, ends, size, SUBSETS if halving else 1, rng):
            row = _errors(part, target, threshold)
            if max(censored, default=-np.inf) >= min(row[0], *row[4:]):
                rows = []
                break
            rows.append(row)
            again = RESAMPLES // SUBSETS if halving else RESAMPLES
            draws += [_errors(resampled_scores(part, rng), target, threshold) for _ in range(again)]
        if not rows:
            short.append(size)
            continue
        means = np.mean(rows, axis=0).tolist()
        ends_95 = [middle(column) for column in np.transpose(draws)]
        fixed = threshold is not None
        sizes.append(
            Size(
                gallery=size,
                fpir=means[2] if fixed else None,
                fpir_95=ends_95[2] if fixed else None,
                fnir=means[3] if fixed else None,
                fnir_95=ends_95[3] if fixed else None,
                target_threshold=means[0],
                target_fnir=means[1],
                target_fnir_95=ends_95[1],
            )
        )
    return tuple(sizes), tuple(short)


def _subsets(
    lists: Lists, ends: F64, size: int, count: int, rng: np.random.Generator
) -> Iterator[tuple[SearchScores, F64]]:
    """Scores in random galleries, and the ends of lists of which nobody is left."""
    whole = lists.search_scores()
    for _ in range(count):
        if size == lists.gallery:
            yield whole, np.zeros(0)
            continue
        kept = np.zeros(lists.gallery, bool)
        kept[rng.choice(lists.gallery, size, replace=False)] = True
        left = kept[lists.candidates] & (lists.candidates >= 0)
        first = left.argmax(axis=1)
        nobody = ~left.any(axis=1)
        rows = np.arange(len(lists))
        best = np.where(nobody, -np.inf, lists.scores[rows, first])
        who = np.where(nobody, -1, lists.candidates[rows, first])
        mated = lists.mated.copy()
        mated[lists.mated] = kept[lists.people[lists.mated]]
        if not mated.any():
            continue
        own = who == lists.people
        part = replace(
            whole,
            gallery=size,
            mated_ranks=own[mated].astype(np.int64),
            mated_scores=np.where(own, best, -np.inf)[mated],
            nonmated_scores=best[~lists.mated],
            mated_people=lists.people[mated],
        )
        yield part, ends[nobody & (mated | ~lists.mated)]


def _errors(
    scores: SearchScores, target: float, threshold: float | None
) -> tuple[float, float, float, float, float]:
    """(threshold at the target, FNIR there, FPIR and FNIR at the fixed one, the fixed one)."""
    found = max(threshold_at_fpir(scores.nonmated_scores, target), _lowest(scores))
    fixed = found if threshold is None else threshold
    return (
        found,
        fnir(scores, 1, found),
        float(np.mean(scores.nonmated_scores >= fixed)),
        fnir(scores, 1, fixed),
        fixed,
    )


def _people(scores: SearchScores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(K,) and (M,) person of each non-mated and each mated probe."""
    nonmated, mated = scores.nonmated_people, scores.mated_people
    return (
        np.arange(len(scores.nonmated_scores)) if nonmated is None else nonmated,
        np.arange(len(scores.mated_scores)) if mated is None else mated,
    )


def _lowest(scores: SearchScores) -> float:
    """The lowest score there is: a threshold below it, of probes without a score, says no more."""
    both = np.concatenate([scores.mated_scores, scores.nonmated_scores])
    both = both[np.isfinite(both)]
    return float(both.min()) if len(both) else 0.0
