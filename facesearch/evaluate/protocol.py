"""Evaluation protocols on disk, in the form of the LFW ones.

An evaluation root holds

    photos/                    one photo a file, any folders below
    protocol/pairs.csv         fold,photo_a,photo_b,same     1:1 pairs; same is 0 or 1
    protocol/gallery.csv       photo,identity                1:N: the photos to enrol
    protocol/mated.csv         photo,identity                probes of people who are enrolled
    protocol/nonmated.csv      photo,identity                probes of people who are not

with UTF-8 text, the header as above, and every photo relative to `photos/`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import ManifestError, UsageError
from facesearch.values import I64

PAIR_COLUMNS = ("fold", "photo_a", "photo_b", "same")
LABEL_COLUMNS = ("photo", "identity")


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs of photos for verification.

    Attributes:
        folds: (P,) int64 number of the fold each pair is in.
        photos_a: P photos, relative to the photo folder.
        photos_b: P photos, relative to the photo folder.
        same: (P,) bool, whether both show the same person.
    """

    folds: I64
    photos_a: tuple[str, ...]
    photos_b: tuple[str, ...]
    same: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.photos_a)


@dataclass(frozen=True, slots=True)
class Labelled:
    """N photos and who is in each.

    Attributes:
        photos: N photos, relative to the photo folder.
        identities: N labels.
    """

    photos: tuple[str, ...]
    identities: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.photos)


@dataclass(frozen=True, slots=True)
class Protocol:
    """Everything an evaluation root asks to be measured.

    Attributes:
        photos: the folder that photos are relative to.
        pairs: verification, in at least two folds.
        gallery: the photos to enrol; one identity may have several.
        mated: probes whose identity is in the gallery.
        nonmated: probes whose identity is not.
    """

    photos: Path
    pairs: Pairs
    gallery: Labelled
    mated: Labelled
    nonmated: Labelled


def read_protocol(root: Path) -> Protocol:
    """Reads and checks the protocol of an evaluation root.

    Args:
        root: folder with `photos/` and `protocol/`.

    Raises:
        UsageError: `root` has no `photos/` or no `protocol/`.
        ManifestError: a protocol file is missing, empty or malformed, names a photo that is not
            there, or contradicts another; says which file and line.
    """
    photos, protocol = root / "photos", root / "protocol"
    for folder in (photos, protocol):
        if not folder.is_dir():
            raise UsageError(
                f"{root}: not an evaluation root, no folder {folder.name}/ in it; "
                "it needs photos/ and protocol/"
            )
    gallery = _labelled(protocol / "gallery.csv", photos)
    enrolled = frozenset(gallery.identities)
    return Protocol(
        photos=photos,
        pairs=_pairs(protocol / "pairs.csv", photos),
        gallery=gallery,
        mated=_labelled(protocol / "mated.csv", photos, enrolled=enrolled),
        nonmated=_labelled(protocol / "nonmated.csv", photos, strangers_to=enrolled),
    )


def enrol_more(protocol: Protocol, photos: int) -> Protocol:
    """The protocol with up to `photos` photos an identity enrolled instead of one.

    To each identity's gallery photos, its mated probes are added in order of name until it has
    `photos`; the rest stay probes, and one always does.

    Raises:
        UsageError: `photos` is below 1.
    """
    if photos < 1:
        raise UsageError(f"{photos} photos an identity: enrol at least one")
    probes: dict[str, list[str]] = {}
    for photo, identity in zip(protocol.mated.photos, protocol.mated.identities, strict=True):
        probes.setdefault(identity, []).append(photo)
    enrolled = Counter(protocol.gallery.identities)
    gallery = list(zip(protocol.gallery.photos, protocol.gallery.identities, strict=True))
    mated = []
    for identity, names in probes.items():
        names.sort()
        more = max(0, min(photos - enrolled[identity], len(names) - 1))
        gallery += [(name, identity) for name in names[:more]]
        mated += [(name, identity) for name in names[more:]]
    return replace(protocol, gallery=_of_rows(gallery), mated=_of_rows(mated))


def _of_rows(rows: Sequence[tuple[str, str]]) -> Labelled:
    return Labelled(tuple(photo for photo, _ in rows), tuple(identity for _, identity in rows))


def _pairs(path: Path, photos: Path) -> Pairs:
    folds: list[int] = []
    same: list[bool] = []
    sides: tuple[list[str], list[str]] = ([], [])
    for where, (fold, photo_a, photo_b, label) in _rows(path, PAIR_COLUMNS):
        if not fold.isdecimal():
            raise ManifestError(f"{where}: fold is {fold!r}, not a whole number")
        if label not in ("0", "1"):
            raise ManifestError(f"{where}: same is {label!r}, neither 0 nor 1")
        folds.append(int(fold))
        same.append(label == "1")
        for side, photo in zip(sides, (photo_a, photo_b), strict=True):
            side.append(_existing(photo, photos, where))
    if len(set(folds)) < 2:
        raise ManifestError(f"{path}: only one fold; a threshold is chosen on the other folds")
    return Pairs(np.array(folds, np.int64), tuple(sides[0]), tuple(sides[1]), np.array(same))


def _labelled(
    path: Path,
    photos: Path,
    *,
    enrolled: frozenset[str] | None = None,
    strangers_to: frozenset[str] = frozenset(),
) -> Labelled:
    names: list[str] = []
    identities: list[str] = []
    for where, (photo, identity) in _rows(path, LABEL_COLUMNS):
        if enrolled is not None and identity not in enrolled:
            raise ManifestError(f"{where}: {identity} is a mated probe but not in gallery.csv")
        if identity in strangers_to:
            raise ManifestError(f"{where}: {identity} is a non-mated probe but in gallery.csv")
        names.append(_existing(photo, photos, where))
        identities.append(identity)
    return Labelled(tuple(names), tuple(identities))


def _existing(photo: str, photos: Path, where: str) -> str:
    relative = PurePosixPath(photo)
    if relative.is_absolute() or ".." in relative.parts:
        raise ManifestError(f"{where}: {photo} is not a path inside {photos}")
    if not (photos / relative).is_file():
        raise ManifestError(f"{where}: no photo {photos / relative}")
    return photo


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """("file, line n", fields) of each row below the header; every field filled."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if tuple(header) != columns:
                raise ManifestError(
                    f"{path}, line 1: header is {','.join(header)!r}, not {','.join(columns)!r}"
                )
            count = 0
            for count, fields in enumerate(reader, start=1):  # noqa: B007
                where = f"{path}, line {reader.line_num}"
                if len(fields) != len(columns) or not all(fields):
                    raise ManifestError(f"{where}: expected {len(columns)} filled fields")
                yield where, fields
            if not count:
                raise ManifestError(f"{path}: no rows below the header")
    except FileNotFoundError as err:
        raise ManifestError(f"{path}: missing; it needs columns {','.join(columns)}") from err
    except UnicodeDecodeError as err:
        raise ManifestError(f"{path}: not UTF-8 text ({err.reason} at byte {err.start})") from err
    except csv.Error as err:
        raise ManifestError(f"{path}, line {reader.line_num}: not CSV ({err})") from err
    except OSError as err:
        raise ManifestError(f"{path}: cannot be read ({err.strerror})") from err
