"""One photo: its aligned faces, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from facesearch.errors import FacesearchError, PhotoError, Reason
from facesearch.faces.extract import Extraction
from facesearch.store.outcomes import Duplicate, Failed, FileStamp

Read = tuple[FileStamp, Extraction] | Duplicate | Failed
"""What reading a photo comes to."""


class Extract(Protocol):
    """Reads one photo: file to aligned faces. Called from many threads at once."""

    def __call__(self, path: str, known: Callable[[str], bool]) -> Extraction | str:
        """The photo's faces; or its sha256 alone where `known(sha256)` says it is stored.

        Raises:
            PhotoError: the photo cannot be read.
        """


def read(extract: Extract, file: FileStamp, known: Callable[[str], bool]) -> Read:
    """A photo's faces, or what became of it instead; whatever is wrong with it ends nothing else.

    Args:
        extract: how photos are read.
        file: the photo.
        known: whether the photo with this sha256 is stored.

    Raises:
        FacesearchError: something other than the photo is wrong.
    """
    try:
        extraction = extract(file.path, known)
    except PhotoError as err:
        return Failed(file, err.reason, err.detail)
    except FacesearchError:
        raise
    except Exception as err:  # noqa: BLE001 - one photo must not end the job; recorded
        return Failed(file, Reason.INTERNAL, f"{type(err).__name__}: {err}")
    if isinstance(extraction, str):
        return Duplicate(file, extraction)
    return file, extraction
