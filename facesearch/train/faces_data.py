"""Labelled photos to aligned faces to train on, and who is held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import LibraryError, PhotoError, UsageError
from facesearch.faces.align import SIDE
from facesearch.faces.embedder import Embedder
from facesearch.faces.extract import Extraction
from facesearch.identify.calibration import set_aside
from facesearch.identify.labelled import LabelledFaces
from facesearch.identify.learn import Alike
from facesearch.ingest.enroll import Entry, choose
from facesearch.ingest.flow import bounded_map
from facesearch.store.gallery import StoredFaces
from facesearch.values import I64, Crops, Failure

FEWEST_PEOPLE = 10
"""People there must be, at least, to train and to hold some out."""
CROPS, LABELS = "faces.npy", "faces.json"


@dataclass(frozen=True, slots=True)
class LabelledCrops:
    """Aligned faces of known people.

    Attributes:
        crops: (N, 112, 112, 3) uint8, mapped from a file.
        people: (N,) number of the person of each, an index into `names`.
        names: of the people, ascending.
        failures: photos that gave no face.
    """

    crops: Crops
    people: I64
    names: tuple[str, ...]
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to train on and rows to validate on: nobody is in both."""

    train: NDArray[np.intp]
    held_out: NDArray[np.intp]


def collect(
    entries: Sequence[Entry],
    extract: Callable[[str], Extraction],
    folder: Path,
    threads: int,
    progress: Callable[[int], None] = lambda done: None,
) -> LabelledCrops:
    """The chosen face of each labelled photo; kept in `folder`, where a later call finds them.

    Args:
        entries: labelled photos.
        extract: a path to its faces; raises PhotoError.
        folder: of the run; made if it is missing.
        threads: size of the pool.
        progress: called with the number of photos read so far, now and then.

    Raises:
        UsageError: too few people have a usable photo.
        LibraryError: the folder cannot be written.
    """
    key = _key(entries)
    kept = _kept(folder, key)
    if kept is not None:
        return kept
    crops, labels, failures = [], [], []

    def one(entry: Entry) -> tuple[Entry, Extraction | Failure]:
        try:
            return entry, extract(entry.path)
        except PhotoError as err:
            return entry, Failure(entry.path, err.reason.value, err.detail)

    with ThreadPoolExecutor(threads, thread_name_prefix="facesearch-train") as pool:
        for done, (entry, found) in enumerate(bounded_map(pool, one, entries, 4 * threads), 1):
            if isinstance(found, Failure):
                failures.append(found)
            else:
                row = _chosen(entry, found)
                if isinstance(row, str):
                    failures.append(Failure(entry.path, row, "no face of it could be used"))
                else:
                    crops.append(found.crops[row])
                    labels.append(entry.person.external_id or entry.person.name)
            if not done % 100:
                progress(done)
    names, people = np.unique(np.array(labels, dtype=object), return_inverse=True)
    if len(names) < FEWEST_PEOPLE:
        raise UsageError(
            f"{len(names)} people with a usable photo: training needs {FEWEST_PEOPLE}, and "
            "thousands to be worth it"
        )
    told = {
        "key": key,
        "people": people.tolist(),
        "names": names.tolist(),
        "failures": [[f.path, f.reason, f.detail] for f in failures],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / CROPS, np.stack(crops))
        (folder / LABELS).write_text(json.dumps(told), encoding="utf-8")
    except OSError as err:
        raise LibraryError(f"{folder}: cannot be written ({err.strerror})") from err
    again = _kept(folder, key)
    assert again is not None
    return again


def alike(data: LabelledCrops, embedder: Embedder) -> tuple[Alike, ...]:
    """Labels that may be one person under two names, as calibration finds them."""
    vectors = embedder.embed(np.asarray(data.crops)).vectors
    faces = LabelledFaces(vectors, data.people, data.names)
    _, suspects = set_aside(faces.scores())
    return tuple(Alike(data.names[s.probe], data.names[s.gallery], s.score) for s in suspects)


def split(data: LabelledCrops, share: float, seed: int, together: Sequence[Alike] = ()) -> Split:
    """Hold out a share of the people, at random; labels that are alike stay on one side.

    Raises:
        UsageError: the share leaves nobody on one side.
    """
    group = list(range(len(data.names)))
    number = {name: i for i, name in enumerate(data.names)}

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for pair in together:
        group[root(number[pair.first])] = root(number[pair.second])
    groups = np.array([root(i) for i in range(len(group))])
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    held = np.isin(groups, order[: round(share * len(order))])[data.people]
    if held.all() or not held.any():
        raise UsageError(f"holding out {share:g} of {len(order)} people leaves nobody on one side")
    return Split(np.flatnonzero(~held), np.flatnonzero(held))


def batches(
    people: I64, persons: int, faces: int, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """An epoch of batches of P people with K faces each; everybody comes up at least once.

    Args:
        people: (N,) number of the person of each row.
        persons: P.
        faces: K; of a person with fewer, faces come several times, each time changed otherwise.
        rng: where the draw comes from.

    Returns:
        Rows of each batch, as many as make N faces in all.
    """
    labels, starts = np.unique(people, return_index=True)
    order = np.argsort(people, kind="stable")
    first = np.searchsorted(people[order], labels)
    counts = np.diff(np.append(first, len(people)))
    persons = min(persons, len(labels))
    wanted = max(-(-len(people) // (persons * faces)), -(-len(labels) // persons))
    turns: list[int] = []
    while len(turns) < wanted * persons:
        turns += rng.permutation(len(starts)).tolist()
    made = []
    for start in range(0, wanted * persons, persons):
        rows = []
        for who in turns[start : start + persons]:
            own = order[first[who] : first[who] + counts[who]]
            rows.append(rng.choice(own, faces, replace=len(own) < faces))
        made.append(np.concatenate(rows))
    return made


def _chosen(entry: Entry, found: Extraction) -> int | str:
    numbers = np.arange(len(found.detections), dtype=np.int64)
    nobody = np.zeros_like(numbers)
    return choose(StoredFaces(found.size, numbers, nobody, found.detections, numbers), entry.face)


def _key(entries: Sequence[Entry]) -> str:
    """What the photos are: a run on others must not take these crops for its own."""
    digest = hashlib.sha256()
    for entry in entries:
        try:
            stat = Path(entry.path).stat()
            stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            stamp = "?"
        digest.update(f"{entry.path}\0{entry.person}\0{entry.face}\0{stamp}\n".encode())
    return digest.hexdigest()


def _kept(folder: Path, key: str) -> LabelledCrops | None:
    try:
        told = json.loads((folder / LABELS).read_text(encoding="utf-8"))
        if told["key"] != key:
            return None
        crops = np.load(folder / CROPS, mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    assert crops.shape[1:] == (SIDE, SIDE, 3)
    failures = tuple(Failure(*one) for one in told["failures"])
    return LabelledCrops(crops, np.array(told["people"], np.int64), tuple(told["names"]), failures)
