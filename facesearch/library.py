"""A library on disk: the directory with the settings, the database, the indexes, the models."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facesearch.errors import DiskFullError, LibraryError
from facesearch.settings import CONFIG_NAME, Settings, load_settings
from facesearch.store.database import Database, sqlite_url

DATABASE_NAME = "facesearch.db"


@dataclass(frozen=True, slots=True)
class Library:
    """An attached library.

    Attributes:
        root: its directory, absolute.
        settings: file, environment and caller's overrides together.
        database: connected when first used.
        model_given: whether the caller named a model, rather than the settings.
    """

    root: Path
    settings: Settings
    database: Database
    model_given: bool


def attach(path: Path, overrides: Mapping[str, Any]) -> Library:
    """A library whose database nobody has looked at yet: for upgrading or diagnosing it.

    Raises:
        LibraryError: there is no library at `path`.
        UsageError: a setting is unknown or malformed.
    """
    root = path.expanduser().absolute()
    if not root.is_dir():
        raise LibraryError(f"{root}: no library here; create it with 'facesearch init'")
    if not (root / CONFIG_NAME).is_file() and not (root / DATABASE_NAME).exists():
        raise LibraryError(
            f"{root}: not a library (no {CONFIG_NAME}); create one with 'facesearch init'"
        )
    settings = load_settings(root).override(**overrides)
    database = connect(root, settings)
    return Library(root, settings, database, overrides.get("embed_model") is not None)


def connect(root: Path, settings: Settings) -> Database:
    """The database of the library at `root`; nobody has looked whether it is there."""
    return Database(settings.store.url or sqlite_url(root / DATABASE_NAME), settings.store.patience)


def reopened(root: Path, settings: Settings, model_given: bool) -> Library:
    """A library that another process has open, with the settings that it has there."""
    return Library(root, settings, connect(root, settings), model_given)


def open_library(path: Path, overrides: Mapping[str, Any]) -> Library:
    """A library whose database is there and of this program's schema.

    Raises:
        StoreError: its database is missing or damaged.
        SchemaError: its database is older or newer than this program.
        As `attach` otherwise.
    """
    library = attach(path, overrides)
    try:
        library.database.check()
    except BaseException:
        library.database.close()
        raise
    return library


def create_library(path: Path, overrides: Mapping[str, Any]) -> Library:
    """A new library at `path`, or the one that is there; nothing existing is changed.

    Raises:
        LibraryError: the directory cannot be written, or holds other things.
        As `open_library` otherwise.
    """
    from facesearch.store import migrate

    root = path.expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        config = root / CONFIG_NAME
        if not config.exists():
            foreign = [e.name for e in root.iterdir() if not e.name.startswith(DATABASE_NAME)]
            if foreign:
                raise LibraryError(
                    f"{root}: neither empty nor a library (has '{foreign[0]}'); "
                    "choose another directory"
                )
            config.write_text(CONFIG_TEMPLATE, encoding="utf-8")
    except OSError as err:
        kind = DiskFullError if err.errno == errno.ENOSPC else LibraryError
        raise kind(f"{root}: cannot create a library here ({err.strerror})") from err
    library = attach(root, overrides)
    try:
        if not library.database.exists() or library.database.version() is None:
            migrate.upgrade(library.database)
            library.database.ensure_library()
        library.database.check()
    except BaseException:
        library.database.close()
        raise
    return library


CONFIG_TEMPLATE = """\
# Settings of this facesearch library. Every line shows a default; remove the "#" to change it.
# An environment variable FACESEARCH_<SECTION>_<KEY> takes precedence over this file.

[photos]
# max_bytes = 268435456       # largest file read
# max_pixels = 400000000      # largest width x height

[detect]
# min_face = 16.0             # shortest side of a face kept, pixels of the photo
# second_look = true          # look at every face found again, closely; false is faster, less exact
# score = 0.7                 # least confidence of the detector

[embed]
# model = "sface"             # of new collections
# device = "auto"             # auto, cpu, cuda, cuda:N, mps
# threads = 0                 # 0: all cores

[ingest]
# min_quality = 0.0           # 0 to 1; faces below are recorded as rejected, not stored
# min_face = 0.0              # pixels; likewise
# video_every = 0.5           # seconds between frames of a video
# max_seconds = 120.0         # a file that takes longer is recorded as failed; 0: any time
# crops = false               # whether to keep the aligned pixels of faces, 21 KB each
# gps = false                 # whether to store where photos were taken

[index]
# recipe = "auto"             # a recipe of indexes/, or the path of one
# max_delta = 20000           # faces beside the index before it is rebuilt
# backend = "faiss"           # what searches: faiss, pgvector, milvus (docs/backends.md)
# url = ""                    # of a Milvus server, e.g. "http://host:19530"
# timeout = 30.0              # seconds that a vector server may take
# replicas = 2                # copies of the faces that Milvus holds in memory

[identify]
# fpir = 0.01                 # false-positive rate that the measured threshold keeps
# top = 5                     # candidates a face
# prior = 0.5                 # chance that a probe shows somebody enrolled
# min_quality = 0.05          # a probe face below is not given a name
# threshold = 0.4             # a fixed cosine instead of the measured threshold

[store]
# url = ""                    # e.g. "postgresql+psycopg://user@host/name"; empty: SQLite in here
# patience = 300.0            # seconds that ingestion waits for a database server that is away
"""
