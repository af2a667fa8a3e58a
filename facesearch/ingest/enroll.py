"""Enrolment: photos whose person is known become that identity's faces.

Entries come from folder names, a manifest, or a single photo. Each photo is ingested like any other
and then one of its faces is given to the identity, so that enrolling again changes nothing and a
run that was killed is completed by the next.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import ManifestError, UsageError
from facesearch.faces.boxes import overlap
from facesearch.faces.extract import principal
from facesearch.ingest.plan import Plan
from facesearch.ingest.report import Report
from facesearch.ingest.worker import Worker
from facesearch.photos.find import Ignored, find
from facesearch.photos.video import is_video
from facesearch.store import gallery
from facesearch.store.gallery import Person, StoredFaces
from facesearch.store.paths import as_name
from facesearch.values import Failure, JSONValue

F64 = NDArray[np.float64]

BATCH = 256
"""Entries enrolled in one transaction."""

LEAST_OVERLAP = 0.2
"""Of a region and a face's box. Programs draw regions up to twice as wide as the detector does."""

NO_FACE, NO_SUCH_FACE, CONFLICT, REJECTED = "no_face", "no_such_face", "conflict", "rejected"
"""Reasons why a photo that could be read was not enrolled."""


@dataclass(frozen=True, slots=True)
class FaceChoice:
    """Which face of a photo is meant, when not the principal one.

    Attributes:
        ordinal: its number as `identify` prints it, from 0; or None.
        point: (x, y) in pixels of the upright photo, inside the face's box; or None.
        region: x1 y1 x2 y2 as fractions of the upright photo, that overlaps the face; or None.
    """

    ordinal: int | None = None
    point: tuple[float, float] | None = None
    region: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One photo to enrol."""

    path: str
    person: Person
    face: FaceChoice = FaceChoice()


@dataclass(slots=True)
class EnrolReport:
    """What an enrolment did.

    Attributes:
        entries: photos named.
        enrolled: faces newly given to an identity.
        unchanged: photos whose face was enrolled as that identity already.
        not_enrolled: photos that were read but not enrolled, with the reason.
        ingest: what ingesting the photos did, unreadable ones included.
        face_ids: the faces that are enrolled as asked now.
        doubts: enrolled faces that look wrong, see `facesearch.identify.review`.
    """

    entries: int = 0
    enrolled: int = 0
    unchanged: int = 0
    not_enrolled: list[Failure] = field(default_factory=list)
    ingest: Report = field(default_factory=Report)
    face_ids: list[int] = field(default_factory=list)
    doubts: list[Failure] = field(default_factory=list)

    @property
    def failures(self) -> list[Failure]:
        """Everything that was asked for and is not enrolled."""
        return [*self.ingest.failures, *self.not_enrolled]


def enroll(
    worker: Worker, entries: Iterable[Entry], counted: Report, *, move: bool = False
) -> EnrolReport:
    """Ingest the entries' photos and give the chosen face of each to its identity.

    Args:
        worker: ingests, and holds the collection.
        entries: photos and people; read as they are needed.
        counted: what ingesting the photos did is added to it.
        move: take a face over that is enrolled as somebody else; otherwise that is a conflict,
            reported and left as it is.

    Raises:
        ManifestError: an entry is malformed; what came before it is enrolled.
        StoreError, LibraryError, DiskFullError: as `Worker.run`.
    """
    report = EnrolReport(ingest=counted)
    remaining = iter(entries)
    while chunk := list(islice(remaining, BATCH)):
        report.entries += len(chunk)
        paths = list(dict.fromkeys(entry.path for entry in chunk))
        worker.run(paths, report.ingest, Plan(restore_erased=True))
        _assign(worker, chunk, report, move)
    return report


def _assign(worker: Worker, chunk: Sequence[Entry], report: EnrolReport, move: bool) -> None:
    stored = gallery.faces_of(worker.database, worker.collection, [e.path for e in chunk])
    unreadable = {failure.path for failure in report.ingest.failures}
    chosen: dict[int, Person] = {}
    fresh = []
    for entry in chunk:
        faces = stored.get(entry.path)
        if faces is None:
            if is_video(entry.path):
                detail = "a video; enrol a frame of it (NAME.mp4#t=SECONDS), see 'search'"
                report.not_enrolled.append(Failure(entry.path, "video", detail))
            elif entry.path not in unreadable:  # it failed in an earlier run, and has not changed
                detail = "could not be read in an earlier run; see 'facesearch failures'"
                report.not_enrolled.append(Failure(entry.path, "failed", detail))
            continue
        row = choose(faces, entry.face)
        if isinstance(row, str):
            detail = _WHY[row].format(n=len(faces.face_ids))
            report.not_enrolled.append(Failure(entry.path, row, detail))
            continue
        face_id = int(faces.face_ids[row])
        if not face_id:
            detail = "its face was rejected as too small or too poor; see 'facesearch rejected'"
            report.not_enrolled.append(Failure(entry.path, REJECTED, detail))
            continue
        if chosen.setdefault(face_id, entry.person) != entry.person:
            detail = f"two entries claim this face: {chosen[face_id].name}, {entry.person.name}"
            report.not_enrolled.append(Failure(entry.path, CONFLICT, detail))
        else:
            fresh.append((face_id, entry, int(faces.identity_ids[row])))
    holders = gallery.identities_by_id(
        worker.database, worker.collection, {holder for _, _, holder in fresh if holder}
    )
    accepted = {}
    for face_id, entry, holder_id in fresh:
        holder = holders.get(holder_id)
        if holder is None or move or _same(holder.external_id, holder.name, entry.person):
            accepted[face_id] = entry.person
        else:
            detail = f"its face is enrolled as {holder.name} (#{holder.id}); --move takes it over"
            report.not_enrolled.append(Failure(entry.path, CONFLICT, detail))
    changed = gallery.assign(worker.database, worker.collection, list(accepted.items()))
    report.face_ids += accepted
    report.enrolled += changed
    report.unchanged += len(accepted) - changed


def _same(external_id: str | None, name: str, person: Person) -> bool:
    if person.external_id is not None or external_id is not None:
        return person.external_id == external_id
    return person.name == name


_WHY = {
    NO_FACE: "no face was found in it",
    NO_SUCH_FACE: "the face asked for is not among the {n} found in it",
}


def choose(faces: StoredFaces, wanted: FaceChoice) -> int | str:
    """The row of the face meant, or the reason why there is none."""
    n = len(faces.face_ids)
    if n == 0:
        return NO_FACE
    if wanted.ordinal is not None:
        rows = (faces.ordinals == wanted.ordinal).nonzero()[0]
        return int(rows[0]) if len(rows) else NO_SUCH_FACE
    if wanted.point is not None:
        x, y = wanted.point
        x1, y1, x2, y2 = faces.detections.boxes.T
        hits = ((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).nonzero()[0]
        return int(hits[0]) if len(hits) else NO_SUCH_FACE
    if wanted.region is not None:
        shares = overlaps(faces, wanted.region)
        return int(shares.argmax()) if shares.max() >= LEAST_OVERLAP else NO_SUCH_FACE
    return principal(faces.detections, faces.size)


def read_entries(source: Path, ignored: dict[str, int]) -> Iterable[Entry]:
    """The labelled photos of a folder of folders, or of a manifest, which is checked at once.

    Args:
        source: the folder, or the .csv or .jsonl file.
        ignored: counts of files passed over in folders, by suffix, are added to it.

    Raises:
        UsageError: it is neither.
        ManifestError: the manifest is malformed.
    """
    if source.is_dir():
        return from_folders(source, ignored)
    if source.suffix.lower() in {".csv", ".jsonl", ".ndjson"}:
        return list(from_manifest(source))
    raise UsageError(
        f"{source}: neither a folder of folders NAME/*.jpg nor a .csv or .jsonl list "
        "(one photo is enrolled with --name)"
    )


def overlaps(faces: StoredFaces, region: tuple[float, float, float, float]) -> F64:
    """(N,) intersection over union of each face's box with a region, in fractions of the photo."""
    return overlap(faces.detections.boxes, np.array(region) * (faces.size * 2))


def from_folders(root: Path, ignored: dict[str, int]) -> Iterator[Entry]:
    """Entries from `root/NAME/...photos`: the name of the folder is the name of the person.

    Args:
        root: the folder of folders.
        ignored: counts of files passed over, by suffix, are added to it.

    Raises:
        UsageError: `root` is not a folder, or has no folder in it.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: not a folder of folders, one a person, nor a .csv/.jsonl list")
    folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise UsageError(f"{root}: holds no folders; expected {root}/NAME/*.jpg, one a person")
    for folder in folders:
        for found in find([folder]):
            if isinstance(found, Ignored):
                ignored[found.suffix] = ignored.get(found.suffix, 0) + 1
            else:  # what could not be reached becomes an entry too, and fails as such
                yield Entry(os.path.abspath(found.path), Person(as_name(folder.name)))


def from_manifest(path: Path) -> Iterator[Entry]:
    """Entries from a CSV (with a header) or JSONL file.

    Columns: `path` (absolute, or relative to the manifest), `identity` (the name), and optionally
    `external_id`, `metadata` (a JSON object), `face` (a number as `identify` prints it) and `x`,
    `y` (a point inside the face, in pixels). Other columns are an error, so that a misspelt one is
    not lost in silence.

    Raises:
        ManifestError: the file cannot be read or a line is malformed; the message names the line.
    """
    base = path.resolve().parent
    for number, fields in rows(path):
        yield _entry(fields, base, f"{path}:{number}")


def rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The rows of a CSV (with a header) or JSONL file, each with its line; empty fields left out.

    Raises:
        ManifestError: the file cannot be read or a line is malformed.
    """
    read = _jsonl if path.suffix.lower() in {".jsonl", ".ndjson"} else _csv
    for number, fields in read(path):
        if not all(map(_is_text, fields.values())):
            raise ManifestError(f"{path}:{number}: a character that no text can have")
        yield number, fields


def _is_text(value: object) -> bool:
    """Whether a value can be stored: JSON may hold halves of characters, and both may hold NUL."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


_COLUMNS = {"path", "identity", "external_id", "metadata", "face", "x", "y"}


def _csv(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            for row in reader:
                yield (
                    reader.line_num,
                    {
                        key or "(more fields than the header has)": value
                        for key, value in row.items()
                        if value not in ("", None)
                    },
                )
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise ManifestError(f"{path}: cannot be read as CSV ({err})") from err


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    try:
                        fields = json.loads(line)
                    except (ValueError, RecursionError) as err:
                        raise ManifestError(f"{path}:{number}: not JSON ({err})") from err
                    if not isinstance(fields, dict):
                        raise ManifestError(f"{path}:{number}: not a JSON object")
                    yield number, {k: v for k, v in fields.items() if v is not None}
    except (OSError, UnicodeDecodeError) as err:
        raise ManifestError(f"{path}: cannot be read ({err})") from err


def _entry(fields: dict[str, object], base: Path, where: str) -> Entry:
    unknown = sorted(set(fields) - _COLUMNS)
    if unknown:
        raise ManifestError(
            f"{where}: unknown column '{unknown[0]}'; known are {', '.join(sorted(_COLUMNS))}"
        )
    missing = [key for key in ("path", "identity") if not fields.get(key)]
    if missing:
        raise ManifestError(f"{where}: no value for '{missing[0]}'")
    try:
        person = Person(
            name=str(fields["identity"]),
            external_id=str(fields["external_id"]) if "external_id" in fields else None,
            metadata=parse_metadata(fields.get("metadata", {})),
        )
        point = (float(str(fields["x"])), float(str(fields["y"]))) if "x" in fields else None
        ordinal = int(str(fields["face"])) if "face" in fields else None
    except (KeyError, ValueError) as err:
        raise ManifestError(f"{where}: {err}") from err
    path = os.path.normpath(base / str(fields["path"]))
    return Entry(path, person, FaceChoice(ordinal, point))


def parse_metadata(value: object) -> dict[str, JSONValue]:
    """A JSON object given as a mapping or as text.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as err:
            raise ValueError(f"metadata is not JSON ({err})") from err
    if not isinstance(value, dict):
        raise ValueError("metadata is not a JSON object")
    return value
