"""Faces to a generation on disk, published atomically.

Everything is written in a temporary folder beside the generations, forced to the disk, renamed to
its final name, and then made current by replacing one small file. Killed at any instant, the former
generation stays current; what was left behind is removed by the next build.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesearch.index import faiss_index
from facesearch.index.adaptation import ADAPTED, Adaptation, adapted
from facesearch.index.adaptation import dump as dump_adaptation
from facesearch.index.centring import centred, mean_of_people
from facesearch.index.disk import (
    Checksum,
    creating,
    exclusive,
    remove_tree,
    sync_directory,
    writing,
)
from facesearch.index.manifest import (
    FACES,
    IDENTITIES,
    INDEX,
    MANIFEST,
    VECTORS,
    IndexHome,
    Manifest,
    Pointer,
    dump,
    write_pointer,
)
from facesearch.index.spec import IndexSpec
from facesearch.values import F16, F32, FaceRows

_TEMPORARY, _GENERATION = "tmp-", "gen-"


def build(
    home: IndexHome,
    spec: IndexSpec,
    revision: int,
    batches: Iterable[FaceRows],
    progress: Callable[[int], None] = lambda rows: None,
    people: F16 | F32 | None = None,
    adaptation: Adaptation | None = None,
    *,
    wait: bool = False,
) -> Manifest:
    """Build a generation and make it current; searches in any process go on meanwhile.

    Memory: FAISS's index, its training rows, and one batch; vectors are streamed to the disk and
    read back through a memory map.

    Args:
        home: where, and whose index it is.
        spec: the recipe.
        revision: the collection's revision that `batches` were read at.
        batches: every face of the collection, by ascending id, as stored.
        progress: called with the number of rows indexed so far.
        people: (N, D) one face of each enrolled person, as stored, which the mean is taken over.
        adaptation: applied to what is centred, and kept with the generation.
        wait: for another build that is running.

    Returns:
        The manifest of what is now current.

    Raises:
        UsageError: the recipe cannot be built for these faces.
        LibraryError: another build is running, or the directory cannot be written.
        DiskFullError: no space; the former generation stays current.
    """
    mean = mean_of_people(home.prior, people)
    with writing(home.directory), exclusive(home.directory, wait=wait):
        _sweep(home.directory, keep=None)
        name = f"{revision:012d}-{secrets.token_hex(4)}"
        with _temporary(home.directory / f"{_TEMPORARY}{name}") as folder:
            compared = (_compared(batch, mean, adaptation) for batch in batches)
            rows, max_face_id, files = _write_rows(folder, home.dim, compared)
            if adaptation is not None:
                with creating(folder / ADAPTED) as file:
                    file.write(dump_adaptation(adaptation))
                    files[ADAPTED] = file.checksum()
            files[INDEX] = _write_index(folder, (rows, home.dim), spec, progress)
            manifest = Manifest(
                library_id=home.library_id,
                collection_id=home.collection_id,
                contract=home.contract,
                dim=home.dim,
                mean=None if mean is None else tuple(mean.tolist()),
                revision=revision,
                rows=rows,
                max_face_id=max_face_id,
                spec=spec,
                faiss=faiss_index.VERSION,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                files=files,
            )
            with creating(folder / MANIFEST) as file:
                file.write(dump(manifest))
            sync_directory(folder)
            final = folder.rename(home.directory / f"{_GENERATION}{name}")
            sync_directory(home.directory)
        sha256 = hashlib.sha256(dump(manifest)).hexdigest()
        write_pointer(home.directory, Pointer(final.name, sha256))
        _sweep(home.directory, keep=final.name)
    return manifest


def _compared(batch: FaceRows, mean: F32 | None, adaptation: Adaptation | None) -> FaceRows:
    if (mean is None and adaptation is None) or not len(batch):
        return batch
    vectors = adapted(centred(batch.vectors, mean), adaptation)
    return replace(batch, vectors=vectors.astype(np.float16))


def _write_rows(
    folder: Path, dim: int, batches: Iterable[FaceRows]
) -> tuple[int, int, dict[str, Checksum]]:
    """Stream the faces to their three files: number of rows, largest face id, checksums."""
    rows = last = 0
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(creating(folder / name))
            for name in (VECTORS, FACES, IDENTITIES)
        }
        for batch in batches:
            if not len(batch):
                continue
            if batch.vectors.shape[1] != dim:
                raise ValueError(f"vectors of {batch.vectors.shape[1]} dimensions, expected {dim}")
            if batch.face_ids[0] <= last or (np.diff(batch.face_ids) <= 0).any():
                raise ValueError("face ids do not ascend")
            rows, last = rows + len(batch), int(batch.face_ids[-1])
            files[VECTORS].write(_bytes(batch.vectors, "<f2"))
            files[FACES].write(_bytes(batch.face_ids, "<i8"))
            files[IDENTITIES].write(_bytes(batch.identity_ids, "<i8"))
        return rows, last, {name: file.checksum() for name, file in files.items()}


def _write_index(
    folder: Path, shape: tuple[int, int], spec: IndexSpec, progress: Callable[[int], None]
) -> Checksum:
    """Build FAISS's index from the vectors just written, and write it."""
    vectors: F16 = np.zeros(shape, np.float16)
    if shape[0]:
        vectors = np.memmap(folder / VECTORS, "<f2", "r", shape=shape)
    index = faiss_index.build(vectors, spec, progress)
    with creating(folder / INDEX) as file:
        index.save(file)
        return file.checksum()


def _bytes(array: NDArray[np.generic], dtype: str) -> memoryview:
    return np.ascontiguousarray(array, dtype).data.cast("B")


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A new folder, removed if the block fails."""
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        remove_tree(folder)
        raise


def _sweep(directory: Path, keep: str | None) -> None:
    """Remove leftovers of killed builds and, once `keep` is current, all other generations.

    Readers that have an old generation open keep their mapped files (POSIX); one that was about to
    open it finds the new one instead.
    """
    stale = (_TEMPORARY, _GENERATION) if keep else (_TEMPORARY,)
    for path in directory.iterdir():
        if path.name.startswith(stale) and path.name != keep:
            remove_tree(path)
