"""Finding photos under folders: streaming, in a fixed order, nothing dropped in silence.

A walk holds the names of the folders it stands in and one (device, inode) pair a folder visited,
never a list of files, so an archive of 10^8 photos needs no more memory than its largest folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from facesearch.errors import Reason, UsageError
from facesearch.photos.read import os_detail, os_reason
from facesearch.values import Failure

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
SUFFIXES = frozenset((*_JPEG, ".png", ".apng", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"))
"""What a file in a folder must end in, in lower case, to be taken for a photo."""

HIDDEN = "(hidden)"
NO_SUFFIX = "(no suffix)"
SPECIAL = "(special file)"
SEEN = "(folder seen before)"


@dataclass(frozen=True, slots=True)
class Found:
    """A file to be read as a photo."""

    path: Path


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something in a folder that is passed over.

    Attributes:
        path: the file or folder.
        suffix: its suffix in lower case, or what else it is, in brackets: `HIDDEN` (the name starts
            with a dot; a hidden folder counts as one), `NO_SUFFIX`, `SPECIAL` (a pipe, socket or
            device), `SEEN` (a folder reached a second time, through a link or another source).
    """

    path: Path
    suffix: str


def find(sources: Iterable[Path]) -> Iterator[Found | Ignored | Failure]:
    """Every photo under `sources`: folders are walked recursively, files are taken as they are.

    Names are visited in code point order, depth first, so the order is the same at every run.
    Links are followed, and each folder is visited once, however often it is reached. A file
    that is named as a source is yielded whatever it is called.

    Args:
        sources: files and folders; held in memory, unlike what is found in them.

    Yields:
        `Found` for a photo; `Ignored` for everything else in a folder; `Failure` (reason MISSING
        or UNREADABLE) for a folder that cannot be listed or a link that leads nowhere, after which
        the walk goes on.

    Raises:
        UsageError: a source does not exist. Raised by the call, before anything is yielded.
    """
    roots = [Path(source) for source in sources]
    for root in roots:
        try:
            root.stat()
        except (FileNotFoundError, NotADirectoryError, ValueError) as err:
            raise UsageError(f"{root}: no such file or folder; check the path") from err
        except OSError:
            continue  # it is there, but may not be looked at: recorded when the walk gets to it
    return _walk(roots)


def _walk(roots: list[Path]) -> Iterator[Found | Ignored | Failure]:
    seen: set[tuple[int, int]] = set()
    for root in roots:
        if os.path.isdir(root):
            yield from _walk_folder(root, seen)
        else:
            yield Found(root)


def _walk_folder(root: Path, seen: set[tuple[int, int]]) -> Iterator[Found | Ignored | Failure]:
    pending: list[Path | os.DirEntry[str]] = [root]
    while pending:
        here = pending.pop()
        path = Path(here)
        try:
            if here is not root and path.name.startswith("."):
                yield Ignored(path, HIDDEN)
            elif here.is_dir():
                status = path.stat()
                identity = status.st_dev, status.st_ino
                if identity in seen:
                    yield Ignored(path, SEEN)
                else:
                    seen.add(identity)
                    with os.scandir(path) as entries:
                        pending += sorted(entries, key=lambda entry: entry.name, reverse=True)
            elif (suffix := path.suffix.lower()) not in SUFFIXES:
                yield Ignored(path, suffix or NO_SUFFIX)
            elif here.is_file():
                yield Found(path)
            elif os.path.exists(path):
                yield Ignored(path, SPECIAL)
            else:
                yield Failure(os.fspath(path), Reason.MISSING, "vanished, or a link to nothing")
        except OSError as err:
            yield Failure(os.fspath(path), os_reason(err), os_detail(err))
