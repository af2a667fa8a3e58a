"""Curves over all thresholds: DET, CMC, ROC with its equal error rate, error versus discard.

A comparison or a candidate is accepted at score >= T. Curves hold one point for every distinct
score, so that they are exact with ties, and one where nothing is accepted.

    FMR(T)   share of comparisons of different people at or above T
    FNMR(T)  share of comparisons of one person below T
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import UsageError
from facesearch.evaluate.metrics import Scores, SearchScores, fnir, threshold_at_fpir
from facesearch.values import F32

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Two error rates at each threshold.

    Attributes:
        thresholds: (K,) float64, descending, the first +inf.
        false_accepts: (K,) FMR or FPIR, ascending.
        false_rejects: (K,) FNMR or FNIR, descending.
    """

    thresholds: F64
    false_accepts: F64
    false_rejects: F64


def det(scores: SearchScores, rank: int = 1) -> Curve:
    """FPIR(N, T) and FNIR(N, R, T) at every threshold (ISO/IEC 19795-1).

    Args:
        scores: what searching returned.
        rank: R; a mated probe answered by its identity further down counts as missed.
    """
    within = (scores.mated_ranks >= 1) & (scores.mated_ranks <= rank)
    own = np.where(within, scores.mated_scores, -np.inf)
    return _curve(own, scores.nonmated_scores)


def roc(genuine: Scores, impostor: Scores) -> Curve:
    """FMR and FNMR at every threshold.

    Args:
        genuine: (M,) scores of one person; -inf where a face was not found.
        impostor: (K,) scores of different people; likewise.

    Raises:
        UsageError: either is empty.
    """
    if not len(genuine) or not len(impostor):
        raise UsageError("a ROC needs comparisons of one person and of different people")
    return _curve(genuine, impostor)


def equal_error_rate(curve: Curve) -> float:
    """The rate at which both errors are equal, on straight lines between the curve's points."""
    gap = curve.false_rejects - curve.false_accepts
    after = int(np.argmax(gap <= 0))  # the last point accepts all that was found
    if gap[after] > 0:  # undetected faces keep the false rejects above
        return float(curve.false_rejects[-1])
    if after == 0 or gap[after] == 0:
        return float(curve.false_accepts[after])
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    low, high = curve.false_accepts[after - 1], curve.false_accepts[after]
    return float(low + share * (high - low))


def accepted_at(curve: Curve, false_accepts: float) -> float:
    """TAR at FAR (or TPIR at FPIR): the best 1 - false rejects at false accepts up to a rate."""
    last = int(np.searchsorted(curve.false_accepts, false_accepts, side="right")) - 1
    return float(1.0 - curve.false_rejects[last])


def cmc(scores: SearchScores, ranks: Sequence[int] = (1, 5, 10, 50)) -> tuple[float, ...]:
    """Cumulative match characteristic: 1 - FNIR(N, R, -inf) at each rank R."""
    return tuple(1.0 - fnir(scores, rank, float("-inf")) for rank in ranks)


@dataclass(frozen=True, slots=True)
class Discard:
    """One point of the error-versus-discard curve (ISO/IEC 29794-1).

    Attributes:
        discarded: share of the mated probes refused for their quality.
        fnir: FNIR(N, 1, T) of the mated probes kept.
    """

    discarded: float
    fnir: float


def error_versus_discard(
    scores: SearchScores, quality: F32, shares: Sequence[float], fpir: float = 0.01
) -> tuple[Discard, ...]:
    """FNIR of the probes that are left when the worst of the mated ones are discarded.

    The threshold stays the one at `fpir` on all non-mated probes: it is set before a probe comes.

    Args:
        scores: what searching returned.
        quality: (M,) of the mated probes, higher is better; of equal ones, all are kept.
        shares: of the probes to discard at most, 0 up to but not 1.
        fpir: sets the threshold.

    Raises:
        UsageError: a share is out of range, or there is not one quality a mated probe.
    """
    if quality.shape != scores.mated_scores.shape:
        raise UsageError(f"{len(quality)} qualities for {len(scores.mated_scores)} mated probes")
    threshold = threshold_at_fpir(scores.nonmated_scores, fpir)
    missed = (scores.mated_ranks != 1) | (scores.mated_scores < threshold)
    ordered = np.sort(quality)
    points = []
    for share in shares:
        if not 0.0 <= share < 1.0:
            raise UsageError(f"a share of {share} cannot be discarded; 0 up to but not 1")
        kept = quality >= ordered[int(share * len(ordered))]
        points.append(Discard(float(1.0 - kept.mean()), float(missed[kept].mean())))
    return tuple(points)


def _curve(own: Scores, others: Scores) -> Curve:
    own, others = np.sort(own.astype(np.float64)), np.sort(others.astype(np.float64))
    finite = np.unique(np.concatenate([own, others]))[::-1]
    thresholds = np.concatenate([[np.inf], finite[np.isfinite(finite)]])
    return Curve(
        thresholds,
        (len(others) - np.searchsorted(others, thresholds, side="left")) / len(others),
        np.searchsorted(own, thresholds, side="left") / len(own),
    )
