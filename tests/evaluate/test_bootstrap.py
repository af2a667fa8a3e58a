"""Intervals over people: exact where they can be, and covering at their nominal rate."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.evaluate.bootstrap import middle, resampled, tpir_intervals
from facesearch.evaluate.metrics import SearchScores, open_set


def test_a_person_is_drawn_with_every_row() -> None:
    people = np.array([7, 3, 7, 9, 3, 7])
    counts = np.zeros(6)
    for seed in range(200):
        times = np.bincount(resampled(people, np.random.default_rng(seed)), minlength=6)
        assert times[0] == times[2] == times[5]
        assert times[1] == times[4]
        assert times[0] + times[1] + times[3] == 3  # as many people as there are
        counts += times
    np.testing.assert_allclose(counts / 200, 1.0, atol=0.2)


def test_middle_is_numpys_quantiles() -> None:
    values = np.arange(1001.0)
    assert middle(values) == pytest.approx((25.0, 975.0))
    assert middle(values, 0.5) == pytest.approx((250.0, 750.0))


def test_no_spread_no_interval() -> None:
    scores = SearchScores(5, np.ones(9, np.int64), np.ones(9, np.float32), np.zeros(4, np.float32))
    assert tpir_intervals(scores, [0.1], 50) == ((1.0, 1.0),)


def test_covers_at_its_nominal_rate() -> None:
    """Simulated people whose probes share an offset: treating probes as independent would fail."""
    rng = np.random.default_rng(5)
    trials, people, probes = 60, 100, 4
    truth = _simulated(rng, 30_000, probes)
    target = open_set(truth, [0.1]).points[0].tpir
    clustered = pretended = 0
    for trial in range(trials):
        drawn = _simulated(rng, people, probes)
        ((low, high),) = tpir_intervals(drawn, [0.1], 100, seed=trial)
        clustered += low <= target <= high
        independent = SearchScores(
            drawn.gallery, drawn.mated_ranks, drawn.mated_scores, drawn.nonmated_scores
        )
        ((low, high),) = tpir_intervals(independent, [0.1], 100, seed=trial)
        pretended += low <= target <= high
    # 95 % of 60 is 57, with a deviation of 1.7; the percentile bootstrap falls a little short
    assert clustered / trials >= 0.87
    assert pretended < clustered


def _simulated(rng: np.random.Generator, people: int, probes: int) -> SearchScores:
    mated = np.repeat(rng.normal(0.6, 0.2, people), probes) + rng.normal(0, 0.05, people * probes)
    nonmated = np.repeat(rng.normal(0.2, 0.1, people), probes) + rng.normal(
        0, 0.02, people * probes
    )
    whose = np.repeat(np.arange(people), probes)
    return SearchScores(
        gallery=people,
        mated_ranks=np.ones(len(mated), np.int64),
        mated_scores=mated.astype(np.float32),
        nonmated_scores=nonmated.astype(np.float32),
        mated_people=whose,
        nonmated_people=whose,
    )
