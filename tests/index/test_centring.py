"""Centring by its definition, and an index of centred faces against brute force."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from facesearch.errors import IndexFileError
from facesearch.faces.known_models import KNOWN
from facesearch.faces.mirror import UNMOVED, mirrored
from facesearch.index.build import build
from facesearch.index.centring import WEIGHT, centred, mean_of_people, shipped_mean
from facesearch.index.live import LiveIndex
from facesearch.index.manifest import IndexHome
from facesearch.index.segment import Scope
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
    vectors, _ = _faces()
    mean = vectors.mean(axis=0)
    expected = vectors.astype(float) - mean
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = centred(vectors, mean)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(centred(vectors, None), vectors)
    assert np.isfinite(centred(mean[None], mean)).all()


def test_the_mean_is_drawn_towards_the_prior() -> None:
    vectors, _ = _faces()
    prior = np.full(DIM, 0.5, np.float32)
    np.testing.assert_array_equal(mean_of_people(prior, vectors[:0]), prior)
    one_each = vectors[::EACH]
    assert len(one_each) == PEOPLE
    expected = (WEIGHT * 0.5 + one_each.sum(axis=0)) / (WEIGHT + PEOPLE)
    mean = mean_of_people(prior, one_each)
    assert mean is not None
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert mean_of_people(prior, None) is prior
    assert mean_of_people(None, one_each) is None


def test_means_ship_for_the_bundled_model_alone() -> None:
    plain = next(model for model in KNOWN if model.name == "sface").contract
    means = []
    for contract in (plain, mirrored(plain), mirrored(plain, UNMOVED)):
        mean = shipped_mean(contract)
        assert mean is not None
        assert mean.shape == (128,)
        assert 0.2 < np.linalg.norm(mean) < 0.5
        means.append(mean)
    assert not np.array_equal(means[0], means[1])
    assert not np.array_equal(means[1], means[2])
    assert shipped_mean(dataclasses.replace(plain, sha256="0" * 64)) is None


@pytest.fixture
def home(tmp_path: Path) -> IndexHome:
    return IndexHome(tmp_path / "index", "library", 1, "model", DIM, _faces(3)[0].mean(axis=0))


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
        build(home, load_recipe("exact"), 5, part, people=vectors[::EACH])
    index = LiveIndex.open(home, lambda: 9)
    rest = FaceRows(rows.face_ids[built:], rows.identity_ids[built:], rows.vectors[built:])
    gone = rows.face_ids[[3, 110]]
    index.apply(Changes(9, rest, gone))
    queries, _ = _faces(7)

    assert home.prior is not None
    mean = mean_of_people(home.prior, vectors[::EACH]) if built else home.prior
    kept = ~np.isin(rows.face_ids, gone)
    compared = centred(rows.vectors, mean)[kept]
    means = np.stack(
        [compared[rows.identity_ids[kept] == p].sum(axis=0) for p in range(1, PEOPLE + 1)]
    )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scores = centred(queries, mean) @ means.T
    ranked = np.argsort(-scores, axis=1)[:, :3]
    found = index.search_templates(queries, 3)
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, ranked, axis=1), atol=2e-3)
    assert np.mean(found.identity_ids == ranked + 1) > 0.97  # near ties, by float16
    own = rows.identity_ids[found.ids - 1]
    np.testing.assert_array_equal(own, found.identity_ids)  # a face of that identity
    allowed = np.array([2, 5], np.int64)
    few = index.search_templates(queries, 3, Scope(allowed))
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


def test_a_generation_of_other_vectors_is_refused(home: IndexHome) -> None:
    build(home, load_recipe("exact"), 1, [_rows(*_faces())])
    with pytest.raises(IndexFileError, match=r"are centred, expected plain.*index build"):
        LiveIndex.open(dataclasses.replace(home, prior=None), lambda: 1)


def test_a_generation_keeps_its_mean(home: IndexHome) -> None:
    vectors, people = _faces()
    rows = _rows(vectors, people)
    build(home, load_recipe("exact"), 1, [rows], people=vectors[::EACH])
    index = LiveIndex.open(home, lambda: 1)
    assert home.prior is not None
    mean = mean_of_people(home.prior, vectors[::EACH])
    np.testing.assert_allclose(index.compared(vectors), centred(vectors, mean), atol=1e-6)
    found = index.search(vectors, 1)
    np.testing.assert_array_equal(found.ids[:, 0], rows.face_ids)
    np.testing.assert_allclose(found.scores, 1.0, atol=2e-3)
