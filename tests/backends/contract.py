"""What an identification needs of an index, on FAISS and on every vector server: one suite."""

from __future__ import annotations

import numpy as np
import pytest
from sqlalchemy import update

from facesearch.backends import remote
from facesearch.errors import FacesearchError, UsageError
from facesearch.index.segment import EVERYTHING, Scope
from facesearch.store.tables import CollectionRow
from facesearch.values import F32, I64
from tests.backends.made import DIM, Files, Served
from tests.index.made import people, units

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
    faces = sum(1 for identity, _ in truth.faces.values() if identity)
    assert index.enrolled() == (len(enrolled), faces)


def filters(site: Files | Served) -> None:
    """Both searches and the counts, among every kind of filter."""
    queries = filled(site)
    site.build()
    site.library.add(queries[:2], 300)
    index, truth = site.open(), site.library.truth
    some = np.array(sorted(truth.faces))[::3]
    for identities in (None, np.array([4, 9, 300]), np.arange(1, 50), np.array([999])):
        for faces in (None, some, some[:0]):
            scope = Scope(identities, faces)
            allowed: dict[str, I64 | None] = {"identities": identities, "faces": faces}
            found = index.search_identities(queries, 4, scope)
            truth.check(found, queries, 4, distinct=True, **allowed)
            found = index.search(queries, 4, scope)
            truth.check(found, queries, 4, distinct=False, **allowed)
            there = [
                who
                for face, (who, _) in truth.faces.items()
                if who
                and (identities is None or who in identities)
                and (faces is None or face in faces)
            ]
            assert index.enrolled(scope) == (len(set(there)), len(there))


class Contract:
    """The module that inherits these tests names their `site`."""

    def test_takes_in_what_was_committed(self, site: Files | Served) -> None:
        queries = filled(site)
        site.build()
        new = site.library.add(queries[:3], 7)
        site.library.enroll([new[0], PEOPLE * EACH + 1], 200)
        site.library.remove([new[1], 2, 3])
        site.push()
        status = site.open().status()
        rows = len(site.library.truth.faces)
        assert (status.rows, status.delta, status.superseded) == (rows, 0, 0)
        check(site, queries)
        site.push()  # nothing new: nothing changes
        check(site, queries)
        site.build()
        check(site, queries)

    def test_one_person_has_most_faces(self, site: Files | Served) -> None:
        """The faces nearest to the query are all of one person: others are found beyond them."""
        rng = np.random.default_rng(8)
        query = units(rng, 1)
        near = query + 0.05 * units(rng, 600)
        site.library.add(near / np.linalg.norm(near, axis=1, keepdims=True), 1)
        site.library.add(units(rng, 40), np.arange(2, 42))
        site.build()
        check(site, query)

    def test_another_reader_sees_a_rebuild(self, site: Files | Served) -> None:
        queries = filled(site)
        site.build()
        before = site.open()
        for change in (site.push, site.build):
            site.library.remove(sorted(site.library.truth.faces)[:2])
            change()
            found = before.search(queries, 5)  # as the store was, or as it is
            assert (found.counts == 5).all()
            check(site, queries)

    def test_filters_by_the_server(
        self, site: Files | Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "_FEW", 0)
        filters(site)

    def test_filters(self, site: Files | Served) -> None:
        filters(site)

    @pytest.mark.parametrize("fetched", [16_384, 256])
    def test_filters_here(
        self, site: Files | Served, monkeypatch: pytest.MonkeyPatch, fetched: int
    ) -> None:
        """By dropping what the server names, and by comparing everything."""
        monkeypatch.setattr(remote, "_FEW", 0)
        monkeypatch.setattr(remote, "_MOST_NAMED", 2)
        monkeypatch.setattr(remote, "_MOST_FETCHED", fetched)
        filters(site)

    def test_more_queries_than_one_request_takes(
        self, site: Files | Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote, "_TOGETHER", 5)
        queries = filled(site)
        site.build()
        check(site, queries)
        assert site.open().search(queries[:0], 3).ids.shape == (0, 3)

    def test_nothing_was_ever_built(self, site: Files | Served) -> None:
        check(site, units(np.random.default_rng(1), 2))
        check(site, filled(site))

    def test_built(self, site: Files | Served) -> None:
        queries = filled(site)
        site.build()
        index = site.open()
        assert (index.status().rows, index.status().delta) == (PEOPLE * EACH + STRANGERS, 0)
        check(site, queries)

    def test_sees_what_was_committed_since(self, site: Files | Served) -> None:
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

    def test_more_wanted_than_there_are(self, site: Files | Served) -> None:
        queries = filled(site)
        site.build()
        index, truth = site.open(), site.library.truth
        truth.check(index.search_identities(queries, 80), queries, 80, distinct=True)
        everybody = len(truth.faces) + 10
        truth.check(index.search(queries[:2], everybody), queries[:2], everybody, distinct=False)

    @pytest.mark.parametrize("filtered", [False, True])
    def test_templates(self, site: Files | Served, filtered: bool) -> None:
        queries = filled(site)
        site.build()
        site.library.add(queries[:1], 5)  # one face of five's is outside
        faces = site.library.truth.rows()
        among = faces.face_ids % 3 > 0 if filtered else faces.face_ids > 0
        scope = Scope(None, faces.face_ids[among]) if filtered else EVERYTHING
        found = site.open().search_templates(queries, 3, scope)
        for query, ids, scores in zip(queries, found.identity_ids, found.scores, strict=True):
            means = []
            for person in range(1, PEOPLE + 1):
                mine = faces.vectors[among & (faces.identity_ids == person)].astype(np.float64)
                mean = mine.mean(axis=0)
                means.append(float(mean @ query / np.linalg.norm(mean)))
            expected = np.argsort(means)[::-1][:3]
            np.testing.assert_allclose(scores, np.array(means)[expected], atol=1e-5)
            assert ids.tolist() == (expected + 1).tolist()

    def test_faces_of(self, site: Files | Served) -> None:
        filled(site)
        site.build()
        faces = site.open().faces_of(np.array([2, 5]))
        expected = [f for f, (who, _) in site.library.truth.faces.items() if who in (2, 5)]
        assert sorted(faces.face_ids.tolist()) == sorted(expected)

    @pytest.mark.parametrize("k", [0, -1])
    def test_nonsense(self, site: Files | Served, k: int) -> None:
        index = site.open()
        with pytest.raises(UsageError, match="at least 1"):
            index.search(units(np.random.default_rng(1), 1), k)
        with pytest.raises(UsageError, match="expected finite vectors"):
            index.search(np.full((1, DIM), np.nan, np.float32), 1)
        with pytest.raises(UsageError, match="expected finite vectors"):
            index.search_identities(np.zeros((1, DIM + 1), np.float32), 1)

    def test_another_models_vectors(self, site: Files | Served) -> None:
        filled(site)
        site.build()
        site.library.contract = "other"
        with pytest.raises(FacesearchError, match=r"of model .*expected other"):
            site.open()

    def test_a_database_restored_from_a_backup(self, site: Files | Served) -> None:
        filled(site)
        site.build()
        with site.library.database.write() as connection:
            connection.execute(update(CollectionRow).values(revision=0))
        with pytest.raises(FacesearchError, match="restored from a backup"):
            site.open()
