"""Where a photo is: a file, or a member of an archive (`/a.zip!/b.jpg`). Opened by its path alone.

This path is what the ledger stores, and what `identify`, `search` and enrolment take. A file that
is really called so wins over a member.
"""

from __future__ import annotations

import os

from facesearch.errors import PhotoError
from facesearch.photos import archive
from facesearch.photos.read import os_detail, os_reason, read_bytes
from facesearch.settings import PhotoLimits


def read_place(path: str | os.PathLike[str], limits: PhotoLimits) -> bytes:
    """The bytes of a photo.

    Raises:
        PhotoError: as `read_bytes`, and as the table in `photos.archive` says.
    """
    name = os.fspath(path)
    if not os.path.lexists(name) and (inside := archive.split(name)):
        return archive.opened(inside[0]).read(inside[1], limits)
    return read_bytes(name, limits)


def stamp(path: str) -> tuple[int, int]:
    """(bytes, modification time in ns) of a photo; of a member, its size and its archive's time.

    Raises:
        PhotoError: MISSING or UNREADABLE; or the archive cannot be listed.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as err:
        if inside := archive.split(path):
            size = archive.opened(inside[0]).sizes.get(inside[1])
            if size is not None:
                return size, os.stat(inside[0]).st_mtime_ns
        raise PhotoError(os_reason(err), path, os_detail(err)) from err
    return status.st_size, status.st_mtime_ns
