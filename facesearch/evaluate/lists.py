"""Candidate lists: what any one-to-many system answered, and the CSV file they are kept in.

The file has the columns

    probe      name of the probe photo
    identity   who it shows, if they are enrolled; empty if they are not
    candidate  an identity the system offered; empty where it offered none
    score      of that candidate, higher is more alike
    person     optional: who a probe shows who is not enrolled, so that intervals know it
    outcome    optional: no_face or unreadable, where the probe was not searched

and a line for each candidate. Candidates of equal score stay in the order of the file.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import LibraryError, ManifestError
from facesearch.evaluate.metrics import SearchScores
from facesearch.values import I64

F64 = NDArray[np.float64]

COLUMNS = ("probe", "identity", "candidate", "score")
OPTIONAL = ("person", "outcome")


class Outcome(StrEnum):
    """What became of a probe."""

    SEARCHED = "searched"
    NO_FACE = "no_face"
    """No face was found in it, or not the one that was meant."""
    UNREADABLE = "unreadable"
    """The photo could not be read."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe and its answer, as it comes from a search.

    Attributes:
        photo: its name, the path of the file.
        person: who it shows; empty if nobody knows.
        mated: whether that person is meant to be enrolled.
        candidates: (identity, score), best first.
        outcome: whether it was searched.
    """

    photo: str
    person: str
    mated: bool
    candidates: Sequence[tuple[str, float]] = ()
    outcome: Outcome = Outcome.SEARCHED


@dataclass(frozen=True, slots=True)
class Lists:
    """The candidate lists of P probes.

    Attributes:
        gallery: N, number of identities searched.
        photos: P names of probe photos.
        people: (P,) int64 number of the person each probe shows; one of its own where unknown.
            Numbers below `len(names)` are identities.
        labels: P names of the people shown; empty where unknown.
        mated: (P,) bool.
        outcomes: P.
        names: identities that are on a list, or that a mated probe shows.
        candidates: (P, K) int64 into `names`, best first; -1 beyond a list's end.
        scores: (P, K) float64; -inf beyond a list's end.
    """

    gallery: int
    photos: tuple[str, ...]
    people: I64
    labels: tuple[str, ...]
    mated: NDArray[np.bool_]
    outcomes: tuple[Outcome, ...]
    names: tuple[str, ...]
    candidates: I64
    scores: F64

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def ranks(self) -> I64:
        """(P,) rank of each probe's own identity on its list, from 1; 0 where it is not there."""
        own = (self.candidates == self.people[:, None]) & self.mated[:, None]
        return np.where(own.any(axis=1), own.argmax(axis=1) + 1, 0)

    @property
    def own_scores(self) -> F64:
        """(P,) score of each probe's own identity; -inf where it is not on the list."""
        own = (self.candidates == self.people[:, None]) & self.mated[:, None]
        best: F64 = np.where(own, self.scores, -np.inf).max(axis=1)
        return best

    @property
    def best_scores(self) -> F64:
        """(P,) score of the first candidate; -inf where there is none."""
        return self.scores[:, 0]

    def search_scores(self) -> SearchScores:
        """What the metrics of one-to-many search are computed from.

        Raises:
            ValueError: there are no mated, or no non-mated probes.
        """
        undetected = np.array([o is not Outcome.SEARCHED for o in self.outcomes])
        mated, strangers = self.mated, ~self.mated
        return SearchScores(
            gallery=self.gallery,
            mated_ranks=self.ranks[mated],
            mated_scores=self.own_scores[mated],
            nonmated_scores=self.best_scores[strangers],
            mated_undetected=int(undetected[mated].sum()),
            nonmated_undetected=int(undetected[strangers].sum()),
            mated_people=self.people[mated],
            nonmated_people=self.people[strangers],
        )


def of_probes(probes: Sequence[Probe], gallery: int) -> Lists:
    """The lists of these probes.

    Args:
        probes: in any order.
        gallery: number of identities searched.
    """
    shown = {p.person for p in probes if p.mated}
    names = sorted(shown | {name for p in probes for name, _ in p.candidates})
    number = {name: n for n, name in enumerate(names)}
    people = np.empty(len(probes), np.int64)
    strangers: dict[str, int] = {}
    for row, probe in enumerate(probes):
        if probe.mated:
            people[row] = number[probe.person]
        else:  # without a name, a person of its own
            key = probe.person or f"\0{row}"
            people[row] = strangers.setdefault(key, len(names) + len(strangers))
    width = max((len(p.candidates) for p in probes), default=0) or 1
    candidates = np.full((len(probes), width), -1, np.int64)
    scores = np.full((len(probes), width), -np.inf)
    for row, probe in enumerate(probes):
        for column, (name, score) in enumerate(probe.candidates):
            candidates[row, column], scores[row, column] = number[name], score
    return Lists(
        gallery=max(gallery, len(names)),
        photos=tuple(p.photo for p in probes),
        people=people,
        labels=tuple(p.person for p in probes),
        mated=np.array([p.mated for p in probes], bool),
        outcomes=tuple(p.outcome for p in probes),
        names=tuple(names),
        candidates=candidates,
        scores=scores,
    )


def read_scores(path: Path, gallery: int | None = None) -> Lists:
    """The candidate lists of a CSV file, see the head of this module.

    Args:
        path: the file.
        gallery: number of identities searched; None for as many as the file names.

    Raises:
        ManifestError: the file cannot be read, or a line is malformed; the message names it.
    """
    rows: dict[str, list[tuple[str, float]]] = {}
    about: dict[str, tuple[str, bool, Outcome]] = {}
    for where, row in _rows(path):
        photo, identity = row["probe"], row["identity"]
        outcome = _outcome(row.get("outcome", ""), where)
        found = (identity or row.get("person", ""), bool(identity), outcome)
        if about.setdefault(photo, found) != found:
            raise ManifestError(f"{where}: {photo} has another identity or outcome further up")
        offered = rows.setdefault(photo, [])
        if row["candidate"]:
            if any(name == row["candidate"] for name, _ in offered):
                raise ManifestError(f"{where}: {row['candidate']} is on the list of {photo} twice")
            offered.append((row["candidate"], _score(row["score"], where)))
    probes = [
        Probe(photo, person, mated, sorted(rows[photo], key=lambda c: -c[1]), outcome)
        for photo, (person, mated, outcome) in about.items()
    ]
    return of_probes(probes, gallery or 0)


def write_scores(lists: Lists, path: Path) -> None:
    """Write candidate lists as `read_scores` reads them.

    Raises:
        LibraryError: the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*COLUMNS, *OPTIONAL])
            for row, (photo, label, mated, outcome) in enumerate(
                zip(lists.photos, lists.labels, lists.mated.tolist(), lists.outcomes, strict=True)
            ):
                who = (label, "") if mated else ("", label)
                tail = (who[1], "" if outcome is Outcome.SEARCHED else outcome.value)
                listed = lists.candidates[row] >= 0
                for number, score in zip(
                    lists.candidates[row][listed].tolist(),
                    lists.scores[row][listed].tolist(),
                    strict=True,
                ):
                    writer.writerow([photo, who[0], lists.names[number], repr(score), *tail])
                if not listed.any():
                    writer.writerow([photo, who[0], "", "", *tail])
    except OSError as err:
        raise LibraryError(f"{path}: cannot be written ({err.strerror})") from err


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """("file:line", fields) of each row."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = tuple(reader.fieldnames or ())
            missing = [c for c in COLUMNS if c not in columns]
            if missing or set(columns) - {*COLUMNS, *OPTIONAL}:
                raise ManifestError(
                    f"{path}:1: header is {','.join(columns)!r}; it needs {','.join(COLUMNS)} "
                    f"and may have {','.join(OPTIONAL)}"
                )
            count = 0
            for count, row in enumerate(reader, start=1):  # noqa: B007
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise ManifestError(f"{where}: expected {len(columns)} fields")
                if not row["probe"]:
                    raise ManifestError(f"{where}: no value for 'probe'")
                yield where, row
            if not count:
                raise ManifestError(f"{path}: no rows below the header")
    except csv.Error as err:
        raise ManifestError(f"{path}: not CSV ({err})") from err
    except OSError as err:
        raise ManifestError(f"{path}: cannot be read ({err.strerror})") from err


def _score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ManifestError(f"{where}: score is {text!r}, not a finite number")
    return value


def _outcome(text: str, where: str) -> Outcome:
    try:
        return Outcome(text or Outcome.SEARCHED)
    except ValueError as err:
        known = ", ".join(o.value for o in Outcome)
        raise ManifestError(f"{where}: outcome is {text!r}, not one of {known}") from err
