"""Zip archives: listed by their directory, members unpacked in memory."""

from __future__ import annotations

import zipfile

from facesearch.errors import PhotoError, Reason
from facesearch.photos.member import Listing, too_many_bytes
from facesearch.settings import PhotoLimits

_METHODS = frozenset((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
_ENCRYPTED = 0x1
"""Bit of the general purpose flags (APPNOTE.TXT 4.4.4)."""


class ZipArchive(Listing):
    """A zip archive, open.

    Args:
        path: the file.

    Raises:
        PhotoError: it is no zip archive, or its directory is damaged.
        OSError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError:
            raise
        except Exception as err:  # whatever hostile bytes provoke in zipfile
            raise PhotoError(
                Reason.TRUNCATED if "not a zip file" in str(err) else Reason.CORRUPT,
                path,
                f"its directory, which ends a zip archive, is missing or damaged ({err})",
            ) from err
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if not info.is_dir() and (name := self.add(info.filename, info.file_size)):
                self._infos[name] = info

    def read(self, name: str, limits: PhotoLimits) -> bytes:
        """The bytes of a member, its checksum verified.

        Raises:
            PhotoError: as the table in `photos.archive` says.
        """
        where = self.where(name)
        info = self._infos.get(name)
        if info is None:
            raise PhotoError(Reason.MISSING, where, "no such member in the archive")
        if info.flag_bits & _ENCRYPTED:
            raise PhotoError(
                Reason.UNSUPPORTED, where, "encrypted; unpack the archive with its password"
            )
        if info.compress_type not in _METHODS:
            detail = f"compressed by zip's method {info.compress_type}, not supported; unpack it"
            raise PhotoError(Reason.UNSUPPORTED, where, detail)
        if info.file_size > limits.max_bytes:
            raise too_many_bytes(where, info.file_size, limits)
        if not info.file_size:
            raise PhotoError(Reason.EMPTY, where, "empty file (zero bytes)")
        try:
            with self._zip.open(info) as member:
                data = member.read(info.file_size)
        except EOFError as err:
            raise PhotoError(Reason.TRUNCATED, where, "the archive ends before it does") from err
        except Exception as err:  # whatever hostile bytes provoke in zipfile and its decompressors
            raise PhotoError(
                Reason.CORRUPT, where, f"cannot be unpacked: {type(err).__name__}: {err}"
            ) from err
        if len(data) != info.file_size:
            raise PhotoError(Reason.TRUNCATED, where, "its packed data end early")
        return data
