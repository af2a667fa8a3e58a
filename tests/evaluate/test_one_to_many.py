"""One-to-many results against sums by hand and by plain loops, ties included."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from facesearch.evaluate.bootstrap import mean_interval
from facesearch.evaluate.lists import Lists, Probe, of_probes
from facesearch.evaluate.one_to_many import (
    at_fpirs,
    at_threshold,
    by_rank,
    least_fpir,
    strangers_needed,
    sweep,
)
from tests.evaluate.made_lists import made


def tiny() -> Lists:
    """Five mated probes and four others, small enough to count on the fingers."""
    return of_probes(
        [
            Probe("1", "A", True, [("A", 0.9), ("B", 0.1)]),
            Probe("2", "A", True, [("A", 0.5), ("B", 0.4)]),
            Probe("3", "B", True, [("A", 0.6), ("B", 0.5)]),
            Probe("4", "B", True, [("B", 0.3), ("A", 0.2)]),
            Probe("5", "C", True, [("A", 0.2), ("B", 0.1)]),
            Probe("6", "", False, [("A", 0.5), ("B", 0.1)]),
            Probe("7", "", False, [("B", 0.3), ("A", 0.1)]),
            Probe("8", "", False, [("B", 0.3), ("A", 0.2)]),
            Probe("9", "", False, [("A", 0.1), ("B", 0.1)]),
        ],
        3,
    )


@pytest.mark.parametrize(
    ("threshold", "fpir", "fnir", "any_rank"),
    [
        (0.5, Fraction(1, 4), Fraction(3, 5), Fraction(2, 5)),  # a score of T is a match
        (0.3, Fraction(3, 4), Fraction(2, 5), Fraction(1, 5)),  # two strangers tie there
        (0.6, Fraction(0), Fraction(4, 5), Fraction(4, 5)),
        (-1.0, Fraction(1), Fraction(2, 5), Fraction(1, 5)),
    ],
)
def test_errors_at_a_threshold_by_hand(
    threshold: float, fpir: Fraction, fnir: Fraction, any_rank: Fraction
) -> None:
    point = at_threshold(tiny().search_scores(), threshold)
    assert point.fpir == pytest.approx(float(fpir), abs=1e-9)
    assert point.fnir == pytest.approx(float(fnir), abs=1e-9)
    assert point.fnir_95[0] <= point.fnir <= point.fnir_95[1]
    assert point.fnir_any_rank == pytest.approx(float(any_rank), abs=1e-9)


def test_ranks_by_hand() -> None:
    one, five = by_rank(tiny().search_scores(), (1, 5))
    assert one.hit == pytest.approx(3 / 5, abs=1e-9)
    assert five.hit == pytest.approx(4 / 5, abs=1e-9)  # C is on no list


def test_a_threshold_for_an_fpir_by_hand() -> None:
    """At most one of four may raise an alarm: two tie at 0.3, so it lies just above."""
    (point,), _ = at_fpirs(tiny().search_scores(), [0.25], 20)
    assert point.threshold == np.nextafter(0.3, 1.0)
    # above 0.3 are three mates, one of them second: the other list has no place for C
    assert (point.fpir, point.fnir, point.fnir_any_rank) == pytest.approx((0.25, 0.6, 0.4))
    (point,), _ = at_fpirs(tiny().search_scores(), [0.74], 20)
    assert point.threshold == np.nextafter(0.3, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_det_curve_equals_plain_counting(seed: int) -> None:
    lists, _ = made(np.random.default_rng(seed))
    _, det = at_fpirs(lists.search_scores(), [0.1], 20)
    strangers = [row for row in range(len(lists)) if not lists.mated[row]]
    mates = [row for row in range(len(lists)) if lists.mated[row]]
    assert len(det.thresholds) > 10
    for threshold, fpir, fnir in zip(
        det.thresholds, det.false_accepts, det.false_rejects, strict=True
    ):
        alarms = sum(any(s >= threshold for s in lists.scores[row]) for row in strangers)
        hits = sum(
            lists.candidates[row, 0] == lists.people[row] and lists.scores[row, 0] >= threshold
            for row in mates
        )
        assert fpir == pytest.approx(alarms / len(strangers), abs=1e-9)
        assert fnir == pytest.approx(1 - hits / len(mates), abs=1e-9)


def test_what_a_number_of_strangers_supports() -> None:
    assert least_fpir(300) == pytest.approx(0.01)
    assert strangers_needed(0.01) == 300
    assert strangers_needed(0.03) == 100
    assert strangers_needed(0.007) == 429


def test_a_sweep_of_short_lists_is_what_searching_the_subset_gives() -> None:
    """The same subsets searched with all scores at hand, a size at a time."""
    lists, scores = made(np.random.default_rng(3), gallery=64, mated=200, strangers=200)
    short, _ = made(np.random.default_rng(3), gallery=64, mated=200, strangers=200, top=40)
    sizes, unstated = sweep(short, 0.05, 0.5)
    assert [s.gallery for s in sizes] == [64, 32, 16]
    assert not unstated
    full, _ = sweep(lists, 0.05, 0.5)
    assert [(s.fpir, s.fnir, s.target_fnir) for s in sizes] == [
        (s.fpir, s.fnir, s.target_fnir) for s in full
    ]
    # and the mean over other random subsets agrees, within what 30 subsets scatter
    rng, rates = np.random.default_rng(9), []
    strangers = scores[~lists.mated]
    for _ in range(300):
        kept = rng.choice(64, 16, replace=False)
        rates.append(float(np.mean(strangers[:, kept].max(axis=1) >= 0.5)))
    assert sizes[2].fpir == pytest.approx(np.mean(rates), abs=4 * np.std(rates) / np.sqrt(30))


def test_alarms_grow_with_the_gallery() -> None:
    sizes, _ = sweep(made(np.random.default_rng(4), 80, 300, 400)[0], 0.05, 0.45)
    rates = [s.fpir for s in sizes if s.fpir is not None]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.5 * rates[-1]


def test_sizes_that_the_lists_are_too_short_for_are_not_stated() -> None:
    lists, _ = made(np.random.default_rng(3), gallery=64, mated=200, strangers=200, top=1)
    sizes, unstated = sweep(lists, 0.05, 0.1)
    assert [s.gallery for s in sizes] == [64]
    assert unstated == (32, 16)


def test_a_share_without_events_has_an_upper_end_by_the_rule_of_three() -> None:
    people = np.arange(300)
    np.testing.assert_allclose(mean_interval(np.zeros(300, bool), people), (0.0, 0.01))
    np.testing.assert_allclose(mean_interval(np.ones(300, bool), people), (0.99, 1.0))


def test_intervals_of_a_share_cover_at_their_nominal_rate() -> None:
    """People whose probes fail together; the true rate is known."""
    rng = np.random.default_rng(6)
    trials, covered = 300, 0
    for trial in range(trials):
        rate = rng.beta(1.0, 9.0, 150)  # mean 0.1
        people = np.repeat(np.arange(150), 4)
        failed = rng.random(600) < np.repeat(rate, 4)
        low, high = mean_interval(failed, people, 200, seed=trial)
        covered += low <= 0.1 <= high
    # 95 % of 300 is 285, with a deviation of 3.8
    assert covered / trials == pytest.approx(0.95, abs=0.035)


def test_intervals_of_fnir_at_an_fpir_cover_at_their_nominal_rate() -> None:
    rng = np.random.default_rng(8)
    truth = _simulated(rng, 20_000)
    target = at_fpirs(truth.search_scores(), [0.1], 1)[0][0].fnir
    trials, covered = 60, 0
    for trial in range(trials):
        (point,), _ = at_fpirs(_simulated(rng, 120).search_scores(), [0.1], 100, seed=trial)
        covered += point.fnir_95[0] <= target <= point.fnir_95[1]
    assert covered / trials >= 0.87  # 57 expected, with a deviation of 1.7; 52 at the least


def _simulated(rng: np.random.Generator, people: int) -> Lists:
    probes = []
    for person in range(people):
        mated, stranger = rng.normal(0.6, 0.15), rng.normal(0.2, 0.1)
        for photo in range(2):
            own = [(f"i{person}", mated + rng.normal(0, 0.05))]
            other = [("i0", stranger + rng.normal(0, 0.02))]
            probes.append(Probe(f"m{person}.{photo}", f"i{person}", True, own))
            probes.append(Probe(f"s{person}.{photo}", f"s{person}", False, other))
    return of_probes(probes, people)
