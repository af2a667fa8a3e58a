"""People that were named in the photos themselves, by another program, as entries to enrol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from facesearch.errors import PhotoError
from facesearch.ingest.enroll import Entry, FaceChoice
from facesearch.photos.find import Found, Ignored, find
from facesearch.photos.place import read_place
from facesearch.photos.regions import named_faces
from facesearch.photos.remote import absolute
from facesearch.settings import PhotoLimits
from facesearch.store.gallery import Person
from facesearch.values import Failure


def from_photos(
    sources: Iterable[Path],
    limits: PhotoLimits,
    ignored: dict[str, int],
    failures: list[Failure],
) -> Iterator[Entry]:
    """An entry for every face that the metadata of photos name.

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
            try:
                regions = named_faces(read_place(path, limits), path, limits)
            except PhotoError as err:
                failures.append(Failure(path, err.reason.value, err.detail))
                continue
            for region in regions:
                yield Entry(path, Person(region.name), FaceChoice(region=region.box))
        else:
            failures.append(found)
