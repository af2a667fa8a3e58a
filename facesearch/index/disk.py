"""Files that survive a crash: durable writes, the build lock, operating-system errors translated.

Nothing here knows what an index is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from facesearch.errors import DiskFullError, IndexFileError, LibraryError

REBUILD = "run `facesearch index build` to make it anew from the database"
"""How every error about a derived file ends."""

LOCK_NAME = "LOCK"
TUNE_LOCK = "TUNE-LOCK"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Checksum:
    """What a file must be: its size in bytes and the lower-case hex SHA-256 of its content."""

    size: int
    sha256: str


class NewFile:
    """A file being written: counts and hashes what passes. Made by `creating`."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb")  # noqa: SIM115 - `creating` closes it
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Append all of `data`, returning its length in bytes."""
        self._file.write(data)
        self._hash.update(data)
        self._size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def checksum(self) -> Checksum:
        """Of everything written so far."""
        return Checksum(self._size, self._hash.hexdigest())

    def close(self, *, durable: bool) -> None:
        """Close, after forcing the content to the disk if `durable`."""
        with self._file:
            if durable:
                self._file.flush()
                os.fsync(self._file.fileno())


@contextmanager
def creating(path: Path) -> Iterator[NewFile]:
    """A new file that is on the disk when the block ends without an exception.

    Raises:
        OSError: the file exists, or cannot be written.
    """
    file = NewFile(path)
    try:
        yield file
    except BaseException:
        with suppress(OSError):
            file.close(durable=False)
        raise
    file.close(durable=True)


def replace(path: Path, content: bytes) -> None:
    """Put `content` in place of what `path` holds: a reader sees the old or the new, never a mix.

    Raises:
        OSError: it cannot be written; the old content stays.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with creating(fresh) as file:
        file.write(content)
    os.replace(fresh, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory as far as possible; what stays is removed by the next build."""
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def exclusive(directory: Path, *, wait: bool = False, tuning: bool = False) -> Iterator[None]:
    """Hold the lock of a directory, which is made if need be; the kernel frees it if we die.

    Args:
        directory: which is locked.
        wait: until whoever holds it is done.
        tuning: the lock of those who measure, not of those who build.

    Raises:
        LibraryError: another process, or another thread of this one, holds it.
        OSError: the directory or the lock file cannot be made.
    """
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        sync_directory(directory.parent)
    name, doing = (TUNE_LOCK, "tuning") if tuning else (LOCK_NAME, "building")
    descriptor = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as err:
            raise LibraryError(
                f"{directory}: another process is {doing} this index; try again when it is done"
            ) from err
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Translate the operating system's refusals to write an index.

    Raises:
        DiskFullError: no space, or a quota or file size limit was reached.
        LibraryError: not writable, or any other refusal.
    """
    try:
        yield
    except OSError as err:
        why = err.strerror or str(err)
        if err.errno in _FULL:
            raise DiskFullError(
                f"{directory}: no room to write the index ({why}); free some space and run "
                "`facesearch index build` again: the index in use is untouched"
            ) from err
        raise LibraryError(
            f"{directory}: the index cannot be written ({why}); check the folder's permissions "
            "and that its disk is mounted for writing"
        ) from err


def verified(path: Path, expected: Checksum) -> mmap.mmap | bytes:
    """A read-only memory map of a file whose content is what was promised.

    Size and SHA-256 are taken through the descriptor that is then mapped, so the bytes used are
    the bytes checked even if the name is given to another file meanwhile. An empty file cannot be
    mapped and comes as `b""`.

    Raises:
        IndexFileError: another size or another content.
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size != expected.size:
            raise IndexFileError(
                f"{path}: {size} bytes where the manifest says {expected.size} "
                f"(truncated, or of another generation); {REBUILD}"
            )
        if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
            raise IndexFileError(
                f"{path}: its checksum is not the manifest's "
                f"(damaged, or of another generation); {REBUILD}"
            )
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if size else b""
