"""Lists of paths to ingest: on stdin, in a file, or in a column of a manifest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from facesearch.errors import ManifestError
from facesearch.ingest.enroll import rows

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
                raise ManifestError(f"{source}:{number}: no value for 'path'")
            yield os.path.join(base, str(fields["path"]))
        return
    try:
        if source == Path("-"):
            yield from _paths(sys.stdin.buffer, base, "stdin")
        else:
            with source.open("rb") as stream:
                yield from _paths(stream, base, os.fspath(source))
    except OSError as err:
        raise ManifestError(f"{source}: cannot be read ({err.strerror})") from err


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
        yield os.path.join(base, os.fsdecode(path))
