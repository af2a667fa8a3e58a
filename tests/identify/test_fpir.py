"""The model of FPIR against populations whose FPIR is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from facesearch.identify import fpir
from facesearch.identify.fpir import FpirModel, Tail
from facesearch.values import F32

SPREAD, DEVIATION = 0.03, 0.09
GRID = stats.norm.ppf((np.arange(401) + 0.5) / 401)


def draw(rng: np.random.Generator, probes: int, gallery: int) -> F32:
    """Scores of strangers: each probe has a mean of its own, the rest is normal."""
    means = rng.normal(0.08, SPREAD, probes)
    scores = means[:, None] + rng.normal(0.0, DEVIATION, (probes, gallery))
    return scores.astype(np.float32)


def true_fpir(gallery: int, threshold: float) -> float:
    q = stats.norm.sf((threshold - (0.08 + SPREAD * GRID)) / DEVIATION)
    return float(np.mean(1.0 - (1.0 - q) ** gallery))


def all_strangers(scores: F32) -> NDArray[np.bool_]:
    return np.ones(scores.shape, bool)


def test_means_lose_the_spread_that_is_noise() -> None:
    scores = draw(np.random.default_rng(0), 2000, 25)
    means, deviations, z = fpir.standardised(scores, all_strangers(scores))
    assert scores.mean(axis=1).std() == pytest.approx(np.hypot(SPREAD, DEVIATION / 5), rel=0.05)
    assert means.std() == pytest.approx(SPREAD, rel=0.06)
    assert deviations.mean() == pytest.approx(DEVIATION, rel=0.02)
    assert deviations.std() < 0.1 * DEVIATION
    assert z.std() == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("target", [0.1, 0.03, 0.01])
def test_threshold_for_a_larger_gallery(target: float) -> None:
    scores = draw(np.random.default_rng(1), 3000, 250)
    model = fpir.fit(scores, all_strangers(scores))
    threshold = model.threshold(1000, target)
    assert model.fpir(1000, threshold) == pytest.approx(target, rel=1e-3)
    assert true_fpir(1000, threshold) == pytest.approx(target, rel=0.25)


def test_a_heavy_tail_is_seen() -> None:
    rng = np.random.default_rng(2)
    z = (stats.t.rvs(6, size=400_000, random_state=rng) / np.sqrt(1.5)).astype(np.float32)
    tail = fpir.fit_tail(z)
    levels = np.array([4.0, 5.0, 6.0])
    truth = stats.t.sf(levels * np.sqrt(1.5), 6)
    assert tail.shape > 0.1
    assert np.allclose(np.log(tail.exceed(levels)), np.log(truth), atol=0.7)
    assert (stats.norm.sf(levels) < 0.2 * truth).all()  # where a normal tail would have been


def test_body_and_tail_meet() -> None:
    z = np.random.default_rng(3).standard_normal(50_000).astype(np.float32)
    tail = fpir.fit_tail(z)
    levels = np.linspace(-4, 7, 2000)
    chance = tail.exceed(levels)
    assert (np.diff(chance) <= 1e-12).all()
    assert chance[0] == pytest.approx(1.0, abs=1e-3)
    inside = (levels > -2) & (levels < 3)
    assert np.allclose(chance[inside], stats.norm.sf(levels[inside]), atol=0.01)


def test_people_of_one_name_are_not_counted() -> None:
    scores = draw(np.random.default_rng(4), 100, 100)
    strangers = ~np.eye(100, dtype=bool)
    mated = scores.copy()
    np.fill_diagonal(mated, 0.9)
    np.fill_diagonal(scores, -0.7)
    assert fpir.fit(mated, strangers).threshold(100, 0.05) == pytest.approx(
        fpir.fit(scores, strangers).threshold(100, 0.05), abs=1e-6
    )


def test_one_probe_alone_is_the_textbook_formula() -> None:
    tail = Tail(np.linspace(-3, 1, 257), 1.0, 0.16, 2.0, 0.0)
    model = FpirModel(np.array([0.1]), np.array([0.1]), tail)
    fmr = model.fmr(0.4)
    assert model.fpir(700, 0.4) == pytest.approx(1 - (1 - fmr) ** 700, rel=1e-9)


def test_json_round_trip() -> None:
    scores = draw(np.random.default_rng(5), 200, 100)
    model = fpir.fit(scores, all_strangers(scores))
    again = FpirModel.from_json(json.loads(json.dumps(model.as_json())))
    assert again.threshold(500, 0.02) == pytest.approx(model.threshold(500, 0.02), abs=1e-4)
