"""Moving a library: everything of one copied to another, of the same or another kind.

The other library's own settings say where it keeps its truth (SQLite, Postgres) and what searches
it (FAISS, pgvector, Milvus). Ids stay as they are. Indexes are not copied but built and verified.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from facesearch.engine import Engine
from facesearch.errors import IndexFileError, UsageError
from facesearch.index.adaptation import ADAPTED
from facesearch.store import transfer

MARKER = "MIGRATING"
"""File in a library that is being copied to: the id of the library that it comes from."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What was copied.

    Attributes:
        database: where the copy is.
        rows: of each table, compared after they were copied.
        indexed: faces in the index of each collection, verified.
    """

    database: str
    rows: dict[str, int]
    indexed: dict[str, int]


def migrate(
    source: Engine, target: Engine, progress: Callable[[str, int], None] = lambda what, rows: None
) -> Migration:
    """Make `target` a copy of `source`; killed at any instant, the same call goes on.

    Args:
        source: the library to copy; nothing may write to it meanwhile.
        target: an empty library, or one that an earlier call of this did not finish.
        progress: called with a table's name and how many of its rows are done.

    Raises:
        UsageError: both are the same, or the target holds something else, or cannot compare with
            an adaptation that the source has.
        StoreError: they are not equal afterwards, because something wrote to one of them.
        IndexFileError: the target's index is not as its database has it.
        As `Engine.build_index` otherwise.
    """
    if source.root == target.root or source.database.url == target.database.url:
        raise UsageError(
            f"{target.database.where}: is the database to copy, too; give the new library its own "
            "store.url (and unset FACESEARCH_STORE_URL)"
        )
    adaptations = _adaptations(source, target)
    marker = target.root / MARKER
    _claim(marker, source.database.library_uuid(), target)
    rows = transfer.transfer(source.database, target.database, progress)
    if source.models_dir.is_dir():
        shutil.copytree(source.models_dir, target.models_dir, dirs_exist_ok=True)
    for path in adaptations:
        copy = target.root / path.relative_to(source.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    indexed = {}
    for collection in target.collections():
        progress(f"index of '{collection.name}'", 0)
        if target.counts(collection.name).faces:
            indexed[collection.name] = target.build_index(collection.name).rows
    for problem in target.verify_index():
        raise IndexFileError(f"{problem.path}: {problem.detail}")
    marker.unlink()
    return Migration(target.database.where, rows, indexed)


def _adaptations(source: Engine, target: Engine) -> list[Path]:
    """The files of the source's adaptations, which the copy's scores depend on."""
    if source.settings.index.backend != "faiss":
        return []
    found = sorted((source.root / "index").glob(f"*/{ADAPTED}"))
    if found and target.settings.index.backend != "faiss":
        raise UsageError(
            f'{found[0]}: a collection is adapted, and only index.backend = "faiss" can compare '
            "so; 'facesearch index adapt --forget' it first"
        )
    return found


def _claim(marker: Path, source_id: str, target: Engine) -> None:
    """Note in the target what it is becoming a copy of; refuse one that holds something else."""
    if not marker.exists():
        transfer.require_empty(target.database)
        marker.write_text(source_id)
    elif marker.read_text() != source_id:
        raise UsageError(f"{target.root}: is becoming a copy of another library; choose a new one")
