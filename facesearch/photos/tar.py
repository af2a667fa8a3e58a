"""Tar archives, plain or compressed: listed in one pass, members read in the order of the archive.

In a compressed one nothing can be reached but by unpacking everything before it. So it is read
onwards: members passed on the way to the one asked for are kept for a while, as another thread is
likely to ask for them next. Reading in the archive's order costs one pass; going back starts anew.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import threading
import weakref
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO, cast

from facesearch.errors import PhotoError, Reason
from facesearch.photos.member import Listing, too_many_bytes
from facesearch.settings import PhotoLimits

KEPT_BYTES = 64 * 1024 * 1024
"""Of members passed over in a compressed archive, how much is kept."""
MOST_RATIO = 200
"""A compressed archive that unpacks to more than this many times its size is a bomb. Photos hardly
shrink at all; even bitmaps of text stay below 100."""
HARMLESS_BYTES = 1024 * 1024 * 1024
"""Up to here no ratio is judged."""
_HEADER_BYTES = 1024 * 1024
"""Longest extended header that is read."""
_STEP = 1024 * 1024
_MAGIC: dict[bytes, Callable[[BinaryIO], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}


class TarArchive(Listing):
    """A tar archive, listed.

    Args:
        path: the file.

    Raises:
        PhotoError: it is no tar archive.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._at: dict[str, int] = {}
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._list()
        self._places = sorted((at, self.sizes[name]) for name, at in self._at.items())
        self._stream = _Onwards(self.path)

    def read(self, name: str, limits: PhotoLimits) -> bytes:
        """The bytes of a member.

        Raises:
            PhotoError: as the table in `photos.archive` says.
        """
        where = self.where(name)
        if name not in self.sizes:
            raise PhotoError(Reason.MISSING, where, "no such member in the archive")
        at, size = self._at[name], self.sizes[name]
        if size > limits.max_bytes:
            raise too_many_bytes(where, size, limits)
        if not size:
            raise PhotoError(Reason.EMPTY, where, "empty file (zero bytes)")
        with self._lock:
            try:
                data = self._unpacked(at, size)
            except Exception as err:  # whatever hostile bytes provoke in the decompressors
                raise _translated(err, where) from err
        if len(data) != size:
            raise PhotoError(Reason.TRUNCATED, where, "the archive ends before it does")
        return data

    def _unpacked(self, at: int, size: int) -> bytes:
        if (kept := self._kept.pop(at, None)) is not None:
            return kept
        if at < self._stream.at:
            self._stream = _Onwards(self.path)
        for start, length in self._places[bisect_left(self._places, (self._stream.at, 0)) :]:
            if start >= at:
                break
            if self._stream.packed and length <= KEPT_BYTES:
                self._stream.seek(start)
                self._kept[start] = self._stream.read(length)
                while sum(map(len, self._kept.values())) > KEPT_BYTES:
                    self._kept.popitem(last=False)
        self._stream.seek(at)
        return self._stream.read(size)

    def _list(self) -> None:
        stream = _Onwards(self.path)
        try:
            with tarfile.open(fileobj=cast(BinaryIO, _Headers(stream)), mode="r:") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would keep all
                    self._add(info)
            # tarfile takes any damage behind the first header for the end
            if len(stream.last) < tarfile.BLOCKSIZE:
                raise EOFError
            if stream.last.strip(b"\0"):
                raise tarfile.ReadError("a damaged header")
        except Exception as err:  # whatever hostile bytes provoke in tarfile and decompressors
            error = _translated(err, self.path)
            if not self.sizes:
                raise error from err
            self.failures.append(error)
        finally:
            stream.close()

    def _add(self, info: tarfile.TarInfo) -> None:
        if not info.isreg():
            return
        if info.issparse():
            detail = "stored as sparse, which is not supported; unpack the archive"
            self.failures.append(PhotoError(Reason.UNSUPPORTED, self.where(info.name), detail))
        elif name := self.add(info.name, info.size):
            self._at[name] = info.offset_data


class _Bomb(Exception):
    """An archive that unpacks to absurdly much."""


class _Onwards:
    """The bytes of a possibly compressed file, read onwards only.

    Attributes:
        at: offset of the next byte.
        last: what the last `read` returned.
        packed: whether it is compressed.
    """

    def __init__(self, path: str) -> None:
        self._raw = open(path, "rb")  # noqa: SIM115 - closed by `close`
        magic = self._raw.read(2)
        self._raw.seek(0)
        self._size = os.fstat(self._raw.fileno()).st_size
        self.packed = magic in _MAGIC
        self._file = cast(BinaryIO, _MAGIC[magic](self._raw) if self.packed else self._raw)
        self.at = 0
        self.last = b""
        self.close = weakref.finalize(self, _close, self._file, self._raw)

    def read(self, length: int) -> bytes:
        parts, wanted = [], length
        while wanted and (part := self._file.read(min(wanted, _STEP))):
            parts.append(part)
            wanted -= len(part)
            self.at += len(part)
            if self.at > max(HARMLESS_BYTES, MOST_RATIO * self._size):
                raise _Bomb
        self.last = b"".join(parts)
        return self.last

    def seek(self, at: int) -> None:
        """Go on to an offset, or as far as there is anything."""
        if at < self.at:
            raise tarfile.ReadError("its headers lead backwards")
        if not self.packed:
            self._file.seek(at)
            self.at = at
        while self.at < at and self.read(min(at - self.at, _STEP)):
            pass


def _close(*files: BinaryIO) -> None:
    for file in files:
        file.close()


class _Headers:
    """What `tarfile` reads headers from: never more at once than a header may have."""

    def __init__(self, stream: _Onwards) -> None:
        self._stream = stream
        self.seek = stream.seek

    def read(self, length: int) -> bytes:
        if length > _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {length:,} bytes")
        return self._stream.read(length)

    def tell(self) -> int:
        return self._stream.at


def _translated(err: Exception, where: str) -> PhotoError:
    if isinstance(err, _Bomb):
        detail = f"unpacks to more than {MOST_RATIO} times its size; not read further"
        return PhotoError(Reason.TOO_MANY_BYTES, where, detail)
    words = str(err) or type(err).__name__
    early = ("end of data", "end-of-stream", "truncated", "empty header")
    if isinstance(err, EOFError) or any(text in words for text in early):
        return PhotoError(Reason.TRUNCATED, where, "the archive ends early; fetch it again")
    return PhotoError(Reason.CORRUPT, where, f"damaged, or no tar archive ({words})")
