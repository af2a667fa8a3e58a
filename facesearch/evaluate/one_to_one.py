"""One-to-one results with intervals: FMR and FNMR, ROC, equal error rate, TAR at FAR.

Every probe face is compared with every template: with its own identity's, a genuine comparison,
and with all others', impostor ones. Probes without a face take no part (ISO/IEC 19795-1 counts
them as failures to acquire; one-to-many search counts them as misses).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facesearch.evaluate.bootstrap import RULE_OF_THREE, Interval, counts_of, draws_of, middle
from facesearch.evaluate.curves import Curve, accepted_at, equal_error_rate, roc
from facesearch.evaluate.lists import F64
from facesearch.evaluate.one_to_many import Band
from facesearch.values import F32, I64

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
RESAMPLES = 500
GRID = 300
"""Thresholds at which draws are counted: quantiles of the impostor scores, evenly spaced in log."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Scores of probe faces against templates.

    Attributes:
        scores: (P, N) float32.
        own: (P,) int64 column of the probe's own identity; -1 where it is not among the templates.
        people: (P,) int64 number of the person each probe shows.
    """

    scores: F32
    own: I64
    people: I64


@dataclass(frozen=True, slots=True)
class Accepted:
    """TAR at one FAR.

    Attributes:
        far: share of impostor comparisons accepted, at most.
        threshold: the one that keeps it.
        tar: share of genuine comparisons accepted.
        tar_95: its interval.
    """

    far: float
    threshold: float
    tar: float
    tar_95: Interval


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """FMR and FNMR at a given threshold, with intervals."""

    threshold: float
    fmr: float
    fmr_95: Interval
    fnmr: float
    fnmr_95: Interval


@dataclass(frozen=True, slots=True)
class OneToOne:
    """What one-to-one comparison gives.

    Attributes:
        genuine: number of comparisons of one person.
        impostor: number of comparisons of different people.
        least_far: smallest FAR that the number supports, 3 / impostor; smaller are not stated.
        eer: equal error rate.
        eer_95: its interval.
        accepted: TAR at each FAR that is supported.
        at: errors at the threshold given; None without one.
        roc: the curve, with its band.
    """

    genuine: int
    impostor: int
    least_far: float
    eer: float
    eer_95: Interval
    accepted: tuple[Accepted, ...]
    at: AtThreshold | None
    roc: Band


def one_to_one(
    found: Comparisons,
    threshold: float | None = None,
    fars: Sequence[float] = FARS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> OneToOne | None:
    """Measure one-to-one comparison; None without a comparison of each kind.

    The intervals come from drawing the people of the probes; draws are counted at `GRID`
    thresholds.
    """
    rows = np.flatnonzero(found.own >= 0)
    genuine = found.scores[rows, found.own[rows]].astype(np.float64)
    others = np.ones(found.scores.shape, bool)
    others[rows, found.own[rows]] = False
    impostor = found.scores[others].astype(np.float64)
    if not len(genuine) or not len(impostor):
        return None
    curve = roc(genuine, impostor)
    nobody = float(np.nextafter(max(genuine.max(), impostor.max()), np.inf))  # for +inf
    least = RULE_OF_THREE / len(impostor)
    stated = [far for far in fars if far >= least]
    grid = np.geomspace(1.0 / len(impostor), 1.0, GRID)
    thresholds = curve.thresholds[_last(curve, grid)]
    none = np.nextafter(impostor.max(), np.inf)  # accepts no impostor
    thresholds = np.unique(np.append(thresholds[np.isfinite(thresholds)], none))[::-1]
    fixed = [] if threshold is None else [threshold]
    fmr, fnmr = _draws(found, np.concatenate([thresholds, fixed]), resamples, seed)
    n = len(thresholds)
    at = None
    if threshold is not None:
        at = AtThreshold(
            threshold,
            float(np.mean(impostor >= threshold)),
            middle(fmr[:, n]),
            float(np.mean(genuine < threshold)),
            middle(fnmr[:, n]),
        )
        fmr, fnmr = fmr[:, :n], fnmr[:, :n]
    tars = np.array([1.0 - _at(a, r, np.array(stated)) for a, r in zip(fmr, fnmr, strict=True)])
    places = np.searchsorted(curve.false_accepts, grid, side="right") - 1
    bands = np.array([_at(a, r, grid) for a, r in zip(fmr, fnmr, strict=True)])
    ends = [middle(column) for column in bands.T]
    return OneToOne(
        genuine=len(genuine),
        impostor=len(impostor),
        least_far=least,
        eer=equal_error_rate(curve),
        eer_95=middle([_crossing(a, r) for a, r in zip(fmr, fnmr, strict=True)]),
        accepted=tuple(
            Accepted(
                far,
                min(nobody, float(curve.thresholds[_last(curve, np.array([far]))[0]])),
                accepted_at(curve, far),
                middle(tars[:, i]),
            )
            for i, far in enumerate(stated)
        ),
        at=at,
        roc=Band(
            tuple(grid.tolist()),
            tuple(np.minimum(curve.thresholds[places], nobody).tolist()),
            tuple(curve.false_rejects[places].tolist()),
            tuple(low for low, _ in ends),
            tuple(high for _, high in ends),
        ),
    )


def _at(false_accepts: F64, false_rejects: F64, rates: F64) -> F64:
    """False rejects at the lowest threshold whose false accepts are up to each rate."""
    places = np.searchsorted(false_accepts, rates, side="right") - 1
    found: F64 = false_rejects[np.maximum(places, 0)]
    return found


def _last(curve: Curve, rates: F64) -> I64:
    """Place of the last point of the curve with false accepts up to each rate."""
    return (np.searchsorted(curve.false_accepts, rates, side="right") - 1).astype(np.int64)


def _draws(found: Comparisons, thresholds: F64, resamples: int, seed: int) -> tuple[F64, F64]:
    """(R, C) FMR and FNMR at these thresholds in draws of people."""
    own = found.own
    accepted = np.empty((len(own), len(thresholds)), np.int64)
    rejected = np.zeros_like(accepted)
    templates = found.scores.shape[1]
    for row, scores in enumerate(found.scores):
        ordered = np.sort(scores.astype(np.float64))
        accepted[row] = templates - np.searchsorted(ordered, thresholds, side="left")
        if own[row] >= 0:
            hit = float(scores[own[row]]) >= thresholds
            accepted[row] -= hit
            rejected[row] = ~hit
    times = draws_of(len(np.unique(found.people)), resamples, np.random.default_rng(seed))
    has = (own >= 0).astype(np.int64)[:, None]
    _, accepted_by = counts_of(found.people, accepted)
    _, rejected_by = counts_of(found.people, rejected)
    _, genuine_by = counts_of(found.people, has)
    _, impostor_by = counts_of(found.people, templates - has)
    return (
        (times @ accepted_by) / np.maximum(times @ impostor_by, 1.0),
        (times @ rejected_by) / np.maximum(times @ genuine_by, 1.0),
    )


def _crossing(fmr: F64, fnmr: F64) -> float:
    """Where false rejects fall below false accepts, on straight lines between the thresholds."""
    gap = fnmr - fmr
    after = int(np.argmax(gap <= 0))
    if after == 0:
        return float(max(fmr[0], fnmr[0])) if gap[0] <= 0 else float(fnmr[-1])
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(fmr[after - 1] + share * (fmr[after] - fmr[after - 1]))
