"""Loss is what it says it is, and the tuner's choice meets its target on probes it did not use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from facesearch.errors import UsageError
from facesearch.evaluate.generate import Population, shipped_statistics
from facesearch.index import faiss_index, measure
from facesearch.index.measure import Probes, clopper_pearson
from facesearch.index.segment import Faces, Scope, Segment
from facesearch.index.spec import load_recipe
from facesearch.index.tune import Target, tune
from facesearch.values import I64

ROWS, PROBES, THRESHOLD = 12_000, 600, 0.5
LISTS = replace(load_recipe("ivf"), lists=128, train_rows=6000)


@pytest.fixture(scope="module")
def gallery() -> tuple[Faces, Probes]:
    """12,000 people, the last 2,000 not enrolled; the first ones' second photos are probes."""
    population = Population(shipped_statistics(), seed=3)
    ids: I64 = np.arange(1, ROWS + 1)
    people = np.where(ids > 10_000, 0, ids)
    faces = Faces(ids, people, population.faces(0, ROWS).astype(np.float16))
    probes = population.faces(0, PROBES, photo=1)
    return faces, Probes(probes, ids[:PROBES], THRESHOLD, "generated")


@pytest.mark.parametrize(("events", "trials"), [(0, 100), (1, 100), (7, 1000), (100, 100), (0, 0)])
def test_interval_of_a_rate(events: int, trials: int) -> None:
    if trials == 0:
        assert clopper_pearson(events, trials) == (0.0, 1.0)
        return
    expected = stats.binomtest(events, trials).proportion_ci(method="exact")
    assert clopper_pearson(events, trials) == pytest.approx(tuple(expected), abs=1e-9)


@pytest.mark.parametrize("rerank", [10, 64])
def test_loss_is_what_searching_shows(gallery: tuple[Faces, Probes], rerank: int) -> None:
    """Against the answers themselves: exact search identifies, the lists do not."""
    faces, probes = gallery
    allowed = measure.enrolled(faces)
    truth = measure.exact_truth(faces, probes, allowed)
    index = faiss_index.build(faces.vectors.astype(np.float16), LISTS).searched_with(4)
    found = measure.places(index, probes, truth, 64, allowed)
    missed = measure.lost(truth, found, rerank)

    scores = probes.vectors @ faces.vectors[:10_000].astype(np.float32).T
    right = scores.argmax(axis=1) == np.arange(PROBES)
    identified = right & (scores.max(axis=1) >= THRESHOLD)
    np.testing.assert_array_equal(truth.identified, identified)
    rows = index.search(probes.vectors, rerank, allowed)
    kept = np.take_along_axis(scores, np.maximum(rows, 0), axis=1)
    kept[rows < 0] = -2
    best = np.take_along_axis(rows, kept.argmax(axis=1)[:, None], axis=1)[:, 0]
    again = (best == np.arange(PROBES)) & (kept.max(axis=1) >= THRESHOLD)
    np.testing.assert_array_equal(missed, identified & ~again)
    assert 0.05 < missed.sum() / identified.sum() < 0.5

    nearest = np.argsort(-scores, axis=1)[:, :10]
    share = np.mean([len(set(a) & set(b)) for a, b in zip(nearest, rows, strict=True)]) / 10
    assert measure.recall(truth, found, rerank) == pytest.approx(share, abs=0.002)


def test_the_choice_meets_the_target(gallery: tuple[Faces, Probes]) -> None:
    faces, probes = gallery
    recipes = [load_recipe(name) for name in ("exact", "exact-fp16", "scan")] + [LISTS]
    target = Target(max_loss=0.01, recall10=0.98)
    result = tune(faces, probes, recipes, target)
    assert {row.recipe for row in result.indexes} == {"exact", "exact-fp16", "scan", "ivf"}
    assert result.exact.identification_loss == 0
    assert result.exact.recall_at_10 == 1
    chosen = result.chosen
    assert chosen.meets_target
    assert chosen.recall_at_10 > 0.97
    low, high = chosen.loss_interval
    assert low <= chosen.identification_loss <= high
    assert low <= target.max_loss
    assert chosen.recipe in result.why
    assert any(row.pareto for row in result.indexes)
    lists = [row for row in result.indexes if row.recipe == "ivf"]
    assert [row.params["nprobe"] for row in lists] == [2, 4, 8, 16, 32, 64, 128][: len(lists)]
    assert lists[0].identification_loss > lists[-1].identification_loss
    assert not lists[0].meets_target
    for row in result.indexes:
        if row.recipe == "exact-fp16":  # 256 in FAISS's file, 256 for re-ranking, 16 of ids
            assert row.bytes_per_face_disk == pytest.approx(528, abs=1)
            assert row.bytes_per_face_ram == pytest.approx(268, abs=1)

    # what it chose does the same outside the tuner
    index = faiss_index.build(faces.vectors.astype(np.float16), chosen.spec)
    segment = Segment(faces, index, chosen.spec.rerank)
    keys = segment.search_identities(probes.vectors[:1], 5, Scope())
    assert keys.shape == (1, 5)


def test_limits_and_impossible_targets(gallery: tuple[Faces, Probes]) -> None:
    faces, probes = gallery
    recipes = [load_recipe("exact"), load_recipe("scan")]
    small = Target(max_loss=0.01, max_memory=ROWS * 100)
    assert tune(faces, probes, recipes, small).chosen.recipe == "scan"
    with pytest.raises(UsageError, match="nearest is"):
        tune(faces, probes, recipes, Target(max_memory=1000))
    hopeless = replace(probes, threshold=1.0)
    with pytest.raises(UsageError, match="identifies none"):
        tune(faces, hopeless, recipes, Target())


def test_samples_give_up_what_is_slow_or_loses(
    gallery: tuple[Faces, Probes], monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, probes = gallery
    monkeypatch.setattr("facesearch.index.tune.SMALLEST_SAMPLE", 3000)
    recipes = [load_recipe(name) for name in ("exact", "exact-fp16")]
    own = [replace(recipes[0], name=name, rerank=rerank) for name, rerank in OWN]
    lines: list[str] = []
    result = tune(faces, probes, recipes + own, Target(), tell=lines.append)
    assert {row.rows for row in result.dropped} == {ROWS // 4}
    assert len(result.dropped) == 2
    assert {row.rows for row in result.indexes} == {ROWS}
    assert "exact" in {row.recipe for row in result.indexes}
    assert len(lines) >= 7


OWN = (("few", 16), ("some", 64), ("many", 512))
