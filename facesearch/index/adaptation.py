"""Adaptation to a collection: a linear map learned from its own people, applied after centring.

    x'' = x' W / |x' W|

with x' the centred vector (`facesearch.index.centring`) is compared by cosine instead of x'. W
makes directions small in which photos of one person differ. Learning it, and whether it helps, is
the business of `facesearch.identify.adapt`.

`ADAPTED`, beside the generations, is what the next build applies; each generation holds a copy of
what it was built with, under the same name, and is searched with that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from facesearch.errors import IndexFileError
from facesearch.index.disk import exclusive, replace, writing
from facesearch.values import F32

ADAPTED = "adaptation.safetensors"
_MAP = "map"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an adaptation rests on.

    Attributes:
        people: with two or more photos, that it was learned from.
        photos: of theirs.
        shrinkage: of the covariance towards none, 0 to 1.
        before: share of held-out people's probes that are found, without it.
        after: the same with it.
        gain_95: 95 % interval of the difference.
        offset: a threshold T of scores without it is offset + slope T with it.
        slope: see `offset`.
        created: UTC, ISO 8601.
        contract: key of the model contract of the vectors.
    """

    people: int
    photos: int
    shrinkage: float
    before: float
    after: float
    gain_95: tuple[float, float]
    offset: float
    slope: float
    created: str
    contract: str


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """A map of centred vectors, and what it rests on.

    Attributes:
        matrix: (D, D) float32.
        evidence: how it was come by.
    """

    matrix: F32
    evidence: Evidence

    @property
    def key(self) -> str:
        """Names it: equal keys mean comparable scores."""
        return hashlib.sha256(dump(self)).hexdigest()[:12]

    def threshold(self, plain: float) -> float:
        """Where a threshold of scores without the map lies on the scale of those with it."""
        return self.evidence.offset + self.evidence.slope * plain

    def plain(self, score: float) -> float:
        """The inverse of `threshold`."""
        return (score - self.evidence.offset) / self.evidence.slope


def adapted(vectors: F32, adaptation: Adaptation | None) -> F32:
    """(N, D) centred unit vectors mapped, again of unit length; as they are for None."""
    if adaptation is None:
        return vectors
    # without BLAS: a row comes out the same, bit for bit, whatever rows stand beside it
    mapped = np.einsum("nd,de->ne", vectors, adaptation.matrix)
    length = np.linalg.norm(mapped, axis=1, keepdims=True)
    return np.asarray(mapped / np.maximum(length, np.finfo(np.float32).tiny), np.float32)


def dump(adaptation: Adaptation) -> bytes:
    """The bytes of its file."""
    matrix = np.ascontiguousarray(adaptation.matrix, np.float32)
    return save({_MAP: matrix}, {"evidence": json.dumps(asdict(adaptation.evidence))})


def parse(data: bytes, dim: int | None, where: Path) -> Adaptation:
    """What `dump` gave; of `dim` dimensions, unless that is None.

    Raises:
        IndexFileError: it is something else, or of another dimension.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        told = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["evidence"])
        told["gain_95"] = tuple(told["gain_95"])
        matrix = load(data)[_MAP]
        found = Adaptation(matrix, Evidence(**told))
    except (SafetensorError, ValueError, KeyError, TypeError) as err:
        raise IndexFileError(f"{where}: malformed; run `facesearch index adapt` again") from err
    return found if dim is None else _fitting(found, dim, where)


def _fitting(found: Adaptation, dim: int, where: Path) -> Adaptation:
    if found.matrix.shape != (dim, dim) or not np.isfinite(found.matrix).all():
        raise IndexFileError(f"{where}: not a map of {dim} dimensions; adapt again")
    return found


def write_adaptation(directory: Path, adaptation: Adaptation) -> None:
    """Keep an adaptation for the next build.

    Raises:
        LibraryError, DiskFullError: it cannot be written, or the index is being built.
    """
    with writing(directory), exclusive(directory):
        replace(directory / ADAPTED, dump(adaptation))


def read_adaptation(directory: Path, contract: str, dim: int) -> Adaptation | None:
    """What the next build of vectors of a contract applies; None for nothing.

    Raises:
        IndexFileError: the file is damaged.
    """
    path = directory / ADAPTED
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise IndexFileError(f"{path}: cannot be read ({err.strerror})") from err
    found = parse(data, None, path)
    return _fitting(found, dim, path) if found.evidence.contract == contract else None


def forget_adaptation(directory: Path) -> None:
    """Apply nothing in the next build."""
    (directory / ADAPTED).unlink(missing_ok=True)
