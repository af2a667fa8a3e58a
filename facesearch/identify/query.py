"""A query, wired: extracted faces in, candidates out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from facesearch.backends.remote import RemoteIndex
from facesearch.errors import ModelChangedError, PhotoError
from facesearch.faces.embedder import Embedder, embed_each
from facesearch.faces.extract import Extraction, principal
from facesearch.faces.quality import quality, why
from facesearch.identify.decide import Assessed, Found, Identification, answer
from facesearch.identify.judge import Judgement
from facesearch.index.live import LiveIndex
from facesearch.index.segment import Scope
from facesearch.ingest.flow import bounded_map
from facesearch.photos.remote import absolute
from facesearch.store import gallery
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.gallery import FaceRecord
from facesearch.values import F32, Embeddings, Failure, Identity

BATCH_PHOTOS = 64
"""Probe photos embedded and searched together by `Query.stream`."""


@dataclass(frozen=True, slots=True)
class FaceMatch:
    """A stored face that resembles a probe face.

    Attributes:
        face: the face and its photo.
        identity: who it is enrolled as; None if it is not.
        score: cosine similarity.
    """

    face: FaceRecord
    identity: Identity | None
    score: float


@dataclass(frozen=True, slots=True)
class FaceMatches:
    """The stored faces most similar to one face of a probe photo, best first."""

    box: tuple[float, float, float, float]
    matches: tuple[FaceMatch, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """What to search, and how to decide.

    Attributes:
        database: the store.
        targets: collections of one model contract, each with its index.
        embedder: of that contract.
        top: candidates a face.
        template: "mean" compares with the mean of each identity's faces, "looks" with the mean of
            each of its looks, "best" with each face.
        judge: number of templates searched to how scores are judged.
        scope: which faces of a collection are searched, given the revision its index is at.
        min_quality: below it a face is not given a name.
        renew: this query as it would be made now, for when a collection went over to another model
            since.
    """

    database: Database
    targets: Sequence[tuple[Collection, Callable[[], LiveIndex | RemoteIndex]]]
    embedder: Embedder
    top: int
    template: Literal["mean", "looks", "best"]
    judge: Callable[[int], Judgement]
    scope: Callable[[Collection, int], Scope]
    min_quality: float = 0.0
    renew: Callable[[], Query] | None = None

    def identify(self, extractions: Sequence[Extraction]) -> list[Identification]:
        """The answers for these probes, searched in one batch."""
        return [identification for identification, _ in self.identify_embedded(extractions)]

    def identify_embedded(
        self, extractions: Sequence[Extraction]
    ) -> list[tuple[Identification, Embeddings]]:
        """`identify`, each answer with the embeddings of its faces.

        The whole answer is by one model: if a collection goes over to another on the way, it is
        asked again by that.
        """
        try:
            return self._identify(extractions)
        except ModelChangedError:
            if self.renew is None:
                raise
            return self.renew().identify_embedded(extractions)

    def _identify(
        self, extractions: Sequence[Extraction]
    ) -> list[tuple[Identification, Embeddings]]:
        embedded = embed_each(self.embedder, [e.crops for e in extractions])
        found, identities, faces_enrolled = self.search(
            np.concatenate([e.vectors for e in embedded])
        )
        # each template is one more that a stranger may resemble; looks are at most as many as faces
        judgement = self.judge(identities if self.template == "mean" else faces_enrolled)
        answers, start = [], 0
        for extraction, embeddings in zip(extractions, embedded, strict=True):
            rows = slice(start, start + len(embeddings))
            start = rows.stop
            parts = [part.rows(rows) for part in found]
            assessed = self._assessed(extraction, embeddings)
            faces = answer(extraction.detections, assessed, parts, judgement, self.top)
            main = principal(extraction.detections, extraction.size) if faces else None
            identification = Identification(
                extraction.name,
                extraction.size,
                identities,
                faces_enrolled,
                faces,
                main,
                judgement.warnings_for(1.0 if main is None else float(assessed.quality[main])),
            )
            answers.append((identification, embeddings))
        return answers

    def search(self, vectors: F32) -> tuple[list[Found], int, int]:
        """The best candidates of each collection for (Q, D) embeddings, as they are embedded.

        Returns:
            The candidates, and how many identities and enrolled faces were searched.
        """
        found, identities, enrolled = [], 0, 0
        for collection, live in self.targets:
            index = live()
            scope = self.scope(collection, index.revision)
            if self.template == "best":
                matches = index.search_identities(vectors, self.top, scope)
            else:
                by_look = self.template == "looks"
                matches = index.search_templates(vectors, self.top, scope, by_look=by_look)
            candidates = gallery.candidates(self.database, matches.ids[matches.ids > 0].tolist())
            found.append(Found(collection.name, matches, candidates))
            people, faces = index.enrolled(scope)
            identities += people
            enrolled += faces
        return found, identities, enrolled

    def faces(self, extraction: Extraction) -> tuple[FaceMatches, ...]:
        """The most similar stored faces, enrolled or not, for each face of a probe."""
        try:
            return self._faces(extraction)
        except ModelChangedError:
            if self.renew is None:
                raise
            return self.renew().faces(extraction)

    def _faces(self, extraction: Extraction) -> tuple[FaceMatches, ...]:
        (embeddings,) = embed_each(self.embedder, [extraction.crops])
        ((collection, live),) = self.targets
        index = live()
        matches = index.search(embeddings.vectors, self.top, self.scope(collection, index.revision))
        records = gallery.faces_by_id(self.database, matches.ids[matches.ids > 0].tolist())
        people = gallery.identities_by_id(
            self.database, collection, {r.identity_id for r in records.values() if r.identity_id}
        )
        answers = []
        for row, box in enumerate(extraction.detections.boxes.tolist()):
            hits = zip(matches.ids[row].tolist(), matches.scores[row].tolist(), strict=True)
            answers.append(
                FaceMatches(
                    (box[0], box[1], box[2], box[3]),
                    tuple(
                        FaceMatch(records[id_], people.get(records[id_].identity_id), score)
                        for id_, score in hits
                        if id_ in records
                    ),
                )
            )
        return tuple(answers)

    def stream(
        self,
        photos: Iterable[str | os.PathLike[str]],
        extract: Callable[[str], Extraction],
        threads: int,
    ) -> Iterator[tuple[Identification, Embeddings] | Failure]:
        """`identify_embedded` over many photos in order: extracted on threads, searched in batches.

        A photo that cannot be read gives a `Failure` in its place.
        """

        def one(photo: str | os.PathLike[str]) -> Extraction | Failure:
            path = absolute(photo)
            try:
                return extract(path)
            except PhotoError as err:
                return Failure(path, err.reason.value, err.detail)

        with ThreadPoolExecutor(threads, thread_name_prefix="facesearch-extract") as pool:
            items = bounded_map(pool, one, photos, 2 * BATCH_PHOTOS)
            while chunk := list(islice(items, BATCH_PHOTOS)):
                read = [item for item in chunk if not isinstance(item, Failure)]
                answers = iter(self.identify_embedded(read) if read else [])
                yield from (item if isinstance(item, Failure) else next(answers) for item in chunk)

    def _assessed(self, extraction: Extraction, embeddings: Embeddings) -> Assessed:
        figures = quality(extraction.measures, embeddings)
        insufficient = (
            f"quality {figure:.3f} is below {self.min_quality:g}: {why(extraction.measures, row)}; "
            "take another photo, or tell who it is by other means than the face"
            if figure < self.min_quality
            else ""
            for row, figure in enumerate(figures.tolist())
        )
        return Assessed(figures, tuple(insufficient))
