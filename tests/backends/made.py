"""A store with faces to order, and an index over it of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, delete, insert, update

from facesearch.backends import sync
from facesearch.backends.backend import Backend
from facesearch.backends.remote import RemoteIndex
from facesearch.index.build import build
from facesearch.index.live import LiveIndex
from facesearch.index.manifest import IndexHome
from facesearch.index.spec import load_recipe
from facesearch.store import collections, feed
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.tables import FaceRow, IdentityRow, PhotoRow, RemovalRow, now
from facesearch.values import F16, F32, I64, ModelContract
from tests.index.made import Truth

DIM = 16
CONTRACT = ModelContract("test", "0" * 64, "112x112 RGB", DIM)
DIES = pytest.mark.flaky(
    reruns=1, only_rerun=["BackendUnreachableError", "IncompleteError", "RuntimeError: Milvus"]
)
"""Of tests of a Milvus server, which dies where the machine stalls: once more, with another one."""


@dataclass
class Library:
    """A collection in a real database, faces put in by hand, and its `Truth` beside it."""

    database: Database
    collection: Collection
    directory: Path
    truth: Truth = field(default_factory=lambda: Truth(DIM))
    people: set[int] = field(default_factory=set)
    contract: str = CONTRACT.key

    @property
    def home(self) -> IndexHome:
        uuid = self.database.library_uuid()
        return IndexHome(self.directory, uuid, self.collection.id, self.contract, DIM)

    def add(self, vectors: F32 | F16, identities: I64 | int = 0) -> list[int]:
        """Add faces, enrolled as these identities (0: nobody); their ids."""
        given = np.broadcast_to(np.int64(identities), len(vectors)).tolist()
        rounded = vectors.astype("<f2")
        with self.database.write() as connection:
            self._people(connection, set(given) - {0} - self.people)
            revision = collections.bump(connection, self.collection.id)
            photo = connection.execute(
                insert(PhotoRow)
                .values(
                    collection_id=self.collection.id,
                    sha256=f"{revision:064x}",
                    width=1,
                    height=1,
                    created_at=now(),
                )
                .returning(PhotoRow.id)
            ).scalar_one()
            ids = list(
                connection.execute(
                    insert(FaceRow).returning(FaceRow.id, sort_by_parameter_order=True),
                    [
                        {
                            "collection_id": self.collection.id,
                            "photo_id": photo,
                            "ordinal": ordinal,
                            **dict.fromkeys(("x1", "y1", "x2", "y2", "score", "quality"), 1.0),
                            "landmarks": bytes(40),
                            "embedding": vector.tobytes(),
                            "identity_id": identity or None,
                            "changed": revision,
                        }
                        for ordinal, (vector, identity) in enumerate(
                            zip(rounded, given, strict=True)
                        )
                    ],
                ).scalars()
            )
        for face, identity, vector in zip(ids, given, rounded, strict=True):
            self.truth.faces[face] = (identity, vector.astype(np.float16))
        return ids

    def enroll(self, face_ids: list[int], identity: int) -> None:
        with self.database.write() as connection:
            self._people(connection, {identity} - self.people)
            revision = collections.bump(connection, self.collection.id)
            connection.execute(
                update(FaceRow)
                .where(FaceRow.id.in_(face_ids))
                .values(identity_id=identity, changed=revision)
            )
        for face in face_ids:
            self.truth.faces[face] = (identity, self.truth.faces[face][1])

    def remove(self, face_ids: list[int]) -> None:
        with self.database.write() as connection:
            revision = collections.bump(connection, self.collection.id)
            connection.execute(
                insert(RemovalRow),
                [
                    {"face_id": f, "collection_id": self.collection.id, "revision": revision}
                    for f in face_ids
                ],
            )
            connection.execute(delete(FaceRow).where(FaceRow.id.in_(face_ids)))
        for face in face_ids:
            del self.truth.faces[face]

    def _people(self, connection: Connection, ids: set[int]) -> None:
        if ids:
            connection.execute(
                insert(IdentityRow),
                [
                    {
                        "id": id_,
                        "collection_id": self.collection.id,
                        "name": str(id_),
                        "details": {},
                        "created_at": now(),
                    }
                    for id_ in sorted(ids)
                ],
            )
            self.people |= ids


@dataclass
class Files:
    """FAISS in files, as the engine keeps it."""

    library: Library

    def open(self) -> LiveIndex:
        library = self.library
        index = LiveIndex.open(
            library.home, lambda: collections.revision(library.database, library.collection.id)
        )
        index.apply(feed.changes(library.database, library.collection, index.revision))
        return index

    def build(self) -> None:
        library = self.library
        with feed.snapshot(library.database, library.collection) as (revision, batches):
            build(library.home, load_recipe("exact"), revision, batches)

    push = build


@dataclass
class Served:
    """A vector server."""

    library: Library
    connect: Callable[[], Backend]

    def __post_init__(self) -> None:
        self.backend = self.connect()

    def open(self) -> RemoteIndex:
        library = self.library
        index = RemoteIndex(
            self.backend,
            library.home,
            library.database,
            library.collection,
            lambda: np.zeros((0, DIM), np.float16),
        )
        index.refresh()
        return index

    def build(self) -> None:
        sync.build(self.backend, self.library.home, self.library.database, self.library.collection)

    def push(self) -> None:
        sync.push(self.backend, self.library.home, self.library.database, self.library.collection)
