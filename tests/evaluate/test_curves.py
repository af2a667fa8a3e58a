"""Curves against brute force, scipy, and cases worked by hand; ties everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.integrate import trapezoid

from facesearch.errors import UsageError
from facesearch.evaluate.curves import (
    accepted_at,
    cmc,
    det,
    equal_error_rate,
    error_versus_discard,
    roc,
)
from facesearch.evaluate.metrics import SearchScores, open_set

F32 = np.float32
Scores = NDArray[np.float32]
# multiples of 1/8: many ties
TIED = st.lists(st.integers(-8, 8), min_size=1, max_size=30).map(lambda v: np.array(v, F32) / 8)


@settings(max_examples=40, deadline=None)
@given(TIED, TIED)
def test_roc_counts_like_brute_force(genuine: Scores, impostor: Scores) -> None:
    curve = roc(genuine, impostor)
    assert curve.thresholds[0] == np.inf
    assert set(curve.thresholds[1:]) == {*genuine.tolist(), *impostor.tolist()}
    for t, fmr, fnmr in zip(
        curve.thresholds, curve.false_accepts, curve.false_rejects, strict=True
    ):
        assert fmr == pytest.approx(sum(s >= t for s in impostor) / len(impostor), abs=1e-12)
        assert fnmr == pytest.approx(sum(s < t for s in genuine) / len(genuine), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(TIED, TIED)
def test_area_under_the_roc_is_mann_whitneys_u(genuine: Scores, impostor: Scores) -> None:
    """An independent computation of all of the curve at once, ties counting half."""
    curve = roc(genuine, impostor)
    area = trapezoid(1.0 - curve.false_rejects, curve.false_accepts)
    u = stats.mannwhitneyu(genuine.astype(float), impostor.astype(float)).statistic
    assert area == pytest.approx(u / (len(genuine) * len(impostor)), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(TIED, TIED)
def test_equal_error_rate_lies_on_both_curves(genuine: Scores, impostor: Scores) -> None:
    curve = roc(genuine, impostor)
    rate = equal_error_rate(curve)
    # along the curve, the false rejects interpolated at that rate of false accepts
    along = np.linspace(0, len(curve.thresholds) - 1, 2001)
    steps = np.arange(len(curve.thresholds))
    accepts = np.interp(along, steps, curve.false_accepts)
    rejects = np.interp(along, steps, curve.false_rejects)
    nearest = np.argmin(np.abs(accepts - rejects))
    assert rate == pytest.approx((accepts[nearest] + rejects[nearest]) / 2, abs=0.01)


def test_worked_by_hand() -> None:
    curve = roc(np.array([0.9, 0.8, 0.5, 0.5]), np.array([0.6, 0.5, 0.2, 0.1]))
    np.testing.assert_allclose(curve.thresholds, [np.inf, 0.9, 0.8, 0.6, 0.5, 0.2, 0.1])
    np.testing.assert_allclose(curve.false_accepts, [0, 0, 0, 0.25, 0.5, 0.75, 1], atol=1e-12)
    np.testing.assert_allclose(curve.false_rejects, [1, 0.75, 0.5, 0.5, 0, 0, 0], atol=1e-12)
    # from (0.25, 0.5) to (0.5, 0): equal after a third of the way
    assert equal_error_rate(curve) == pytest.approx(1 / 3, abs=1e-12)
    assert accepted_at(curve, 0.25) == pytest.approx(0.5)
    assert accepted_at(curve, 0.5) == pytest.approx(1.0)
    assert accepted_at(curve, 0.0) == pytest.approx(0.5)


def test_undetected_faces_are_never_accepted() -> None:
    curve = roc(np.array([0.9, -np.inf]), np.array([0.1, -np.inf]))
    assert curve.false_accepts[-1] == 0.5
    assert curve.false_rejects[-1] == 0.5
    assert equal_error_rate(roc(np.array([-np.inf]), np.array([-np.inf, 0.5]))) == 1.0
    with pytest.raises(UsageError, match="needs comparisons"):
        roc(np.array([]), np.array([0.1]))


SEARCHED = SearchScores(
    gallery=9,
    mated_ranks=np.array([1, 1, 2, 0, 1, 7]),
    mated_scores=np.array([0.9, 0.5, 0.8, -np.inf, 0.5, 0.3], F32),
    nonmated_scores=np.array([0.5, 0.4, 0.2, -np.inf], F32),
)


def test_det_and_cmc_by_hand() -> None:
    for rank, expected in ((1, {0.5: (0.25, 3 / 6), 0.9: (0.0, 5 / 6)}), (2, {0.5: (0.25, 2 / 6)})):
        curve = det(SEARCHED, rank)
        for threshold, rates in expected.items():
            at = int(np.argmin(np.abs(curve.thresholds - threshold)))
            assert (curve.false_accepts[at], curve.false_rejects[at]) == pytest.approx(rates)
    assert cmc(SEARCHED, (1, 2, 10)) == pytest.approx((3 / 6, 4 / 6, 5 / 6))


def test_det_agrees_with_the_operating_points() -> None:
    rng = np.random.default_rng(3)
    searched = SearchScores(
        100,
        rng.choice([0, 1, 1, 1, 2], 500),
        rng.normal(0.5, 0.2, 500).round(2).astype(F32),
        rng.normal(0.3, 0.1, 400).round(2).astype(F32),
    )
    curve = det(searched)
    for point in open_set(searched, [0.1, 0.03, 0.01]).points:
        assert accepted_at(curve, point.target) == pytest.approx(point.tpir, abs=1e-12)


def test_error_versus_discard_by_hand() -> None:
    quality = np.array([9, 2, 3, 1, 8, 8], F32)
    # at FPIR 25 % the threshold is just above 0.4; missed are the 3rd, 4th and 6th
    points = error_versus_discard(SEARCHED, quality, [0.0, 1 / 6, 0.4, 0.7], fpir=0.25)
    assert [p.discarded for p in points] == pytest.approx([0.0, 1 / 6, 2 / 6, 3 / 6])
    assert [p.fnir for p in points] == pytest.approx([3 / 6, 2 / 5, 2 / 4, 1 / 3])
    with pytest.raises(UsageError, match="cannot be discarded"):
        error_versus_discard(SEARCHED, quality, [1.0])
    with pytest.raises(UsageError, match="2 qualities for 6"):
        error_versus_discard(SEARCHED, quality[:2], [0.1])
