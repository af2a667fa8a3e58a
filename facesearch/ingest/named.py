"""People that were named in the photos themselves, by another program, as entries to enrol."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from facesearch.errors import PhotoError, Reason
from facesearch.ingest.enroll import Entry, FaceChoice
from facesearch.photos.find import Found, Ignored, find
from facesearch.photos.metadata import MOST_XMP
from facesearch.photos.place import read_place
from facesearch.photos.regions import SIDECARS, named_faces
from facesearch.photos.remote import absolute, url_of
from facesearch.photos.video import is_video
from facesearch.settings import PhotoLimits
from facesearch.store.gallery import Person
from facesearch.values import Failure


def from_photos(
    sources: Iterable[Path],
    limits: PhotoLimits,
    ignored: dict[str, int],
    failures: list[Failure],
) -> Iterator[Entry]:
    """An entry for every face that the metadata of photos name, in them or in files beside them.

    Videos name nobody, and beside URLs nothing is looked for.

    Args:
        sources: as for `find`.
        limits: what a photo may cost.
        ignored: counts of files passed over, by suffix, are added to it.
        failures: what could not be read is added to it.

    Raises:
        UsageError: a source does not exist. Raised when the first entry is asked for.
    """
    for found in find(sources):
        if isinstance(found, Ignored):
            ignored[found.suffix] = ignored.get(found.suffix, 0) + 1
        elif isinstance(found, Found):
            path = absolute(found.path)
            if is_video(path):
                continue
            try:
                data = read_place(path, limits)
                regions = named_faces(data, path, limits, _sidecars(path, limits))
            except PhotoError as err:
                failures.append(Failure(err.where, err.reason.value, err.detail))
                continue
            for region in regions:
                yield Entry(path, Person(region.name), FaceChoice(region=region.box))
        else:
            failures.append(found)


def _sidecars(path: str, limits: PhotoLimits) -> dict[str, bytes]:
    """The XMP packets that lie beside a photo, by path: `a.jpg.xmp`, `a.xmp`.

    Raises:
        PhotoError: one cannot be read.
    """
    found: dict[str, bytes] = {}
    if url_of(path):
        return found
    for begin in (path, os.path.splitext(path)[0]):
        for suffix in SIDECARS:
            try:
                found[begin + suffix] = read_place(
                    begin + suffix, replace(limits, max_bytes=MOST_XMP)
                )
            except PhotoError as err:
                if err.reason is not Reason.MISSING:
                    raise
    return found
