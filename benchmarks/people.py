"""A library of generated people, made in bulk: what benchmarks of a large collection start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import insert

from facesearch import Engine
from facesearch.evaluate.generate import BLOCK, Population, shipped_statistics
from facesearch.faces.known_models import KNOWN
from facesearch.store import collections
from facesearch.store.collections import bump
from facesearch.store.tables import FaceRow, FileRow, IdentityRow, PhotoRow
from facesearch.values import F32

CONTRACT = next(model for model in KNOWN if model.name == "sface").contract


def population(seed: int = 0) -> Population:
    """The people: person i of a seed is always the same."""
    return Population(shipped_statistics(CONTRACT.dim), seed)


def make(root: Path, people: int, seed: int = 0) -> Engine:
    """A new library with one enrolled face each of people 0 to `people`, or the one that is there.

    Face, photo and identity i + 1 are person i's.
    """
    engine = Engine.create(root)
    found = collections.ensure(engine.database, collections.DEFAULT, CONTRACT)
    if engine.counts().faces == 0:
        for start, vectors in enumerate(population(seed).stream(people)):
            add(engine, found.id, start * BLOCK, vectors)
    return engine


def add(engine: Engine, collection_id: int, start: int, vectors: F32) -> int:
    """Store people `start` on, enrolled with one face each, in one transaction: its revision."""
    with engine.database.write() as connection:
        revision = bump(connection, collection_id)
        rows = _rows(collection_id, revision, start, vectors)
        for table, of in rows.items():
            connection.execute(insert(table), of)
    return revision


def _rows(
    collection_id: int, revision: int, start: int, vectors: F32
) -> dict[type, list[dict[str, Any]]]:
    tables: dict[type, list[dict[str, Any]]] = {
        PhotoRow: [],
        FileRow: [],
        IdentityRow: [],
        FaceRow: [],
    }
    box = {"x1": 10.0, "y1": 10.0, "x2": 60.0, "y2": 60.0}
    landmarks = np.zeros((5, 2), "<f4").tobytes()
    for i, vector in enumerate(vectors.astype("<f2"), start + 1):
        own = {"id": i, "collection_id": collection_id}
        tables[PhotoRow].append(own | {"sha256": f"{i:064x}", "width": 640, "height": 480})
        tables[FileRow].append(
            own
            | {"path": f"/photos/{i}.jpg", "size": 1, "mtime_ns": 1, "photo_id": i}
            | {"state": "done"}
        )
        tables[IdentityRow].append(
            own | {"name": f"person {i}", "metadata": {"team": i % 200, "half": i % 2}}
        )
        tables[FaceRow].append(
            own
            | box
            | {"photo_id": i, "ordinal": 0, "landmarks": landmarks, "score": 0.9, "quality": 0.5}
            | {"embedding": vector.tobytes(), "identity_id": i, "changed": revision}
        )
    return tables
