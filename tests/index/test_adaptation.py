"""Adaptation by its definition, and an index of adapted faces against brute force."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from facesearch.errors import IndexFileError
from facesearch.faces.known_models import KNOWN
from facesearch.faces.mirror import MARK
from facesearch.index.adaptation import Adaptation, fit, shipped_adaptation
from facesearch.index.build import build
from facesearch.index.live import LiveIndex
from facesearch.index.manifest import IndexHome
from facesearch.index.spec import load_recipe
from facesearch.values import F32, I64, Changes, FaceRows

DIM, PEOPLE, EACH = 16, 40, 4


def _faces(seed: int = 0) -> tuple[F32, I64]:
    """Unit vectors with a common mean and one direction in which photos of a person differ."""
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(1, PEOPLE + 1), EACH)
    vectors = rng.normal(size=(PEOPLE, DIM))[people - 1] + 1.0
    vectors += 0.2 * rng.normal(size=vectors.shape)
    vectors[:, 0] += 3.0 * rng.normal(size=len(vectors))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), people


def test_is_what_the_definition_says() -> None:
    vectors, people = _faces()
    adaptation = fit(vectors, people, 0.4)
    means = np.stack([vectors[people == p].mean(axis=0) for p in np.unique(people)])
    np.testing.assert_allclose(adaptation.mean, means.mean(axis=0), atol=1e-6)
    within = vectors - means[people - 1]
    covariance = within.T @ within / (len(people) - PEOPLE)
    scaled = 0.6 * covariance / np.trace(covariance) * DIM + 0.4 * np.identity(DIM)
    whitening = adaptation.whitening.astype(float)
    np.testing.assert_allclose(whitening @ scaled @ whitening, np.identity(DIM), atol=1e-5)
    expected = (vectors - adaptation.mean) @ whitening
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(adaptation(vectors), expected, atol=1e-5)


def test_full_shrinkage_is_centring() -> None:
    vectors, people = _faces()
    np.testing.assert_allclose(fit(vectors, people, 1.0).whitening, np.identity(DIM), atol=1e-6)


def test_separates_people_it_was_not_fitted_on() -> None:
    adaptation = fit(*_faces(0))
    vectors, people = _faces(1)

    def rank1(x: F32) -> float:
        scores = x @ x.T
        np.fill_diagonal(scores, -1)
        return float(np.mean(people[scores.argmax(axis=1)] == people))

    assert rank1(adaptation(vectors)) > rank1(vectors)


def test_what_cannot_be_fitted_or_made() -> None:
    vectors, people = _faces()
    with pytest.raises(ValueError, match="shrinkage"):
        fit(vectors, people, 0.0)
    with pytest.raises(ValueError, match="several faces"):
        fit(vectors[::EACH], people[::EACH])
    with pytest.raises(ValueError, match="whitening"):
        Adaptation(np.zeros(3, np.float32), np.zeros((3, 2), np.float32))


def test_the_shipped_one_belongs_to_one_contract() -> None:
    plain = next(model for model in KNOWN if model.name == "sface").contract
    mirrored = dataclasses.replace(plain, preprocessing=plain.preprocessing + MARK)
    shipped = shipped_adaptation(mirrored)
    assert shipped is not None
    assert shipped.whitening.shape == (128, 128)
    assert shipped_adaptation(plain) is None


@pytest.fixture
def home(tmp_path: Path) -> IndexHome:
    return IndexHome(tmp_path / "index", "library", 1, "model", DIM, fit(*_faces(3)))


def _rows(vectors: F32, people: I64) -> FaceRows:
    return FaceRows(np.arange(1, len(people) + 1), people, vectors.astype(np.float16))


@pytest.mark.parametrize("built", [0, 100, PEOPLE * EACH])
def test_templates_are_brute_forces(home: IndexHome, built: int) -> None:
    """However many of the faces are in the generation and how many in the delta."""
    vectors, people = _faces()
    rng = np.random.default_rng(2)
    order = rng.permutation(len(people))  # faces of a person lie in both
    rows = _rows(vectors[order], people[order])
    part = [FaceRows(rows.face_ids[:built], rows.identity_ids[:built], rows.vectors[:built])]
    if built:
        build(home, load_recipe("exact"), 5, part)
    index = LiveIndex.open(home, lambda: 9)
    rest = FaceRows(rows.face_ids[built:], rows.identity_ids[built:], rows.vectors[built:])
    gone = rows.face_ids[[3, 110]]
    index.apply(Changes(9, rest, gone))
    queries, _ = _faces(7)

    assert home.adaptation is not None
    kept = ~np.isin(rows.face_ids, gone)
    adapted = home.adaptation(rows.vectors)[kept]
    means = np.stack(
        [adapted[rows.identity_ids[kept] == p].sum(axis=0) for p in range(1, PEOPLE + 1)]
    )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scores = home.adaptation(queries) @ means.T
    ranked = np.argsort(-scores, axis=1)[:, :3]
    found = index.search_templates(queries, 3)
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, ranked, axis=1), atol=2e-3)
    assert np.mean(found.identity_ids == ranked + 1) > 0.97  # near ties, by float16
    own = rows.identity_ids[found.ids - 1]
    np.testing.assert_array_equal(own, found.identity_ids)  # a face of that identity
    allowed = np.array([2, 5], np.int64)
    few = index.search_templates(queries, 3, allowed)
    assert set(few.identity_ids.ravel().tolist()) == {2, 5, -1}
    assert few.counts.tolist() == [2] * len(queries)
    assert np.isneginf(few.scores[:, 2]).all()


def test_one_face_a_template_scores_as_its_face(home: IndexHome) -> None:
    vectors, people = _faces()
    index = LiveIndex.open(home, lambda: 1)
    rows = _rows(vectors[::EACH], people[::EACH])
    index.apply(Changes(1, rows, np.zeros(0, np.int64)))
    queries, _ = _faces(7)
    by_face, by_mean = index.search_identities(queries, 5), index.search_templates(queries, 5)
    np.testing.assert_array_equal(by_face.identity_ids, by_mean.identity_ids)
    np.testing.assert_allclose(by_face.scores, by_mean.scores, atol=1e-6)


def test_nothing_enrolled(home: IndexHome) -> None:
    index = LiveIndex.open(home, lambda: 0)
    found = index.search_templates(np.ones((2, DIM), np.float32), 3)
    assert found.counts.tolist() == [0, 0]
    assert (found.ids == -1).all()


def test_a_generation_of_another_adaptation_is_refused(home: IndexHome) -> None:
    build(home, load_recipe("exact"), 1, [_rows(*_faces())])
    with pytest.raises(IndexFileError, match=r"of adaptation \w+, expected none.*index build"):
        LiveIndex.open(dataclasses.replace(home, adaptation=None), lambda: 1)
