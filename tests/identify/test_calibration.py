"""Intervals that cover at their rate, refusals that can be acted on, names that are one person."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from facesearch.errors import UsageError
from facesearch.identify.calibration import Scores, calibrate, require_enough, set_aside
from facesearch.values import I64

SPREAD, DEVIATION = 0.03, 0.09
GRID = stats.norm.ppf((np.arange(401) + 0.5) / 401)


def draw(rng: np.random.Generator, probes: int, gallery: int) -> Scores:
    means = rng.normal(0.08, SPREAD, probes)
    scores = means[:, None] + rng.normal(0.0, DEVIATION, (probes, gallery))
    people = np.arange(probes + gallery)
    return Scores(scores.astype(np.float32), people[:probes], people[probes:])


def true_fpir(gallery: int, threshold: float) -> float:
    q = stats.norm.sf((threshold - (0.08 + SPREAD * GRID)) / DEVIATION)
    return float(np.mean(1.0 - (1.0 - q) ** gallery))


def test_intervals_cover_on_simulated_populations() -> None:
    """At least nominally: resampling rows and columns together overstates the noise of pairs."""
    rng = np.random.default_rng(0)
    inside, checked, runs, probes = 0, 0, 80, 400
    for _ in range(runs):
        (found,) = calibrate(draw(rng, 300, 100), 400, (0.05,), resamples=30)
        truth = true_fpir(400, found.threshold)
        low, high = found.fpir_95
        inside += low <= truth <= high
        low, high = found.checked_95(probes)
        checked += low <= rng.binomial(probes, truth) / probes <= high
        low, high = found.threshold_95
        assert low < found.threshold < high
    assert inside >= 0.9 * runs
    assert checked >= 0.9 * runs


def test_the_check_of_a_sure_rate_is_a_binomial() -> None:
    (found,) = calibrate(draw(np.random.default_rng(1), 300, 100), 100, (0.1,), resamples=2)
    sure = type(found)(found.model, 0.1, 100, found.threshold, 1e-9, 300, 100)
    low, high = sure.checked_95(500)
    assert low == stats.binom.ppf(0.025, 500, 0.1) / 500
    assert high == stats.binom.ppf(0.975, 500, 0.1) / 500
    unsure = type(found)(found.model, 0.1, 100, found.threshold, 0.5, 300, 100)
    assert unsure.checked_95(500)[1] > high
    assert unsure.fpir_95[0] < 0.1 < unsure.fpir_95[1]


@pytest.mark.parametrize(("probes", "people", "gallery"), [(50, 60, 100), (290, 60, 5000)])
def test_too_little_data_says_what_would_do(probes: int, people: int, gallery: int) -> None:
    data = draw(np.random.default_rng(2), probes, people)
    with pytest.raises(UsageError, match="too little data for FPIR 1 %") as refused:
        calibrate(data, gallery, (0.01,))
    rate, more = re.search(
        r"support ([\d.]+) %.*at least ([\d,]+) more", str(refused.value)
    ).groups()  # type: ignore[union-attr]
    require_enough(data, gallery, float(rate) / 100)
    enough = draw(np.random.default_rng(2), probes + int(more.replace(",", "")), people)
    require_enough(enough, gallery, 0.01)
    short = draw(np.random.default_rng(2), probes + int(more.replace(",", "")) - 1, people)
    with pytest.raises(UsageError):
        require_enough(short, gallery, 0.01)


def test_too_little_data_where_everybody_is_probe_and_gallery() -> None:
    def everyone(n: int) -> Scores:
        people = np.arange(n)
        return Scores(np.zeros((n, n), np.float32), people, people)

    with pytest.raises(UsageError, match="no rate") as refused:
        require_enough(everyone(5), 10_000, 0.02)
    more = int(re.search(r"at least ([\d,]+) more", str(refused.value))[1].replace(",", ""))  # type: ignore[index]
    require_enough(everyone(5 + more), 10_000, 0.02)
    with pytest.raises(UsageError):
        require_enough(everyone(5 + more - 2), 10_000, 0.02)


@pytest.mark.parametrize(("gallery", "target"), [(0, 0.1), (10, 0.0), (10, 1.0), (10, -0.1)])
def test_nonsense_is_refused(gallery: int, target: float) -> None:
    with pytest.raises(UsageError):
        calibrate(draw(np.random.default_rng(3), 100, 100), gallery, (target,))


def test_one_person_under_two_names_is_noticed_and_set_aside() -> None:
    rng = np.random.default_rng(4)
    data = draw(rng, 200, 200)
    people: I64 = np.arange(200)
    clean = Scores(data.scores, people, people)
    dirty = Scores(data.scores.copy(), people, people)
    dirty.scores[3, 7] = dirty.scores[7, 3] = 0.9
    left, found = set_aside(dirty)
    assert [(s.probe, s.gallery) for s in found] == [(3, 7)]
    assert found[0].score == pytest.approx(0.9)
    assert not left.strangers[3, 7]
    assert left.strangers[3, 8]
    assert set_aside(clean)[1] == []
    same = calibrate(left, 200, (0.03,), resamples=2)[0].threshold
    assert same == pytest.approx(calibrate(clean, 200, (0.03,), resamples=2)[0].threshold, abs=2e-3)


def test_three_names_of_one_person() -> None:
    people: I64 = np.arange(500)
    dirty = Scores(draw(np.random.default_rng(5), 500, 500).scores, people, people)
    for a, b in ((9, 40), (40, 70), (5, 70)):
        dirty.scores[a, b] = dirty.scores[b, a] = 0.95
    left, found = set_aside(dirty)
    assert {(s.probe, s.gallery) for s in found} == {(9, 40), (40, 70), (5, 70)}
    assert not left.strangers[np.ix_([5, 9, 40, 70], [5, 9, 40, 70])].any()
    assert left.strangers.sum() == 500 * 500 - 496 - 16
