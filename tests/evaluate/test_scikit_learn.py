"""Curves and summaries equal to scikit-learn's, made independently of them, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from facesearch.evaluate.curves import accepted_at, det, roc
from facesearch.evaluate.groups import gini
from facesearch.evaluate.metrics import SearchScores, threshold_at_fpir
from facesearch.evaluate.one_to_one import Comparisons, one_to_one

F64 = NDArray[np.float64]


def tied(seed: int, genuine: int = 300, impostor: int = 700) -> tuple[F64, F64]:
    """Scores of 41 distinct values, so that nearly all of them tie."""
    rng = np.random.default_rng(seed)
    both = rng.normal(0.55, 0.15, genuine), rng.normal(0.25, 0.15, impostor)
    own, other = (np.round(part.clip(0, 1) * 40) / 40 for part in both)
    return own, other


def joined(genuine: F64, impostor: F64) -> tuple[NDArray[np.int64], F64]:
    labels = np.repeat([1, 0], [len(genuine), len(impostor)])
    return labels, np.concatenate([genuine, impostor])


@pytest.mark.parametrize("seed", range(3))
def test_every_point_of_the_roc(seed: int) -> None:
    genuine, impostor = tied(seed)
    fpr, tpr, thresholds = metrics.roc_curve(*joined(genuine, impostor), drop_intermediate=False)
    curve = roc(genuine, impostor)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    np.testing.assert_allclose(curve.false_accepts, fpr, rtol=0, atol=1e-9)
    np.testing.assert_allclose(1.0 - curve.false_rejects, tpr, rtol=0, atol=1e-9)
    area = metrics.roc_auc_score(*joined(genuine, impostor))
    trapezoids = np.trapezoid(1.0 - curve.false_rejects, curve.false_accepts)
    assert trapezoids == pytest.approx(area, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_det_curve_of_a_search(seed: int) -> None:
    """With every mate on the first place, FNIR and FPIR are FNMR and FMR of the best scores."""
    mated, best = tied(seed)
    scores = SearchScores(50, np.ones(len(mated), np.int64), mated, best)
    curve = det(scores)
    fmr, fnmr, thresholds = metrics.det_curve(*joined(mated, best))
    # scikit-learn leaves out the ends, where one of the rates no longer changes
    places = np.searchsorted(-curve.thresholds, -thresholds)
    np.testing.assert_allclose(curve.false_accepts[places], fmr, rtol=0, atol=1e-9)
    np.testing.assert_allclose(curve.false_rejects[places], fnmr, rtol=0, atol=1e-9)
    for target in (0.1, 0.03, 0.01):
        threshold = threshold_at_fpir(best, target)
        labels, every = joined(mated, best)
        counted = metrics.confusion_matrix(labels, every >= threshold)
        (_, alarms), (missed, _) = counted
        assert alarms / len(best) <= target
        assert accepted_at(curve, target) == pytest.approx(1 - missed / len(mated), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_rates_at_a_threshold_are_those_of_the_confusion_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    people, probes = 20, 60
    scores = (np.round(rng.normal(0.2, 0.15, (probes, people)) * 20) / 20).astype(np.float32)
    own = rng.integers(-1, people, probes)
    scores[own >= 0, own[own >= 0]] += np.float32(0.25)
    limit = 0.4000000059604645  # in float32, as the scores are: many tie with it
    found = one_to_one(Comparisons(scores, own, np.arange(probes)), limit)
    assert found is not None
    assert found.at is not None
    labels = np.zeros(scores.shape, bool)
    labels[own >= 0, own[own >= 0]] = True
    accepted = scores.astype(np.float64) >= limit
    assert (np.abs(scores - np.float32(limit)) < 1e-6).sum() > 20
    (right, false), (missed, hit) = metrics.confusion_matrix(labels.ravel(), accepted.ravel())
    assert found.at.fmr == pytest.approx(false / (false + right), abs=1e-9)
    assert found.at.fnmr == pytest.approx(missed / (missed + hit), abs=1e-9)


def test_gini_is_what_the_lorenz_curve_encloses() -> None:
    """The textbook's definition: one minus twice the area under the curve, times n / (n - 1)."""
    rng = np.random.default_rng(1)
    for n in (2, 3, 7, 20):
        rates = rng.random(n) ** 3
        share = np.concatenate([[0.0], np.cumsum(np.sort(rates)) / rates.sum()])
        area = metrics.auc(np.linspace(0.0, 1.0, n + 1), share)
        assert gini(rates.tolist()) == pytest.approx(n / (n - 1) * (1 - 2 * area), abs=1e-9)
