"""Photos in zip and tar archives, read where they are: nothing is unpacked to disk.

A member is named like a file in a folder whose name ends in "!": `/album/2019.zip!/rome/forum.jpg`.
An archive is listed once and kept open; a handful are, so that the members of one are read in turn
without listing it again. Reading is safe from several threads.

Names are taken as relative to the archive: "./a//b.jpg" is "a/b.jpg", and where a name occurs twice
the later one stands, as it would after unpacking. What becomes of the rest:

| member | outcome |
|---|---|
| name that is absolute or has ".." in it | CORRUPT |
| archive within the archive | UNSUPPORTED: not opened |
| encrypted; compressed otherwise than by deflate or bzip2 (zip); sparse (tar) | UNSUPPORTED |
| larger than `photos.max_bytes` | TOO_MANY_BYTES, before it is unpacked |
| its data end early | TRUNCATED |
| wrong checksum, undecodable | CORRUPT |
| hidden, not called a photo, a link, a device | passed over, as in a folder |

and of archives: one that is no archive is CORRUPT, one cut off is TRUNCATED (of a tar, the members
before the cut are read), one that unpacks to more than `tar.MOST_RATIO` times its size is
TOO_MANY_BYTES.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

from facesearch.errors import PhotoError, Reason
from facesearch.photos.read import os_detail, os_reason, require_regular
from facesearch.photos.tar import TarArchive
from facesearch.photos.zip import ZipArchive
from facesearch.settings import PhotoLimits

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""What the name of a file ends in, in lower case, that is taken for an archive."""
SEPARATOR = "!/"
"""Between the path of an archive and the name of a member."""
KEPT_OPEN = 4
"""Archives kept open, the last ones used."""


class Archive(Protocol):
    """An archive, listed."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each member that is a file, by name, in the order of the archive."""

    @property
    def failures(self) -> Sequence[PhotoError]:
        """What is in it and cannot be read, or why its listing ends early."""

    def read(self, name: str, limits: PhotoLimits) -> bytes:
        """The bytes of a member.

        Raises:
            PhotoError: it cannot be read.
        """


def is_archive(name: str) -> bool:
    """Whether a file of that name is taken for an archive."""
    return name.lower().endswith(SUFFIXES)


def split(path: str) -> tuple[str, str] | None:
    """Archive and member of a path such as `/a.zip!/b/c.jpg`; None if it is none."""
    start = 0
    while (at := path.find(SEPARATOR, start)) >= 0:
        if is_archive(path[:at]) and os.path.isfile(path[:at]):
            return path[:at], path[at + len(SEPARATOR) :]
        start = at + 1
    return None


_open: OrderedDict[tuple[str, int, int, int], Archive] = OrderedDict()
_opening = threading.Lock()


def opened(path: str) -> Archive:
    """The archive at `path`, listed; the same one again while the file does not change.

    Raises:
        PhotoError: it cannot be opened, or is no archive.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as err:
        raise PhotoError(os_reason(err), path, os_detail(err)) from err
    require_regular(status, path)
    if not status.st_size:
        raise PhotoError(Reason.EMPTY, path, "empty file (zero bytes)")
    key = path, status.st_ino, status.st_size, status.st_mtime_ns
    with _opening:
        archive = _open.get(key)
        if archive is None:
            archive = _list(path)
            _open[key] = archive
            while len(_open) > KEPT_OPEN:
                _open.popitem(last=False)  # closed once nobody reads from it
        _open.move_to_end(key)
    return archive


def _list(path: str) -> Archive:
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        return ZipArchive(path) if start.startswith(b"PK") else TarArchive(path)
    except OSError as err:
        raise PhotoError(os_reason(err), path, os_detail(err)) from err
