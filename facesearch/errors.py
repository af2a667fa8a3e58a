"""The error tree.

Every error that facesearch raises on purpose descends from `FacesearchError` and carries one line
that says what went wrong, where, and what to do. Exceptions of libraries are translated in the one
file that imports the library.

    FacesearchError
    ├── UsageError              the caller asked for what cannot be (bad option, bad range)
    ├── PhotoError              one photo cannot be read; carries a `Reason`
    ├── ManifestError           an enrolment manifest is malformed; carries file and line
    ├── DeviceError             the device asked for is not there
    ├── ModelError              weights missing, corrupt, unknown or not what they say they are
    │   └── ContractError       vectors of one model met a collection of another
    │       └── ModelChangedError  the collection went over to another model meanwhile
    ├── LibraryError            the library directory is missing, read-only, locked or full
    │   └── DiskFullError       no space left; nothing committed was lost
    ├── StoreError              the database is missing, corrupt or unreachable
    │   ├── StoreUnreachableError  its server does not answer, or broke off; it may come back
    │   ├── SchemaError         the database's schema is older or newer than this program
    │   └── NotFoundError       a collection, identity, photo or face that does not exist
    ├── IndexFileError          an index generation is corrupt, truncated, foreign or missing
    ├── BackendError            a vector server fails, or holds what it should not
    │   ├── BackendUnreachableError  it does not answer in time; it may come back
    │   └── IncompleteError     it searched fewer faces than were committed
    └── ClusterError            a Ray cluster does not answer, or gave up
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a photo was not processed. Stored in the ledger; stable across releases."""

    MISSING = "missing"
    """The file vanished, or never was there."""
    UNREADABLE = "unreadable"
    """The operating system refused to read it (permission, I/O error, not a regular file)."""
    EMPTY = "empty"
    """Zero bytes."""
    TOO_MANY_BYTES = "too_many_bytes"
    """Larger than the byte limit."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """Width x height beyond the pixel limit, according to the header."""
    NOT_AN_IMAGE = "not_an_image"
    """No supported image format recognises the bytes."""
    UNSUPPORTED = "unsupported"
    """A recognised image in a form that is not supported."""
    TRUNCATED = "truncated"
    """The file ends before the image does."""
    CORRUPT = "corrupt"
    """The decoder found damaged data."""
    TIMEOUT = "timeout"
    """Processing took longer than the limit for one file."""
    CRASHED = "crashed"
    """The process that read it, and it alone, died each time it was tried."""
    INTERNAL = "internal"
    """A defect in facesearch or a library; the message says which. Please report it."""


class FacesearchError(Exception):
    """Base of every error raised on purpose. `str(error)` is one line for the user."""

    exit_code = 1


class UsageError(FacesearchError):
    """The caller asked for something that cannot be done as asked."""

    exit_code = 2


class PhotoError(FacesearchError):
    """One photo cannot be read.

    Args:
        reason: machine-readable cause, stored in the ledger.
        where: path or description of the photo.
        detail: what was found, in words.
    """

    def __init__(self, reason: Reason, where: str, detail: str) -> None:
        super().__init__(f"{where}: {detail}")
        self.reason = reason
        self.where = where
        self.detail = detail


class ManifestError(FacesearchError):
    """An enrolment or evaluation manifest is malformed."""


class DeviceError(FacesearchError):
    """The compute device asked for is not available; never replaced silently by another."""


class ModelError(FacesearchError):
    """Model weights are missing, corrupt, unknown, or not what they claim to be."""


class ContractError(ModelError):
    """Vectors of one model contract met a collection pinned to another."""


class ModelChangedError(ContractError):
    """A collection went over to another model since it was looked up; look it up again."""


class LibraryError(FacesearchError):
    """The library directory is missing, read-only, locked by another process, or unusable."""


class DiskFullError(LibraryError):
    """No space left on the device; what was committed before is intact."""


class StoreError(FacesearchError):
    """The database is missing, corrupt or unreachable."""


class StoreUnreachableError(StoreError):
    """The database's server does not answer, or broke off in mid-work."""


class SchemaError(StoreError):
    """The database's schema is older or newer than this program."""


class NotFoundError(StoreError):
    """A collection, identity, photo or face that does not exist."""


class IndexFileError(FacesearchError):
    """An index generation on disk is corrupt, truncated, foreign or missing."""


class BackendError(FacesearchError):
    """A vector server fails, or what it holds is of another library, model or time."""


class BackendUnreachableError(BackendError):
    """A vector server does not answer in time."""


class IncompleteError(BackendError):
    """A vector server searched fewer faces than it was given: its answer could miss somebody."""


class ClusterError(FacesearchError):
    """A Ray cluster does not answer, or gave up; what its workers recorded stands."""
