"""What index tests share: faces made to order, small recipes, and an oracle that shares no code."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from facesearch.index.manifest import IndexHome
from facesearch.index.spec import IndexSpec, load_recipe
from facesearch.values import F16, F32, I64, Changes, FaceRows, Matches

DIM = 16
TOLERANCE = 2e-6
"""Float32 sums of 128 products or fewer, of unit vectors, against the same sum in float64."""

EXACT = load_recipe("exact")
EAGER = replace(EXACT, name="eager", rerank=1)
"""Flat, and FAISS fetches so little that the growth of the fetch and its end are exercised."""


def home(directory: Path, dim: int = DIM) -> IndexHome:
    return IndexHome(directory, library_id="library-a", collection_id=3, contract="model", dim=dim)


def units(rng: np.random.Generator, rows: int, dim: int = DIM) -> F32:
    vectors = rng.standard_normal((rows, dim)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def people(rng: np.random.Generator, identities: int, each: int, dim: int) -> F32:
    """Face-like vectors: a common mean, people around it, photos around people (mates ~0.6)."""
    centres = units(rng, identities, dim) + 0.3 * units(rng, 1, dim)
    photos = np.repeat(centres, each, axis=0) + 0.8 * units(rng, identities * each, dim)
    return np.asarray(photos / np.linalg.norm(photos, axis=1, keepdims=True), np.float32)


def faces(first_id: int, vectors: F32 | F16, identity_ids: I64 | int = 0) -> FaceRows:
    ids = np.arange(first_id, first_id + len(vectors), dtype=np.int64)
    identities = np.broadcast_to(np.int64(identity_ids), len(vectors)).copy()
    return FaceRows(ids, identities, vectors.astype(np.float16))


@dataclass
class Truth:
    """What a store would hold: faces by id, and when they changed. Counts its own revisions."""

    dim: int = DIM
    revision: int = 0
    faces: dict[int, tuple[int, F16]] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)
    removed: dict[int, int] = field(default_factory=dict)

    def upsert(self, rows: FaceRows) -> None:
        self.revision += 1
        for face, identity, vector in zip(
            rows.face_ids.tolist(), rows.identity_ids.tolist(), rows.vectors, strict=True
        ):
            self.faces[face] = (identity, vector)
            self.changed[face] = self.revision

    def remove(self, face_ids: list[int]) -> None:
        self.revision += 1
        for face in face_ids:
            self.faces.pop(face, None)
            self.removed[face] = self.revision

    def rows(self, face_ids: list[int] | None = None) -> FaceRows:
        chosen = sorted(self.faces if face_ids is None else face_ids)
        vectors = [self.faces[face][1] for face in chosen]
        return FaceRows(
            np.array(chosen, np.int64),
            np.array([self.faces[face][0] for face in chosen], np.int64),
            np.array(vectors, np.float16).reshape(len(chosen), self.dim),
        )

    def changes(self, since: int) -> Changes:
        upserts = [
            f for f, revision in self.changed.items() if revision > since and f in self.faces
        ]
        removed = [f for f, revision in self.removed.items() if revision > since]
        return Changes(self.revision, self.rows(upserts), np.array(removed, np.int64))

    def check(
        self,
        found: Matches,
        queries: F32,
        k: int,
        *,
        distinct: bool,
        identities: I64 | None = None,
        faces: I64 | None = None,
    ) -> None:
        """Assert that `found` is the exact answer; faces of equal score may swap places."""
        rows = self.rows()
        good = np.ones(len(rows), bool)
        if identities is not None:
            good &= np.isin(rows.identity_ids, identities)
        if faces is not None:
            good &= np.isin(rows.face_ids, faces)
        if distinct:
            good &= rows.identity_ids > 0
        ids, people, vectors = rows.face_ids[good], rows.identity_ids[good], rows.vectors[good]
        assert found.ids.shape == (len(queries), k)
        for query, row in zip(queries.astype(np.float64), range(len(queries)), strict=True):
            scores = vectors.astype(np.float64) @ query
            expected = sorted(scores.tolist(), reverse=True)
            if distinct:
                expected = sorted(scores[people == p].max() for p in np.unique(people))[::-1]
            n = min(k, len(expected))
            assert found.counts[row] == n
            assert (found.ids[row, n:] == -1).all()
            assert (found.identity_ids[row, n:] == -1).all()
            assert np.isneginf(found.scores[row, n:]).all()
            np.testing.assert_allclose(found.scores[row, :n], expected[:n], atol=TOLERANCE, rtol=0)
            where = {face: i for i, face in enumerate(ids.tolist())}
            at = [where[face] for face in found.ids[row, :n].tolist()]
            assert len(set(at)) == n
            np.testing.assert_allclose(found.scores[row, :n], scores[at], atol=TOLERANCE, rtol=0)
            assert found.identity_ids[row, :n].tolist() == people[at].tolist()
            if distinct:
                assert len(set(people[at].tolist())) == n


def recipe(factory: str, **fields: str | int) -> IndexSpec:
    """A recipe as a user may write one."""
    base = replace(EXACT, name="own", factory=factory, rerank=64)
    return replace(base, **fields)  # type: ignore[arg-type]
