"""The chance of a false match, on populations where it is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from facesearch.errors import UsageError
from facesearch.identify import fpir
from facesearch.identify.fpir import FpirModel
from facesearch.identify.probability import Mates, false_match, mates, odds
from facesearch.values import F32, I64

N = 50


@pytest.fixture(scope="module")
def model() -> FpirModel:
    scores = np.random.default_rng(0).normal(0.05, 0.1, (500, 400)).astype(np.float32)
    return fpir.fit(scores, np.ones(scores.shape, bool))


@pytest.fixture(scope="module")
def own() -> Mates:
    scores = np.sort(np.random.default_rng(1).normal(0.45, 0.12, 20_001))
    quantiles = np.quantile(scores, np.linspace(0, 1, 201))
    return Mates(quantiles, 0.02, 0.08, 500)


@pytest.mark.parametrize("prior", [0.2, 0.5, 0.8])
def test_stated_chances_are_the_shares_found(model: FpirModel, own: Mates, prior: float) -> None:
    rng = np.random.default_rng(2)
    probes = 40_000
    enrolled = rng.random(probes) < prior
    strangers = rng.normal(0.05, 0.1, (probes, N)).max(axis=1)
    others = rng.normal(0.05, 0.1, (probes, N - 1)).max(axis=1)
    mated = rng.normal(0.45, 0.12, probes)
    best = np.where(enrolled, np.maximum(mated, others), strangers)
    wrong = ~enrolled | (mated < others)
    grid = np.linspace(-0.2, 1.0, 301)
    stated = [false_match([odds(model, own, N, s, prior)])[0] for s in grid.tolist()]
    said = np.interp(best, grid, stated)
    which = np.minimum((said * 10).astype(int), 9)
    error = sum(
        abs(said[which == b].mean() - wrong[which == b].mean()) * np.mean(which == b)
        for b in np.unique(which)
    )
    assert error < 0.02
    for b in np.unique(which):
        if (which == b).sum() > 500:
            assert said[which == b].mean() == pytest.approx(wrong[which == b].mean(), abs=0.08)


def test_candidates_share_what_can_be_right_once(model: FpirModel, own: Mates) -> None:
    one = odds(model, own, N, 0.6)
    assert false_match([one])[0] < 0.1
    two = false_match([one, one])
    assert two[0] == two[1] == pytest.approx(0.5, abs=0.05)
    assert sum(1 - chance for chance in false_match([one, one / 2, one / 3])) < 1
    assert false_match([]) == []


def test_it_falls_with_the_score_and_grows_with_the_gallery(model: FpirModel, own: Mates) -> None:
    scores = [0.2, 0.3, 0.4, 0.5, 0.6]
    chances = [false_match([odds(model, own, N, s)])[0] for s in scores]
    assert chances == sorted(chances, reverse=True)
    large = [false_match([odds(model, own, 20 * N, s)])[0] for s in scores]
    assert all(a <= b for a, b in zip(chances, large, strict=True))
    with pytest.raises(UsageError, match="prior"):
        odds(model, own, N, 0.5, prior=1.0)


def made(people: int, photos: int, noise: float) -> tuple[F32, I64]:
    rng = np.random.default_rng(3)
    centres = np.repeat(rng.standard_normal((people, 128)), photos, axis=0)
    vectors = centres + noise * rng.standard_normal(centres.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.repeat(np.arange(people), photos)


def test_mates_of_labelled_faces() -> None:
    found = mates(*made(200, 3, 0.5))
    assert found is not None
    assert found.people == 200
    middle = float(np.interp(0.5, np.linspace(0, 1, 201), found.quantiles))
    assert middle == pytest.approx(1 / 1.25, abs=0.02)  # cosine of two noisy copies
    assert found.below(middle) == pytest.approx(0.5, abs=0.01)
    grid = np.linspace(-1, 1.2, 2201)
    assert np.trapezoid([found.density(s) for s in grid.tolist()], grid) == pytest.approx(
        1, abs=0.01
    )
    # a - b has variance 2 * 0.25 / 1.25 / 128 a coordinate, twice for a difference of two scores
    assert found.noise == pytest.approx(np.sqrt(2 * 2 * 0.25 / 1.25 / 128), rel=0.1)
    assert Mates.from_json(json.loads(json.dumps(found.as_json()))).noise == found.noise


def test_too_few_mates_are_none() -> None:
    assert mates(*made(29, 2, 0.5)) is None
    assert mates(*made(100, 1, 0.5)) is None
