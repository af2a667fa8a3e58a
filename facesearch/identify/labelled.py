"""Labelled faces to calibrate with: from photos that are not kept, or a collection's people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from facesearch.errors import PhotoError, UsageError
from facesearch.faces.embedder import Embedder
from facesearch.faces.extract import Extraction
from facesearch.faces.quality import quality
from facesearch.identify.calibration import Scores
from facesearch.ingest.enroll import Entry, choose
from facesearch.ingest.flow import bounded_map
from facesearch.store import feed, gallery
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.gallery import StoredFaces
from facesearch.values import F32, I64, Failure

MOST_PEOPLE = 2000
"""People compared everybody with everybody, at most; of more, so many are drawn at random."""


@dataclass(frozen=True, slots=True)
class LabelledFaces:
    """Faces of known people.

    Attributes:
        vectors: (N, D) float32 unit norm.
        people: (N,) number of the person of each, an index into `names`.
        names: of the people.
        failures: photos that gave no face.
        quality: float32, 0 to 1, of the faces, in any order; empty if it is not known.
    """

    vectors: F32
    people: I64
    names: tuple[str, ...]
    failures: tuple[Failure, ...] = ()
    quality: F32 = field(default_factory=lambda: np.zeros(0, np.float32))

    @staticmethod
    def of(vectors: F32, labels: Sequence[str], failures: Iterable[Failure] = ()) -> LabelledFaces:
        """Faces with a label each, in any order."""
        names, people = np.unique(np.array(labels, dtype=object), return_inverse=True)
        return LabelledFaces(vectors, people.astype(np.int64), tuple(names), tuple(failures))

    def compared(self, compared: Callable[[F32], F32]) -> LabelledFaces:
        """These faces as an index compares them, given what it does to vectors."""
        return replace(self, vectors=compared(self.vectors))

    def scores(self) -> Scores:
        """Everybody against everybody: each person's last photo searches all first photos."""
        people, first = np.unique(self.people, return_index=True)
        last = len(self.people) - 1 - np.unique(self.people[::-1], return_index=True)[1]
        if len(people) > MOST_PEOPLE:
            drawn = np.sort(np.random.default_rng(0).choice(len(people), MOST_PEOPLE, False))
            people, first, last = people[drawn], first[drawn], last[drawn]
        cosines: F32 = self.vectors[last] @ self.vectors[first].T
        return Scores(cosines, people, people)


def from_entries(
    entries: Iterable[Entry],
    extract: Callable[[str], Extraction],
    embedder: Embedder,
    threads: int,
) -> LabelledFaces:
    """The chosen face of each labelled photo, embedded and not stored.

    Raises:
        UsageError: no photo has a face.
    """
    vectors, labels, failures, figures = [], [], [], []

    def one(entry: Entry) -> tuple[Entry, Extraction | Failure]:
        try:
            return entry, extract(entry.path)
        except PhotoError as err:
            return entry, Failure(entry.path, err.reason.value, err.detail)

    with ThreadPoolExecutor(threads, thread_name_prefix="facesearch-extract") as pool:
        for entry, found in bounded_map(pool, one, entries, 4 * threads):
            if isinstance(found, Failure):
                failures.append(found)
                continue
            count = len(found.detections)
            numbers = np.arange(count, dtype=np.int64)
            nobody = np.zeros_like(numbers)
            faces = StoredFaces(found.size, numbers, nobody, found.detections, numbers)
            row = choose(faces, entry.face)
            if isinstance(row, str):
                failures.append(Failure(entry.path, row, f"not used: {count} faces found in it"))
                continue
            embedded = embedder.embed(found.crops)
            vectors.append(embedded.vectors[row : row + 1])
            figures.append(quality(found.measures, embedded)[row : row + 1])
            labels.append(entry.person.external_id or entry.person.name)
    if not vectors:
        raise UsageError("none of the labelled photos shows a face that could be used")
    labelled = LabelledFaces.of(np.concatenate(vectors), labels, failures)
    return replace(labelled, quality=np.concatenate(figures))


def from_collection(database: Database, collection: Collection) -> LabelledFaces:
    """The enrolled faces of a collection.

    Raises:
        UsageError: nobody is enrolled.
    """
    vectors, ids = [], []
    with feed.snapshot(database, collection) as (_, batches):
        for batch in batches:
            enrolled = batch.identity_ids > 0
            vectors.append(batch.vectors[enrolled].astype(np.float32))
            ids.append(batch.identity_ids[enrolled])
    people = np.concatenate(ids) if ids else np.zeros(0, np.int64)
    if not len(people):
        raise UsageError(
            f"nobody is enrolled in collection '{collection.name}'; enrol people, or name a folder "
            "of labelled photos"
        )
    names = {p.id: p.name for p in gallery.listing(database, collection)}
    found, number = np.unique(people, return_inverse=True)
    return LabelledFaces(
        np.concatenate(vectors),
        number.astype(np.int64),
        tuple(names.get(i, f"#{i}") for i in found.tolist()),
        quality=gallery.qualities(database, collection),
    )
