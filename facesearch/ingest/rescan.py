"""Noticing files that are not where they were."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from facesearch.errors import PhotoError, Reason
from facesearch.ingest.report import Report
from facesearch.photos import archive, place
from facesearch.store import presence
from facesearch.store.collections import Collection
from facesearch.store.database import Database

BATCH = 1024
"""Files looked for together."""


def rescan(
    database: Database,
    collection: Collection,
    roots: Sequence[str],
    report: Report,
) -> None:
    """Look for every known file at or under `roots`, after they have been ingested.

    Only a file that the operating system says is not there counts as missing, and what lay in it;
    one that cannot be looked at, say on a disk that fails, does not, nor does a member of an
    archive that is damaged.

    Args:
        database: the store.
        collection: whose files.
        roots: absolute paths.
        report: moved and gone files are counted in it.
    """
    after = 0
    while True:
        look = partial(presence.under, database, collection, roots, after, BATCH)
        if not (files := database.patiently(look)):
            return
        after = files[-1].id
        away = [file for file in files if _is_missing(file.path)]
        if away:
            record = partial(presence.missing, database, away)
            moved, gone = database.patiently(record)
            report.moved += moved
            report.gone += gone


def _is_missing(path: str) -> bool:
    try:
        place.stamp(path)
    except PhotoError as err:
        return err.reason is Reason.MISSING and not _in_damaged_archive(path)
    return False


def _in_damaged_archive(path: str) -> bool:
    inside = archive.split(path)
    try:
        return inside is not None and bool(archive.opened(inside[0]).failures)
    except PhotoError:
        return True
