"""A generation on disk, verified and mapped.

Every file is hashed each time a process opens it, before FAISS or a query sees a byte: 0.6 s for a
million faces of 128 dimensions, and the operating system then holds what searches read anyway.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facesearch.errors import IndexFileError
from facesearch.index import faiss_index
from facesearch.index.adaptation import ADAPTED, Adaptation, parse
from facesearch.index.disk import REBUILD, verified
from facesearch.index.faiss_index import FaissIndex
from facesearch.index.manifest import (
    FACES,
    IDENTITIES,
    INDEX,
    MANIFEST,
    VECTORS,
    IndexHome,
    Manifest,
    Pointer,
    check,
    read_manifest,
    read_pointer,
)
from facesearch.values import F16, I64


@dataclass(frozen=True, slots=True)
class Generation:
    """An immutable set of faces on disk, ready to search.

    Attributes:
        name: of its folder.
        manifest: what it is.
        index: FAISS's index of its rows.
        face_ids: (N,) int64, ascending.
        identity_ids: (N,) int64, 0 for faces that are not enrolled.
        vectors: (N, D) float16, mapped.
        adaptation: what was applied to them; None for nothing.
    """

    name: str
    manifest: Manifest
    index: FaissIndex
    face_ids: I64
    identity_ids: I64
    vectors: F16
    adaptation: Adaptation | None = None


def open_current(home: IndexHome, revision: Callable[[], int]) -> Generation | None:
    """The current generation, every file of it verified; None if none was ever built.

    Args:
        home: where it is, and whose it must be.
        revision: the collection's revision in the database; called after the manifest was read, so
            that a generation published meanwhile is not taken for one from the future.

    Raises:
        IndexFileError: it is damaged, truncated, foreign, of a newer format, from the database's
            future, or files are missing.
    """
    pointer = read_pointer(home.directory)
    while pointer is not None:
        try:
            return _open(home, pointer, revision)
        except FileNotFoundError as err:
            # Either a build published its successor and removed it meanwhile, or it is broken.
            current = read_pointer(home.directory)
            if current == pointer:
                raise IndexFileError(f"{err.filename}: missing; {REBUILD}") from err
            pointer = current
        except OSError as err:
            raise IndexFileError(
                f"{err.filename or home.directory / pointer.generation}: cannot be read "
                f"({err.strerror}); mend its permissions or disk, or {REBUILD}"
            ) from err
    return None


def current_revision(home: IndexHome) -> int:
    """The revision that the current generation says it holds; 0 if there is none or it is damaged.

    Nothing but its manifest is looked at.
    """
    try:
        pointer = read_pointer(home.directory)
        if pointer is None:
            return 0
        path = home.directory / pointer.generation / MANIFEST
        return read_manifest(path, pointer.manifest_sha256).revision
    except (IndexFileError, OSError):
        return 0


def _open(home: IndexHome, pointer: Pointer, revision: Callable[[], int]) -> Generation:
    folder = home.directory / pointer.generation
    manifest = read_manifest(folder / MANIFEST, pointer.manifest_sha256)
    check(manifest, folder / MANIFEST, home, revision())
    files = {name: verified(folder / name, manifest.files[name]) for name in manifest.files}
    index = _index(files[INDEX], manifest, folder / INDEX)
    adaptation = None
    if ADAPTED in files:
        adaptation = parse(bytes(files[ADAPTED]), manifest.dim, folder / ADAPTED)
    return Generation(
        name=pointer.generation,
        manifest=manifest,
        index=index,
        face_ids=np.frombuffer(files[FACES], "<i8"),
        identity_ids=np.frombuffer(files[IDENTITIES], "<i8"),
        vectors=np.frombuffer(files[VECTORS], "<f2").reshape(manifest.rows, manifest.dim),
        adaptation=adaptation,
    )


def _index(data: mmap.mmap | bytes, manifest: Manifest, path: Path) -> FaissIndex:
    try:
        index = faiss_index.load(data, manifest.spec)
    except IndexFileError as err:
        raise IndexFileError(f"{path}: {err}; {REBUILD}") from err
    if (len(index), index.dim) != (manifest.rows, manifest.dim):
        raise IndexFileError(f"{path}: holds other rows than the manifest says; {REBUILD}")
    return index
