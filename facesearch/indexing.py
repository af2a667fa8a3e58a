"""Where store and index meet: a collection's faces as a gallery to tune on; the check of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from facesearch.errors import IndexFileError, UsageError
from facesearch.evaluate.generate import another_photo, shipped_statistics
from facesearch.index.adaptation import ADAPTED, read_adaptation
from facesearch.index.disk import LOCK_NAME, TUNE_LOCK
from facesearch.index.exact import widen
from facesearch.index.live import LiveIndex
from facesearch.index.manifest import FILES, POINTER, IndexHome, read_pointer
from facesearch.index.measure import Probes
from facesearch.index.segment import Faces
from facesearch.index.tuned import TUNED, read_tuned
from facesearch.store import collections, feed
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.values import F16, F32, I64

MOST_PROBES = 4000
"""Probes drawn from a collection: enough to tell a loss of 0.1 % from one of 0.3 %."""
FEWEST_REAL = 500
"""People with several photos below which perturbed templates are added."""


def gallery(
    database: Database, collection: Collection, folder: Path, compared: Callable[[F16], F32]
) -> Faces:
    """Every face of a collection as the index compares it, in a file of `folder`, mapped.

    Args:
        database: the store.
        collection: whose faces.
        folder: where the vectors are written.
        compared: what the index does to vectors before it compares them.
    """
    ids, people, dim = [], [], collection.contract.dim
    path = folder / "vectors.f16"
    with feed.snapshot(database, collection) as (_, batches), path.open("wb") as file:
        for batch in batches:
            vectors = compared(batch.vectors) if len(batch) else batch.vectors
            file.write(np.ascontiguousarray(vectors, "<f2").data.cast("B"))
            ids.append(batch.face_ids)
            people.append(batch.identity_ids)
    none = np.zeros(0, np.int64)
    face_ids = np.concatenate([none, *ids])
    if not len(face_ids):
        raise UsageError(f"collection '{collection.name}' has no faces to tune on")
    mapped = np.memmap(path, "<f2", "r", shape=(len(face_ids), dim))
    return Faces(face_ids, np.concatenate([none, *people]), mapped)


def hold_out(faces: Faces, threshold: float, seed: int = 0) -> tuple[Faces, Probes]:
    """Faces without some of people who have several, and those as probes.

    Where fewer than `FEWEST_REAL` people have several, faces of others are added to the probes as
    another photo of them might look, by the statistics of LFW.

    Raises:
        UsageError: nobody is enrolled.
    """
    rng = np.random.default_rng(seed)
    ordered = np.argsort(faces.identity_ids, kind="stable")
    people, first, counts = np.unique(
        faces.identity_ids[ordered], return_index=True, return_counts=True
    )
    known = people > 0
    if not known.any():
        raise UsageError("nobody is enrolled: `index tune` measures identifications")
    several = np.flatnonzero(known & (counts > 1))
    held = rng.permutation(several)[:MOST_PROBES]
    rows = ordered[first[held] + counts[held] - 1]
    vectors, identities = widen(faces.vectors[np.sort(rows)]), faces.identity_ids[np.sort(rows)]
    origin = f"{len(rows)} faces held out of people with several photos"
    keep = np.ones(len(faces), np.bool_)
    keep[rows] = False
    if len(rows) < FEWEST_REAL:
        wanted = min(MOST_PROBES // 2, int(known.sum()))
        some = np.sort(ordered[first[rng.permutation(np.flatnonzero(known))[:wanted]]])
        made = _perturbed(widen(faces.vectors[some]), seed)
        vectors = np.concatenate([vectors, made])
        identities = np.concatenate([identities, faces.identity_ids[some]])
        origin += f", and {len(some)} enrolled faces perturbed as another photo would be"
        mixed = rng.permutation(len(vectors))
        vectors, identities = vectors[mixed], identities[mixed]
    rest = Faces(faces.face_ids[keep], faces.identity_ids[keep], faces.vectors[keep])
    return rest, Probes(vectors, identities, threshold, origin)


def _perturbed(vectors: F32, seed: int) -> F32:
    return another_photo(shipped_statistics(vectors.shape[1]), vectors, seed)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the index directory that should not be so: where, and what."""

    path: str
    detail: str


def verify(
    database: Database, root: Path, homes: list[tuple[Collection, IndexHome]]
) -> Iterator[Problem]:
    """Check every file of a library's indexes against the database.

    Of each collection: the files are those that the manifest names and have its checksums; together
    with the changes since, the index holds the ids of the database and no other; every stored
    vector is byte for byte the database's, centred if the index is. Nothing else lies in the
    directory.

    Args:
        database: the truth.
        root: the directory of all indexes.
        homes: every collection, and where its index must be.
    """
    expected = {home.directory for _, home in homes}
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if path not in expected:
            yield Problem(str(path), "belongs to no collection")
    for collection, home in homes:
        yield from _strange(home)
        try:
            read_tuned(home.directory)
            read_adaptation(home.directory, home.contract, home.dim)
            index = LiveIndex.open(home, partial(collections.revision, database, collection.id))
        except IndexFileError as err:
            yield Problem(str(home.directory), str(err))
            continue
        yield from _compare(database, collection, home, index)


def _strange(home: IndexHome) -> Iterator[Problem]:
    """Whatever lies beside the current generation."""
    if not home.directory.is_dir():
        return
    try:
        pointer = read_pointer(home.directory)
    except IndexFileError:
        return  # opening it says so
    current = pointer.generation if pointer else None
    for path in sorted(home.directory.iterdir()):
        if path.name not in {POINTER, TUNED, ADAPTED, LOCK_NAME, TUNE_LOCK, current}:
            yield Problem(str(path), "is not of the current generation; `index build` removes it")
    folder = home.directory / (current or "")
    for path in sorted(folder.iterdir()) if current and folder.is_dir() else []:
        if path.name not in FILES:
            yield Problem(str(path), "is not in the manifest")


def _compare(
    database: Database, collection: Collection, home: IndexHome, index: LiveIndex
) -> Iterator[Problem]:
    """The generation's rows against the database's."""
    generation = index.generation
    if generation is None:
        return
    where = str(home.directory / generation.name)
    if len(generation.index) != generation.manifest.rows:
        yield Problem(where, "FAISS holds another number of faces than the manifest says")
    changed = feed.changes(database, collection, index.revision)
    pending = np.concatenate([changed.upserts.face_ids, changed.removed])
    seen = np.zeros(len(generation.face_ids), np.bool_)
    with feed.snapshot(database, collection) as (_, batches):
        for batch in batches:
            rows = np.searchsorted(generation.face_ids, batch.face_ids)
            inside = rows < len(seen)
            inside[inside] = generation.face_ids[rows[inside]] == batch.face_ids[inside]
            missing = batch.face_ids[~inside & ~np.isin(batch.face_ids, pending)]
            if len(missing):
                yield Problem(
                    where, f"lacks {len(missing)} faces of the database: {_some(missing)}"
                )
            seen[rows[inside]] = True
            vectors = index.compared(batch.vectors[inside]).astype(np.float16)
            same = (generation.vectors[rows[inside]] == vectors).all(axis=1)
            same &= generation.identity_ids[rows[inside]] == batch.identity_ids[inside]
            other = batch.face_ids[inside][~same]
            other = other[~np.isin(other, pending)]
            if len(other):
                yield Problem(where, f"holds {len(other)} faces differently: {_some(other)}")
    gone = generation.face_ids[~seen]
    masked = gone[np.isin(gone, changed.removed)]
    if len(masked):
        yield Problem(
            where,
            f"still holds {len(masked)} removed faces, masked; run `facesearch index compact`",
        )
    if len(masked) < len(gone):
        strays = gone[~np.isin(gone, changed.removed)]
        yield Problem(
            where, f"holds {len(strays)} faces that the database has not: {_some(strays)}"
        )


def _some(ids: I64) -> str:
    return ", ".join(f"#{i}" for i in ids[:5].tolist()) + (", ..." if len(ids) > 5 else "")
