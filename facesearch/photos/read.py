"""Reading one photo's bytes: regular files only, bounded, never waiting."""

from __future__ import annotations

import os
import stat

from facesearch.errors import PhotoError, Reason
from facesearch.settings import PhotoLimits


def read_bytes(path: str | os.PathLike[str], limits: PhotoLimits) -> bytes:
    """The bytes of a photo file.

    Pipes, sockets and devices are refused without being opened, so that a read never waits for
    somebody to write.

    Args:
        path: the file; symbolic links are followed.
        limits: `max_bytes` is compared with the size of the file as opened.

    Raises:
        PhotoError: MISSING (no such file), UNREADABLE (refused by the operating system, not a
            regular file, or changed while it was read), EMPTY or TOO_MANY_BYTES.
    """
    name = os.fspath(path)
    try:
        require_regular(os.stat(path), name)
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            require_regular(status, name)
            size = status.st_size
            if size > limits.max_bytes:
                raise PhotoError(
                    Reason.TOO_MANY_BYTES,
                    name,
                    f"{size:,} bytes, more than photos.max_bytes ({limits.max_bytes:,})",
                )
            data = file.read(size + 1)
    except (OSError, ValueError) as err:  # ValueError: a null character in the path
        raise PhotoError(os_reason(err), name, os_detail(err)) from err
    if len(data) != size:
        raise PhotoError(
            Reason.UNREADABLE, name, "changed while it was read; try again when it is complete"
        )
    if not data:
        raise PhotoError(Reason.EMPTY, name, "empty file (zero bytes)")
    return data


def require_regular(status: os.stat_result, name: str) -> None:
    """Refuse pipes, sockets, devices and folders.

    Raises:
        PhotoError: UNREADABLE.
    """
    if not stat.S_ISREG(status.st_mode):
        raise PhotoError(Reason.UNREADABLE, name, "not a regular file")


def _open_without_waiting(path: str, flags: int) -> int:
    """Open even if the file was swapped for a pipe since it was looked at."""
    return os.open(path, flags | os.O_NONBLOCK)


def os_reason(err: OSError | ValueError) -> Reason:
    """The reason that an operating system's refusal amounts to."""
    gone = isinstance(err, FileNotFoundError | NotADirectoryError)
    return Reason.MISSING if gone else Reason.UNREADABLE


def os_detail(err: OSError | ValueError) -> str:
    """The operating system's words for a refusal, without the path."""
    words = err.strerror if isinstance(err, OSError) else None
    return f"cannot be read: {words or err}"
