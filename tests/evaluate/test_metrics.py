"""Metrics against hand-worked cases, definitions spelt out, and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from facesearch.errors import UsageError
from facesearch.evaluate.metrics import (
    SearchScores,
    best_threshold,
    fnir,
    open_set,
    threshold_at_fpir,
    verification,
)

INF = float("inf")


def f32(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, np.float32)


def bools(*values: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array(values, bool)


# Few distinct values, so that ties are the rule and not the exception.
tied_scores = st.sampled_from([-INF, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0])


class TestBestThreshold:
    def test_separable_pairs_are_cut_half_way(self) -> None:
        assert best_threshold(f32(0.25, 0.5, 0.75, 1.0), bools(0, 0, 1, 1)) == 0.625

    @pytest.mark.parametrize(
        ("same", "expected"),
        [
            # Right answers when accepted from 0, .25, .5, 1 and from nowhere on:
            (bools(0, 1, 0, 1), 0.125),  # 2 3 2 3 2: the lower of two
            (bools(1, 0, 1, 0), 0.375),  # 2 1 2 1 2: the middle of three
        ],
    )
    def test_of_equally_good_cuts_the_middle_one(
        self, same: np.ndarray[tuple[int], np.dtype[np.bool_]], expected: float
    ) -> None:
        assert best_threshold(f32(0.0, 0.25, 0.5, 1.0), same) == expected

    def test_accept_all_and_accept_none(self) -> None:
        assert best_threshold(f32(0.5, 0.25), bools(1, 1)) == 0.25
        assert best_threshold(f32(0.5, 0.25), bools(0, 0)) == INF

    def test_a_pair_without_a_face_is_never_accepted(self) -> None:
        assert best_threshold(f32(-INF, 0.5), bools(1, 1)) == 0.5
        assert best_threshold(f32(-INF), bools(1)) == INF

    @given(st.lists(st.tuples(tied_scores, st.booleans()), min_size=1, max_size=12))
    def test_no_threshold_does_better(self, pairs: list[tuple[float, bool]]) -> None:
        scores = np.array([score for score, _ in pairs])
        same = np.array([label for _, label in pairs])
        threshold = best_threshold(scores, same)
        assert threshold > -INF
        rivals = np.append(np.arange(-0.5, 1.2, 0.125), INF)
        best = max(np.sum((scores >= rival) == same) for rival in rivals)
        assert np.sum((scores >= threshold) == same) == best


class TestVerification:
    def test_hand_worked(self) -> None:
        # Fold 1 is separable at (.2 + .6) / 2, fold 0 at (.5 + .9) / 2.
        scores = f32(0.9, 0.5, 0.6, 0.2)
        result = verification(scores, bools(1, 0, 1, 0), np.array([0, 0, 1, 1]))
        assert result.thresholds == pytest.approx((0.4, 0.7), abs=1e-7)
        assert result.folds == (0.5, 0.5)  # .5 >= .4 is wrong, .6 < .7 is wrong
        assert result.accuracy == 0.5
        assert result.standard_error == 0.0

    def test_standard_error_is_that_of_the_mean_of_folds(self) -> None:
        rng = np.random.default_rng(3)
        same = rng.random(600) < 0.5
        scores = (rng.normal(size=600) + 2 * same).astype(np.float32)
        folds = np.arange(600) % 10
        result = verification(scores, same, folds)
        assert result.accuracy == pytest.approx(np.mean(result.folds), abs=1e-12)
        assert result.standard_error == pytest.approx(stats.sem(result.folds), abs=1e-12)
        for fold, accuracy, threshold in zip(
            range(10), result.folds, result.thresholds, strict=True
        ):
            decided = scores[folds == fold] >= threshold
            assert accuracy == np.sum(decided == same[folds == fold]) / 60

    def test_no_fold_sees_its_own_labels(self) -> None:
        scores, folds = f32(0.9, 0.5, 0.6, 0.2, 0.8, 0.1), np.array([0, 0, 1, 1, 2, 2])
        same = bools(1, 0, 1, 0, 1, 0)
        flipped = same ^ (folds == 1)
        chosen = verification(scores, same, folds).thresholds
        assert verification(scores, flipped, folds).thresholds[1] == chosen[1]
        assert verification(scores, flipped, folds).thresholds != chosen

    def test_pairs_without_a_face_count_as_different(self) -> None:
        scores = f32(0.9, -INF, -INF, 0.9, 0.1, 0.1)
        result = verification(scores, bools(1, 1, 0, 1, 0, 0), np.array([0, 0, 0, 1, 1, 1]))
        assert result.undetected == 2
        assert result.folds == pytest.approx((2 / 3, 1.0))

    def test_one_fold_is_refused(self) -> None:
        with pytest.raises(UsageError, match="two folds"):
            verification(f32(0.1, 0.2), bools(0, 1), np.array([4, 4]))


class TestThresholdAtFpir:
    def test_hand_worked_without_ties(self) -> None:
        scores = f32(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
        threshold = threshold_at_fpir(scores, 0.2)  # 2 alarms of 10: .9 and 1.0
        assert np.float32(0.8) < threshold < 0.8001

    def test_ties_at_the_cut_all_stay_below(self) -> None:
        scores = f32(0.5, 0.5, 0.5, 0.25)
        assert threshold_at_fpir(scores, 0.5) == np.nextafter(np.float32(0.5), np.float32(1))
        assert threshold_at_fpir(scores, 0.75) == np.nextafter(np.float32(0.25), np.float32(1))

    def test_rates_that_binary_floats_miss(self) -> None:
        # 0.29 * 100 == 28.999999999999996: 29 alarms are allowed all the same.
        scores = np.arange(100, dtype=np.float32)
        assert np.sum(scores >= threshold_at_fpir(scores, 0.29)) == 29

    def test_extremes(self) -> None:
        scores = f32(0.5, -INF, -INF)
        assert threshold_at_fpir(scores, 1.0) == -INF
        assert threshold_at_fpir(scores, 0.0) > 0.5
        assert -INF < threshold_at_fpir(scores, 0.34) < -1

    @pytest.mark.parametrize("fpir", [-0.1, 1.1, float("nan")])
    def test_impossible_rate(self, fpir: float) -> None:
        with pytest.raises(UsageError, match="FPIR"):
            threshold_at_fpir(f32(0.5), fpir)

    def test_no_probes(self) -> None:
        with pytest.raises(UsageError, match="there are none"):
            threshold_at_fpir(f32(), 0.1)

    @given(
        hnp.arrays(np.float32, st.integers(1, 30), elements=tied_scores),
        st.floats(0.0, 0.999),
    )
    def test_keeps_the_rate_and_is_the_smallest_that_does(
        self, scores: np.ndarray[tuple[int], np.dtype[np.float32]], fpir: float
    ) -> None:
        threshold = threshold_at_fpir(scores, fpir)
        assert np.mean(scores >= threshold) <= fpir
        with np.errstate(over="ignore"):  # below the lowest float32 there is only -inf
            smaller = np.nextafter(np.float32(threshold), np.float32(-INF))
        assert np.mean(scores >= smaller) > fpir


class TestOpenSet:
    # Probe   own identity      answer
    # 0       rank 1 at .9      found at every threshold up to .9
    # 1       rank 1 at .5
    # 2       rank 2 at .8      high enough, but another person scored higher
    # 3       no face found
    SCORES = SearchScores(
        gallery=7,
        mated_ranks=np.array([1, 1, 2, 0]),
        mated_scores=f32(0.9, 0.5, 0.8, -INF),
        nonmated_scores=f32(0.6, 0.5, 0.4, -INF),
        mated_undetected=1,
        nonmated_undetected=1,
    )

    def test_hand_worked(self) -> None:
        result = open_set(self.SCORES, (0.5, 0.25, 0.0))
        assert result.rank1 == 0.5
        assert [point.target for point in result.points] == [0.5, 0.25, 0.0]
        # Two alarms allowed: T just above .4, both rank-1 mates stay.
        # One alarm: T just above .5, where the mate at .5 exactly is lost.
        assert [point.tpir for point in result.points] == [0.5, 0.25, 0.25]
        assert [point.fpir for point in result.points] == [0.5, 0.25, 0.0]

    def test_a_rate_of_one_still_asks_for_rank_one_and_a_face(self) -> None:
        (point,) = open_set(self.SCORES, (1.0,)).points
        assert (point.threshold, point.fpir, point.tpir) == (-INF, 1.0, 0.5)

    def test_fnir_by_rank(self) -> None:
        assert fnir(self.SCORES, 1, 0.7) == 0.75
        assert fnir(self.SCORES, 2, 0.7) == 0.5
        assert fnir(self.SCORES, 10, -INF) == 0.25

    def test_against_a_score_matrix_searched_by_hand(self) -> None:
        rng = np.random.default_rng(11)
        gallery, mates = 50, np.arange(200) % 50
        mated = rng.normal(size=(200, gallery)).astype(np.float32)
        mated[np.arange(200), mates] += 3
        nonmated = rng.normal(size=(300, gallery)).astype(np.float32)
        own = mated[np.arange(200), mates]
        scores = SearchScores(
            gallery=gallery,
            mated_ranks=stats.rankdata(-mated, axis=1)[np.arange(200), mates].astype(np.int64),
            mated_scores=own,
            nonmated_scores=nonmated.max(axis=1),
        )
        result = open_set(scores)
        assert result.rank1 == np.mean(mated.argmax(axis=1) == mates)
        for point in result.points:
            # The largest count of alarms within the rate, and the mates above the next score.
            alarms = np.sort(nonmated.max(axis=1))[::-1]
            bar = alarms[int(point.target * 300)]
            expected = np.mean((mated.argmax(axis=1) == mates) & (own > bar))
            assert point.tpir == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(
        ("ranks", "scores", "nonmated"),
        [([1, 1], [0.5], [0.5]), ([], [], [0.5]), ([1], [0.5], [])],
    )
    def test_incomplete_scores_are_refused(
        self, ranks: list[int], scores: list[float], nonmated: list[float]
    ) -> None:
        with pytest.raises(ValueError, match="probe"):
            SearchScores(2, np.array(ranks, np.int64), f32(*scores), f32(*nonmated))
