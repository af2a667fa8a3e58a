"""Metrics over scores: pure functions, no photos and no engine.

Terms are those of ISO/IEC 19795-1 as NIST FRTE 1:N uses them. A score is a cosine; a comparison is
accepted at score >= T. A probe in which no face was found keeps its place: its score is -inf, so
that it is a miss if it is mated and raises no alarm if it is not.

    FPIR(N, T)     share of non-mated probes with any candidate at or above T
    FNIR(N, R, T)  share of mated probes whose own identity is not both within rank R and at or
                   above T
    TPIR           1 - FNIR. `OpenSet` reports it at R = 1
    rank-1         1 - FNIR(N, 1, -inf): investigation, no threshold
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import UsageError
from facesearch.values import I64

Scores = NDArray[np.floating]

FPIRS = (0.1, 0.03, 0.01)
"""The false-positive identification rates reported unless others are asked for."""


@dataclass(frozen=True, slots=True)
class Verification:
    """1:1 accuracy over K folds.

    Attributes:
        accuracy: mean of the folds' accuracies.
        standard_error: their standard deviation (K - 1 degrees of freedom) over sqrt(K).
        folds: K accuracies, in order of fold number.
        thresholds: K thresholds, each chosen on the other folds.
        undetected: pairs in which a face was not found; they count as "different".
    """

    accuracy: float
    standard_error: float
    folds: tuple[float, ...]
    thresholds: tuple[float, ...]
    undetected: int


@dataclass(frozen=True, slots=True)
class SearchScores:
    """What searching a gallery of N identities returned for every probe.

    Attributes:
        gallery: N, number of enrolled identities.
        mated_ranks: (M,) int64 rank of each mated probe's own identity in its candidate list, from
            1; 0 where it is not on the list or no face was found.
        mated_scores: (M,) score of that candidate; -inf where the rank is 0. The engine's are
            float32; those of other systems may be float64.
        nonmated_scores: (K,) best score of each non-mated probe; -inf where there is no candidate
            or no face was found.
        mated_undetected: mated probes in which no face was found.
        nonmated_undetected: non-mated probes in which no face was found.
        mated_people: (M,) int64 number of the person each mated probe shows, for resampling; None
            if each shows another.
        nonmated_people: (K,) likewise.
    """

    gallery: int
    mated_ranks: I64
    mated_scores: Scores
    nonmated_scores: Scores
    mated_undetected: int = 0
    nonmated_undetected: int = 0
    mated_people: I64 | None = None
    nonmated_people: I64 | None = None

    def __post_init__(self) -> None:
        if self.mated_ranks.shape != self.mated_scores.shape:
            raise ValueError("one rank and one score a mated probe")
        if not len(self.mated_ranks) or not len(self.nonmated_scores):
            raise ValueError("both mated and non-mated probes are needed")
        for people, probes in (
            (self.mated_people, self.mated_scores),
            (self.nonmated_people, self.nonmated_scores),
        ):
            if people is not None and people.shape != probes.shape:
                raise ValueError("one person a probe")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One threshold and what it gives.

    Attributes:
        target: the FPIR asked for.
        threshold: see `threshold_at_fpir`.
        fpir: the FPIR it has on these probes, at most the target.
        tpir: 1 - FNIR(N, 1, threshold).
    """

    target: float
    threshold: float
    fpir: float
    tpir: float


@dataclass(frozen=True, slots=True)
class OpenSet:
    """Open-set identification.

    Attributes:
        scores: what was measured, undetected probes included.
        rank1: share of mated probes whose own identity is the first candidate.
        points: one per FPIR asked for, in that order.
    """

    scores: SearchScores
    rank1: float
    points: tuple[OperatingPoint, ...]


def verification(scores: NDArray[np.floating], same: NDArray[np.bool_], folds: I64) -> Verification:
    """K-fold accuracy, each fold at the threshold that is best on the others.

    This is the protocol of LFW (Huang et al., "Labeled Faces in the Wild", UMass TR 07-49, section
    4): mean and standard error over the folds.

    Args:
        scores: (P,) similarity of each pair; -inf where a face was not found.
        same: (P,) whether both photos show the same person.
        folds: (P,) fold of each pair.

    Raises:
        UsageError: fewer than two folds.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise UsageError("verification needs at least two folds")
    thresholds = [best_threshold(scores[folds != fold], same[folds != fold]) for fold in numbers]
    accuracies = [
        float(np.mean((scores[folds == fold] >= threshold) == same[folds == fold]))
        for fold, threshold in zip(numbers, thresholds, strict=True)
    ]
    return Verification(
        accuracy=float(np.mean(accuracies)),
        standard_error=float(np.std(accuracies, ddof=1) / np.sqrt(len(accuracies))),
        folds=tuple(accuracies),
        thresholds=tuple(thresholds),
        undetected=int(np.isneginf(scores).sum()),
    )


def best_threshold(scores: NDArray[np.floating], same: NDArray[np.bool_]) -> float:
    """The threshold T at which "same if score >= T" is right most often.

    The cuts tried lie half-way between neighbouring distinct scores, at the lowest finite score
    (accept all) and at +inf (accept none). Of equally good cuts the middle one is taken, of two
    middles the lower: an end of the plateau would lean to one kind of error.
    """
    values, inverse = np.unique(scores.astype(np.float64), return_inverse=True)
    gain = np.bincount(inverse, np.where(same, -1.0, 1.0), minlength=len(values))
    # right[i]: correct answers when values[i:] are accepted; right[-1]: none is.
    right = np.concatenate(([0.0], np.cumsum(gain)))
    if np.isneginf(values[0]):
        right[0] = -np.inf  # a pair without a face is never accepted
    ties = np.flatnonzero(right == right.max())
    best = int(ties[(len(ties) - 1) // 2])
    if best == len(values):
        return float("inf")
    if best == 0 or np.isneginf(values[best - 1]):
        return float(values[best])
    return float((values[best - 1] + values[best]) / 2)


def threshold_at_fpir(nonmated_scores: Scores, fpir: float) -> float:
    """The smallest T with FPIR(N, T) <= fpir on these probes, to the precision of the scores.

    With K probes, `a` the largest whole number with a / K <= fpir, and s the (a + 1)-th largest
    score, T is the number just above s, float32 or float64 as they are: at most `a` probes score T
    or more, however many tie at s, and any smaller T lets more than `a` through. T is -inf if fpir
    is 1.

    Args:
        nonmated_scores: (K,) best score of each non-mated probe, -inf for none.
        fpir: 0..1.

    Raises:
        UsageError: `fpir` is outside 0..1, or there are no probes.
    """
    if not 0.0 <= fpir <= 1.0:
        raise UsageError(f"FPIR {fpir} is not between 0 and 1")
    count = len(nonmated_scores)
    if not count:
        raise UsageError("a threshold at an FPIR needs non-mated probes; there are none")
    allowed = int(np.searchsorted(np.arange(count + 1) / count, fpir, side="right")) - 1
    if allowed == count:
        return float("-inf")
    kth = np.partition(nonmated_scores, count - 1 - allowed)[count - 1 - allowed]
    return float(np.nextafter(kth, np.inf, dtype=nonmated_scores.dtype))


def fnir(scores: SearchScores, rank: int, threshold: float) -> float:
    """FNIR(N, R, T): mated probes not answered by their identity within rank R at T or above."""
    ranks = scores.mated_ranks
    hit = (ranks >= 1) & (ranks <= rank) & (scores.mated_scores >= threshold)
    return float(1.0 - hit.mean())


def open_set(scores: SearchScores, fpirs: Sequence[float] = FPIRS) -> OpenSet:
    """Rank-1 rate, and TPIR at rank 1 for each FPIR.

    Raises:
        UsageError: an FPIR is outside 0..1.
    """
    points = []
    for target in fpirs:
        threshold = threshold_at_fpir(scores.nonmated_scores, target)
        points.append(
            OperatingPoint(
                target=target,
                threshold=threshold,
                fpir=float(np.mean(scores.nonmated_scores >= threshold)),
                tpir=1.0 - fnir(scores, 1, threshold),
            )
        )
    return OpenSet(scores, rank1=1.0 - fnir(scores, 1, float("-inf")), points=tuple(points))
