"""One-to-one results against hand-worked cases and scipy, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from facesearch.evaluate.one_to_one import Comparisons, one_to_one
from facesearch.values import F32


def tiny() -> Comparisons:
    """Four probes, the last of a stranger, against two identities."""
    scores = np.array([[0.9, 0.4], [0.5, 0.3], [0.5, 0.4], [0.2, 0.1]], np.float32)
    return Comparisons(scores, np.array([0, 0, 1, -1]), np.array([0, 0, 1, 2]))


def test_by_hand() -> None:
    """Genuine 0.9, 0.5, 0.4; impostor 0.4, 0.3, 0.5, 0.2, 0.1: ties at 0.5 and 0.4."""
    found = one_to_one(tiny(), threshold=0.5, fars=(0.7, 0.1))
    assert found is not None
    assert (found.genuine, found.impostor) == (3, 5)
    assert found.at is not None
    assert (found.at.fmr, found.at.fnmr) == pytest.approx((1 / 5, 1 / 3), abs=1e-9)
    # at 0.5: FMR 1/5, FNMR 1/3; at 0.4: FMR 2/5, FNMR 0: the line between them crosses at x
    assert found.eer == pytest.approx(1 / 5 + (2 / 15) / (2 / 15 + 2 / 5) * (1 / 5), abs=1e-9)
    # 3 of 5 comparisons support no FAR below 0.6
    assert [a.far for a in found.accepted] == [0.7]
    assert found.accepted[0].tar == 1.0
    assert found.least_far == pytest.approx(0.6)


def made(seed: int, people: int = 30, probes: int = 120, step: float = 0.02) -> Comparisons:
    rng = np.random.default_rng(seed)
    own = rng.integers(-1, people, probes)
    scores = rng.normal(0.1, 0.1, (probes, people))
    mated = own >= 0
    scores[mated, own[mated]] += 0.35
    rounded: F32 = (np.round(scores / step) * step).astype(np.float32)
    return Comparisons(rounded, own, np.where(mated, own, people + np.arange(probes)))


@pytest.mark.parametrize("seed", range(4))
def test_rates_equal_scipys_distribution_functions(seed: int) -> None:
    found = made(seed)
    rows = np.flatnonzero(found.own >= 0)
    genuine = found.scores[rows, found.own[rows]].astype(np.float64)
    impostor = np.delete(found.scores, [], axis=0).astype(np.float64)
    impostor[rows, found.own[rows]] = np.nan
    impostor = impostor[~np.isnan(impostor)]
    fnm, fm = stats.ecdf(genuine).cdf, stats.ecdf(impostor).sf
    measured = one_to_one(found, threshold=0.3, fars=(0.1, 0.01))
    assert measured is not None
    below = np.nextafter(0.3, 0.0)  # scipy's functions count scores up to, not below
    assert measured.at is not None
    assert measured.at.fmr == pytest.approx(float(fm.evaluate(below)), abs=1e-9)
    assert measured.at.fnmr == pytest.approx(float(fnm.evaluate(below)), abs=1e-9)
    for accepted in measured.accepted:
        every = np.unique(np.concatenate([genuine, impostor]))
        allowed = [t for t in every if np.mean(impostor >= t) <= accepted.far]
        tar = max(float(np.mean(genuine >= t)) for t in allowed)
        assert accepted.tar == pytest.approx(tar, abs=1e-9)
        assert accepted.tar_95[0] <= accepted.tar <= accepted.tar_95[1]
    # the equal error rate: the root of the difference of both, straight between thresholds
    fmr = [float(np.mean(impostor >= t)) for t in every]
    fnmr = [float(np.mean(genuine < t)) for t in every]
    steps = np.arange(len(every))
    root = optimize.brentq(
        lambda x: np.interp(x, steps, fnmr) - np.interp(x, steps, fmr),
        0,
        len(every) - 1,
        xtol=1e-14,
    )
    assert measured.eer == pytest.approx(float(np.interp(root, steps, fmr)), abs=1e-9)
    assert measured.eer_95[0] - 0.01 <= measured.eer <= measured.eer_95[1] + 0.01


def test_nothing_to_compare_is_none() -> None:
    strangers = Comparisons(np.zeros((2, 2), np.float32), np.full(2, -1), np.arange(2))
    assert one_to_one(strangers) is None
    alone = Comparisons(np.ones((1, 1), np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64))
    assert one_to_one(alone) is None


def test_intervals_cover_at_their_nominal_rate() -> None:
    """FNMR of people whose probes are alike, at a threshold where the truth is known."""
    rng = np.random.default_rng(1)
    truth = float(stats.norm.cdf(0.3, 0.5, np.hypot(0.15, 0.05)))
    trials, covered = 100, 0
    for trial in range(trials):
        people = np.repeat(np.arange(80), 3)
        scores = rng.normal(0.0, 0.1, (240, 80))
        mated = np.repeat(rng.normal(0.5, 0.15, 80), 3) + rng.normal(0, 0.05, 240)
        scores[np.arange(240), people] = mated
        found = one_to_one(
            Comparisons(scores.astype(np.float32), people, people), 0.3, (0.01,), 100, seed=trial
        )
        assert found is not None
        assert found.at is not None
        covered += found.at.fnmr_95[0] <= truth <= found.at.fnmr_95[1]
    assert covered / trials >= 0.89  # 95 expected, with a deviation of 2.2
