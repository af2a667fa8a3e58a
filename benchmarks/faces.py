"""Labelled faces for benchmarks: the principal face of every photo of a folder, embedded.

Decoded, detected, aligned and embedded by the engine's own stages, plain and averaged with the
mirror image; `compared` are the vectors as an index of all of them would compare them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facesearch.faces.embed import load_embedder
from facesearch.faces.embedder import Embedder
from facesearch.faces.extract import Extraction, Extractor, principal
from facesearch.faces.mirror import MirroredEmbedder
from facesearch.index.centring import centred
from facesearch.settings import DetectSpec, EmbedSpec, PhotoLimits
from facesearch.values import F32, I64, Crops

Rows = NDArray[np.intp]

LEVERS = {
    "none": ("plain", False),
    "mirror": ("mirrored", False),
    "centre": ("plain", True),
    "default": ("mirrored", True),
    "unmoved": ("unmoved", False),
    "unmoved, centred": ("unmoved", True),
}
"""What is done to embeddings: which of `Embedded`, and whether they are centred."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The principal face of each photo in which one was found.

    Attributes:
        photos: paths below the folder, ascending.
        plain: (N, D) float32 unit vectors.
        mirrored: likewise, averaged with the mirror image's, as by default.
        unmoved: likewise, neither of the two moved.
        norms: (N,) float32, lengths of the embeddings, as the default embedder gives them.
    """

    photos: tuple[str, ...]
    plain: F32
    mirrored: F32
    unmoved: F32
    norms: F32

    def of(self, kind: str) -> F32:
        """The vectors of a kind: "plain", "mirrored" or "unmoved"."""
        return {"plain": self.plain, "mirrored": self.mirrored, "unmoved": self.unmoved}[kind]


def arguments(doc: str | None, data: Path, what: str) -> argparse.ArgumentParser:
    """What benchmarks on labelled faces take: where the photos are, and a cache of their faces.

    Args:
        doc: the module's docstring.
        data: where the photos are unless given.
        what: that is.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("data", type=Path, nargs="?", default=data, help=what)
    parser.add_argument("--faces", type=Path, help="cache of LFW's embedded faces, .npz")
    return parser


def embedded(folder: Path, cache: Path | None = None) -> Embedded:
    """The faces of all .jpg below `folder`.

    Args:
        folder: of photos.
        cache: an .npz to read them from, or, where it does not exist, to write them to.
    """
    if cache is not None and cache.exists():
        with np.load(cache) as kept:
            photos = tuple(str(name) for name in kept["names"])
            return Embedded(photos, kept["plain"], kept["mirrored"], kept["unmoved"], kept["norms"])
    extractor = Extractor(DetectSpec(), PhotoLimits())
    embedder: Embedder = load_embedder(EmbedSpec(), Path("no-models"))
    both, still = MirroredEmbedder(embedder), MirroredEmbedder(embedder, shift=0)

    def extract(path: Path) -> Extraction:
        return extractor(path.read_bytes(), path.relative_to(folder).as_posix())

    names: list[str] = []
    crops: list[Crops] = []
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(extract, sorted(folder.rglob("*.jpg"))):
            if len(found.detections):
                face = principal(found.detections, found.size)
                names.append(found.name)
                crops.append(found.crops[face])
    together = np.stack(crops)
    default = both.embed(together)
    result = Embedded(
        tuple(names),
        embedder.embed(together).vectors,
        default.vectors,
        still.embed(together).vectors,
        default.quality,
    )
    if cache is not None:
        np.savez(
            cache,
            names=np.array(names),
            plain=result.plain,
            mirrored=result.mirrored,
            unmoved=result.unmoved,
            norms=result.norms,
        )
    return result


@dataclass(frozen=True)
class Faces:
    """One face a photo.

    Attributes:
        photos: paths below the folder.
        vectors: (N, D) unit norm, as they are compared.
        people: (N,) number of the person, an index into `names`.
        names: of the people.
    """

    photos: tuple[str, ...]
    vectors: F32
    people: I64
    names: tuple[str, ...]

    @classmethod
    def of(cls, source: Embedded, levers: str = "default", mean: F32 | None = None) -> Faces:
        """The faces with the levers of that name; a person is a folder, or PERSON_12.jpg.

        Args:
            source: faces as embedded.
            levers: a key of `LEVERS`.
            mean: (D,) taken out when centring; None for that of these people.
        """
        kind, centre = LEVERS[levers]
        vectors = source.of(kind)
        labels = np.array([re.sub(r"(/.*|_\d+\.jpg)$", "", photo) for photo in source.photos])
        names, people = np.unique(labels, return_inverse=True)
        if centre:
            vectors = centred(vectors, mean_of(vectors, people) if mean is None else mean)
        return cls(source.photos, vectors, people.astype(np.int64), tuple(names.tolist()))

    @cached_property
    def row(self) -> dict[str, int]:
        """Row of each photo."""
        return {photo: row for row, photo in enumerate(self.photos)}

    def rows(self, photos: Sequence[str]) -> Rows:
        """Rows of the photos in which a face was found."""
        return np.array([self.row[photo] for photo in photos if photo in self.row], np.intp)

    def one_each(self) -> Rows:
        """Row of the first photo of each person."""
        return np.unique(self.people, return_index=True)[1]


def mean_of(vectors: F32, people: NDArray[np.integer]) -> F32:
    """(D,) float32 mean over people, each the mean of their faces."""
    _, whose, counts = np.unique(people, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(sums, whose, vectors.astype(np.float64))
    return np.asarray((sums / counts[:, None]).mean(axis=0), np.float32)
