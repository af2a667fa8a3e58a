"""Where a photo is: a file, a member of an archive, a frame of a video, a URL.

That is `/b.jpg`, `/a.zip!/b.jpg`, `/a.mp4#t=1.500` or `https://host/b.jpg`. It is opened by this
path alone, which is what the ledger stores, and what `identify`, `search` and enrolment take. A
file that is really called so wins.
"""

from __future__ import annotations

import os

from facesearch.errors import PhotoError
from facesearch.photos import archive, remote, video
from facesearch.photos.read import os_detail, os_reason, read_bytes
from facesearch.settings import PhotoLimits


def read_place(path: str | os.PathLike[str], limits: PhotoLimits) -> bytes:
    """The bytes of a photo.

    Raises:
        PhotoError: as `read_bytes`, and as the table in `photos.archive` says.
    """
    name = os.fspath(path)
    if not os.path.lexists(name):
        if url := remote.url_of(name):
            return remote.read(url, limits)
        if inside := archive.split(name):
            return archive.opened(inside[0]).read(inside[1], limits)
        if frame := video.split(name):
            return video.frame(*frame, limits)
    return read_bytes(name, limits)


def stamp(path: str) -> tuple[int, int]:
    """(bytes, modification time in ns) of a photo.

    Of a member, its size and its archive's time; of a frame, its video's.

    Raises:
        PhotoError: MISSING or UNREADABLE; or the archive cannot be listed.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as err:
        if url := remote.url_of(path):
            return remote.stamp(url)
        if inside := archive.split(path):
            size = archive.opened(inside[0]).sizes.get(inside[1])
            if size is not None:
                return size, stamp(inside[0])[1]
        if frame := video.split(path):
            return stamp(frame[0])
        raise PhotoError(os_reason(err), path, os_detail(err)) from err
    return status.st_size, status.st_mtime_ns
