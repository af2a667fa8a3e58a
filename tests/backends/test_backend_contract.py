"""What an identification needs of an index, on FAISS and on every vector server: one suite."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import update

from facesearch.backends import remote
from facesearch.errors import FacesearchError, UsageError
from facesearch.store.tables import CollectionRow
from facesearch.values import F32
from tests.backends.conftest import KINDS
from tests.backends.made import DIM, Files, Served
from tests.index.made import people, units

pytestmark = pytest.mark.parametrize("site", KINDS, indirect=True)

PEOPLE, EACH, STRANGERS = 60, 3, 300


def filled(site: Files | Served) -> F32:
    """Faces of `PEOPLE` and of strangers in the store; queries that resemble some of them."""
    rng = np.random.default_rng(3)
    faces = people(rng, PEOPLE + STRANGERS // EACH, EACH, DIM)
    ids = np.repeat(np.arange(1, PEOPLE + 1), EACH)
    site.library.add(faces[: len(ids)], ids)
    site.library.add(faces[len(ids) :])
    near = faces[rng.choice(len(faces), 12)] + 0.3 * units(rng, 12, DIM)
    return np.asarray(near / np.linalg.norm(near, axis=1, keepdims=True), np.float32)


def check(site: Files | Served, queries: F32) -> None:
    """Both searches give what brute force over the store gives."""
    index, truth = site.open(), site.library.truth
    truth.check(index.search(queries, 5), queries, 5, distinct=False)
    truth.check(index.search_identities(queries, 5), queries, 5, distinct=True)
    enrolled = {identity for identity, _ in truth.faces.values() if identity}
    assert index.enrolled() == len(enrolled)


def test_nothing_was_ever_built(site: Files | Served) -> None:
    check(site, units(np.random.default_rng(1), 2))
    check(site, filled(site))


def test_built(site: Files | Served) -> None:
    queries = filled(site)
    site.build()
    index = site.open()
    assert (index.status().rows, index.status().delta) == (PEOPLE * EACH + STRANGERS, 0)
    check(site, queries)


def test_sees_what_was_committed_since(site: Files | Served) -> None:
    queries = filled(site)
    site.build()
    rng = np.random.default_rng(5)
    new = site.library.add(queries[:3], 7)
    site.library.add(queries[3:6])
    check(site, queries)
    site.library.enroll([new[0]], 9)  # changes hands
    site.library.enroll([PEOPLE * EACH + 1], 200)  # a stranger gets a name
    site.library.remove([new[1], 2, 3])
    check(site, queries)
    site.library.add(units(rng, 4), 201)
    check(site, queries)


def test_takes_in_what_was_committed(site: Files | Served) -> None:
    queries = filled(site)
    site.build()
    new = site.library.add(queries[:3], 7)
    site.library.enroll([new[0], PEOPLE * EACH + 1], 200)
    site.library.remove([new[1], 2, 3])
    site.push()
    status = site.open().status()
    assert (status.rows, status.delta, status.superseded) == (len(site.library.truth.faces), 0, 0)
    check(site, queries)
    site.push()  # nothing new: nothing changes
    check(site, queries)
    site.build()
    check(site, queries)


def test_filters(site: Files | Served) -> None:
    queries = filled(site)
    site.build()
    site.library.add(queries[:2], 300)
    index, truth = site.open(), site.library.truth
    for identities in (np.array([4, 9, 300]), np.arange(1, 50), np.array([999])):
        found = index.search_identities(queries, 4, identities)
        truth.check(found, queries, 4, distinct=True, identities=identities)
        there = {identity for identity, _ in truth.faces.values()}
        assert index.enrolled(identities) == len(there & set(identities.tolist()))
    some = np.array(sorted(truth.faces))[::3]
    found = index.search(queries, 4, faces=some)
    truth.check(found, queries, 4, distinct=False, faces=some)


@pytest.mark.parametrize(
    ("few", "named", "fetched"), [(0, 4096, 16_384), (0, 2, 16_384), (0, 2, 256)]
)
def test_filters_that_let_many_through(
    site: Files | Served, monkeypatch: pytest.MonkeyPatch, few: int, named: int, fetched: int
) -> None:
    """By the server, by dropping what it names, and by comparing everything."""
    monkeypatch.setattr(remote, "_FEW", few)
    monkeypatch.setattr(remote, "_MOST_NAMED", named)
    monkeypatch.setattr(remote, "_MOST_FETCHED", fetched)
    test_filters(site)


def test_more_wanted_than_there_are(site: Files | Served) -> None:
    queries = filled(site)
    site.build()
    index, truth = site.open(), site.library.truth
    truth.check(index.search_identities(queries, 80), queries, 80, distinct=True)
    everybody = len(truth.faces) + 10
    truth.check(index.search(queries[:2], everybody), queries[:2], everybody, distinct=False)


def test_one_person_has_most_faces(site: Files | Served) -> None:
    """The faces nearest to the query are all of one person: others must be found beyond them."""
    rng = np.random.default_rng(8)
    query = units(rng, 1)
    near = query + 0.05 * units(rng, 600)
    site.library.add(near / np.linalg.norm(near, axis=1, keepdims=True), 1)
    site.library.add(units(rng, 40), np.arange(2, 42))
    site.build()
    check(site, query)


def test_templates(site: Files | Served) -> None:
    queries = filled(site)
    site.build()
    site.library.add(queries[:1], 5)  # one face of five's is outside
    found = site.open().search_templates(queries, 3)
    faces = site.library.truth.rows()
    for query, ids, scores in zip(queries, found.identity_ids, found.scores, strict=True):
        means = []
        for person in range(1, PEOPLE + 1):
            mine = faces.vectors[faces.identity_ids == person].astype(np.float64)
            mean = mine.mean(axis=0)
            means.append(float(mean @ query / np.linalg.norm(mean)))
        expected = np.argsort(means)[::-1][:3]
        np.testing.assert_allclose(scores, np.array(means)[expected], atol=1e-5)
        assert ids.tolist() == (expected + 1).tolist()


def test_faces_of(site: Files | Served) -> None:
    filled(site)
    site.build()
    faces = site.open().faces_of(np.array([2, 5]))
    expected = [f for f, (who, _) in site.library.truth.faces.items() if who in (2, 5)]
    assert sorted(faces.face_ids.tolist()) == sorted(expected)


def test_another_reader_sees_a_rebuild(site: Files | Served) -> None:
    queries = filled(site)
    site.build()
    before = site.open()
    for change in (site.push, site.build):
        site.library.remove(sorted(site.library.truth.faces)[:2])
        change()
        found = before.search(queries, 5)  # opened before: answers as the store was, or as it is
        assert (found.counts == 5).all()
        check(site, queries)


@pytest.mark.parametrize("k", [0, -1])
def test_nonsense(site: Files | Served, k: int) -> None:
    index = site.open()
    with pytest.raises(UsageError, match="at least 1"):
        index.search(units(np.random.default_rng(1), 1), k)
    with pytest.raises(UsageError, match="expected finite vectors"):
        index.search(np.full((1, DIM), np.nan, np.float32), 1)
    with pytest.raises(UsageError, match="expected finite vectors"):
        index.search_identities(np.zeros((1, DIM + 1), np.float32), 1)


def test_another_models_vectors(site: Files | Served) -> None:
    filled(site)
    site.build()
    site.library.contract = "other"
    with pytest.raises(FacesearchError, match=r"of model .*expected other"):
        site.open()


def test_a_database_restored_from_a_backup(site: Files | Served) -> None:
    filled(site)
    site.build()
    with site.library.database.write() as connection:
        connection.execute(update(CollectionRow).values(revision=0))
    with pytest.raises(FacesearchError, match="restored from a backup"):
        site.open()
