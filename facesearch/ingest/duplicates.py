"""Which photos of a collection are there more than once: the same bytes, or the same picture."""

from __future__ import annotations

from dataclasses import dataclass

from facesearch.index.near import groups, near_pairs
from facesearch.store import copies
from facesearch.store.collections import Collection
from facesearch.store.database import Database

DISTANCE = 4
"""Bits in which the hashes of near duplicates may differ, unless told; benchmarks/duplicates.py
says what other distances find."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Photos that are there more than once. Nothing is ever removed because of it.

    Attributes:
        exact: paths of files with the same bytes, a group a photo.
        near: paths of photos that look alike, a group a picture; one path a photo. A group is
            connected by pairs, so two in a large one may differ more.
        unhashed: photos not compared, as they were ingested by an earlier version.
    """

    exact: list[list[str]]
    near: list[list[str]]
    unhashed: int


def duplicates(database: Database, collection: Collection, distance: int = DISTANCE) -> Duplicates:
    """Every group of copies.

    Args:
        database: the store.
        collection: whose photos.
        distance: bits in which two hashes may differ, 0 to 7.

    Raises:
        UsageError: the distance is out of range.
    """
    ids, hashes, unhashed = copies.hashes(database, collection)
    found = [ids[rows].tolist() for rows in groups(near_pairs(hashes, distance), len(ids))]
    names = copies.paths_of(database, (photo for group in found for photo in group))
    near = [sorted(names[photo] for photo in group if photo in names) for group in found]
    return Duplicates(copies.same_bytes(database, collection), sorted(near), unhashed)
