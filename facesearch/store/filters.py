"""Which faces a search is about: by metadata of their identity, by when they were taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from sqlalchemy import select

from facesearch.errors import UsageError
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.gallery import ids_where
from facesearch.store.tables import FaceRow, PhotoRow
from facesearch.values import I64, JSONValue


@dataclass(frozen=True, slots=True)
class Filter:
    """What faces must have to be searched.

    Attributes:
        where: metadata of their identity: every key with its value.
        since: when their photo was taken, by the camera's clock: then or later.
        until: likewise: before then. Photos that do not say are left out where either is given.
    """

    where: Mapping[str, JSONValue] = field(default_factory=dict)
    since: datetime | None = None
    until: datetime | None = None

    @property
    def timed(self) -> bool:
        """Whether it asks when photos were taken."""
        return self.since is not None or self.until is not None

    def __post_init__(self) -> None:
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise UsageError(f"no photo was taken since {self.since} and before {self.until}")

    def __bool__(self) -> bool:
        return bool(self.where) or self.timed


def identities(database: Database, collection: Collection, chosen: Filter) -> I64 | None:
    """(M,) int64, ascending: the identities that pass; None if all do."""
    return ids_where(database, collection, chosen.where) if chosen.where else None


def faces(database: Database, collection: Collection, chosen: Filter) -> I64 | None:
    """(M,) int64, ascending: the faces, enrolled or not, of photos taken then; None if any do."""
    if not chosen.timed:
        return None
    taken = [PhotoRow.collection_id == collection.id]
    if chosen.since is not None:
        taken.append(PhotoRow.taken_at >= chosen.since)
    if chosen.until is not None:
        taken.append(PhotoRow.taken_at < chosen.until)
    query = select(FaceRow.id).join(PhotoRow, PhotoRow.id == FaceRow.photo_id).where(*taken)
    with database.read() as connection:
        found = np.fromiter(connection.execute(query).scalars(), np.int64)
    return np.sort(found)
