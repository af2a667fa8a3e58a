"""Generated faces: reproducible, streamable, and with the statistics asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facesearch.errors import UsageError
from facesearch.evaluate.generate import (
    BLOCK,
    FaceStatistics,
    Population,
    another_photo,
    fit,
    save_statistics,
    shipped_statistics,
    write_gallery,
)


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(shipped_statistics(), seed=5)


def test_a_person_is_the_same_however_asked_for(population: Population) -> None:
    some = population.faces(BLOCK - 3, BLOCK + 4)
    assert some.shape == (7, 128)
    np.testing.assert_array_equal(some[2:5], population.faces(BLOCK - 1, BLOCK + 2))
    parts = np.concatenate(list(population.stream(BLOCK + 4)))
    np.testing.assert_array_equal(parts[BLOCK - 3 :], some)
    np.testing.assert_array_equal(Population(shipped_statistics(), 5).faces(0, 9), parts[:9])
    assert np.abs(population.faces(0, 9, photo=1) - parts[:9]).min(axis=1).max() > 0
    assert population.faces(4, 4).shape == (0, 128)


@pytest.mark.parametrize("dim", [64, 128, 512])
def test_mates_resemble_each_other_and_strangers_do_not(dim: int) -> None:
    population = Population(shipped_statistics(dim), seed=1)
    first, second = population.faces(0, 2000), population.faces(0, 2000, photo=1)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    scores = first @ second.T
    strangers = scores[~np.eye(2000, dtype=bool)]
    assert strangers.mean() == pytest.approx(0.0975, abs=0.01)
    assert 0.6 < np.median(np.diag(scores)) < 0.75
    if dim == 128:  # the spread that docs/threshold.md measures on LFW
        assert strangers.std() == pytest.approx(0.0864, rel=0.05)


def test_what_was_fitted_comes_back() -> None:
    """Fitting faces that were generated finds what they were generated from."""
    truth = shipped_statistics()
    population = Population(truth, seed=2)
    photos = [population.faces(0, 4000, photo) for photo in range(3)]
    found = fit(np.concatenate(photos), np.tile(np.arange(4000), 3))
    assert (found.people, found.faces) == (4000, 12000)
    assert np.trace(found.within) == pytest.approx(np.trace(truth.within), rel=0.12)
    assert np.trace(found.between) == pytest.approx(np.trace(truth.between), rel=0.08)
    # unit length takes away what a bad photo is longer than others
    assert found.scatter == pytest.approx(truth.scatter, abs=0.08)
    overlap = np.sum(found.between * truth.between)
    assert overlap > 0.96 * np.linalg.norm(found.between) * np.linalg.norm(truth.between)


def test_another_photo_is_as_alike_as_photos_are() -> None:
    statistics = shipped_statistics()
    population = Population(statistics, seed=4)
    first, second = population.faces(0, 3000), population.faces(0, 3000, photo=1)
    real, made = (np.sum(first * b, axis=1) for b in (second, another_photo(statistics, first, 1)))
    shares = (0.05, 0.5, 0.95)
    np.testing.assert_allclose(np.quantile(made, shares), np.quantile(real, shares), atol=0.04)


def test_statistics_survive_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((2, 128, 128))
    made = FaceStatistics(rng.standard_normal(128), factor[0] @ factor[0].T, np.eye(128), 0.3, 7, 9)
    save_statistics(made, tmp_path / "s.npz")
    monkeypatch.setattr("facesearch.evaluate.generate._AGGREGATES", tmp_path / "s.npz")
    read = shipped_statistics()
    np.testing.assert_allclose(read.between, made.between, rtol=1e-6)
    np.testing.assert_allclose(read.mean, made.mean, rtol=1e-6)
    assert (read.scatter, read.people, read.faces) == (0.3, 7, 9)


def test_a_gallery_on_disk_is_the_population(tmp_path: Path, population: Population) -> None:
    write_gallery(tmp_path / "faces.npy", population, BLOCK + 10)
    stored = np.load(tmp_path / "faces.npy", mmap_mode="r")
    assert (stored.shape, stored.dtype) == ((BLOCK + 10, 128), np.float16)
    np.testing.assert_array_equal(stored[-10:], population.faces(BLOCK, BLOCK + 10).astype("f2"))


def test_fitting_needs_somebody_with_two_faces() -> None:
    with pytest.raises(UsageError, match="several photos"):
        fit(np.eye(4, dtype=np.float32), np.arange(4))
    with pytest.raises(UsageError, match="at least 2"):
        shipped_statistics(1)
