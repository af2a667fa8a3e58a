"""Lists of paths to ingest: on stdin, in a file, or in a column of a manifest."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from facesearch.errors import DiskFullError, ManifestError
from facesearch.ingest.enroll import rows
from facesearch.photos.remote import url_of

_CHUNK = 64 * 1024
_LONGEST = 1024 * 1024
"""Bytes without a separator that are no path."""


def paths_from(source: Path) -> Iterator[str]:
    """The paths of a list, absolute, read as they are needed.

    Args:
        source: "-" for stdin, whose paths are relative to the working directory; a .csv or .jsonl
            file with a column `path`; any other file, a path a line. Those are relative to the
            file. A list that has a NUL in its first 64 KiB is separated by NULs (`find -print0`).

    Raises:
        ManifestError: it cannot be read, or is no such list.
    """
    base = Path.cwd() if source == Path("-") else source.resolve().parent
    if source.suffix.lower() in {".csv", ".jsonl", ".ndjson"}:
        for number, fields in rows(source):
            if not fields.get("path"):
                others = ", ".join(map(repr, fields)) or "nothing"
                raise ManifestError(f"{source}:{number}: no value for 'path', but for {others}")
            path = str(fields["path"])
            yield url_of(path) or os.path.join(base, path)
        return
    try:
        if source == Path("-"):
            yield from _paths(sys.stdin.buffer, base, "stdin")
        else:
            with source.open("rb") as stream:
                yield from _paths(stream, base, os.fspath(source))
    except OSError as err:
        raise ManifestError(f"{source}: cannot be read ({err.strerror})") from err


@dataclass(frozen=True, slots=True)
class Spool:
    """A list in a temporary file, which any process can read from its beginning."""

    name: str

    def __iter__(self) -> Iterator[str]:
        with open(self.name, "rb") as stream:
            yield from _paths(stream, Path("/"), self.name)


@contextmanager
def spooled(paths: Iterable[str]) -> Iterator[Spool]:
    """A list that can be read once, as one that several workers can read, while the block lasts.

    Args:
        paths: absolute ones.

    Raises:
        DiskFullError: the temporary file cannot be written.
    """
    with tempfile.NamedTemporaryFile(prefix="facesearch-list-") as file:
        for path in paths:  # what reading it raises is not about this file
            line = os.fsencode(path) + b"\0"
            try:
                file.write(line)
            except OSError as err:
                raise _full(err) from err
        try:
            file.flush()
        except OSError as err:
            raise _full(err) from err
        yield Spool(file.name)


def _full(err: OSError) -> DiskFullError:
    where = tempfile.gettempdir()
    return DiskFullError(f"{where}: no room for the list ({err.strerror}); use one worker")


def _paths(stream: BinaryIO, base: Path, name: str) -> Iterator[str]:
    rest = b""
    separator = b""
    while chunk := stream.read(_CHUNK):
        separator = separator or (b"\0" if b"\0" in chunk else b"\n")
        *lines, rest = (rest + chunk).split(separator)
        for line in lines:
            yield from _path(line, separator, base)
        if len(rest) > _LONGEST:
            raise ManifestError(f"{name}: not a list of paths, one a line or separated by NUL")
    yield from _path(rest, separator, base)


def _path(line: bytes, separator: bytes, base: Path) -> Iterator[str]:
    path = line.removesuffix(b"\r") if separator == b"\n" else line
    if path:
        name = os.fsdecode(path)
        yield url_of(name) or os.path.join(base, name)
