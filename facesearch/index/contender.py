"""What the tuner compares: a recipe that can be built for a gallery, and asked.

`Maker` and `Built` are what FAISS does here, in memory, and a vector server for the tuner's sake
(`facesearch.backends.trials`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facesearch.index import faiss_index
from facesearch.index.faiss_index import FaissIndex
from facesearch.index.measure import Answers, Finds
from facesearch.index.segment import Faces, Segment
from facesearch.index.spec import IndexSpec, load_recipe

RERANKS = (16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
"""Rows scored again that are tried where what is compared first is a code."""
EFFORTS = (64, 128, 256, 512, 1024, 2048, 4096)
"""Breadths of the search of a graph that are tried."""
_LIST_SHARES = (64, 32, 16, 8, 4, 2, 1)

_RESIDENT = 12
"""Bytes a face that a process holds besides FAISS's file: its identity, and the rows in order of
identity."""
_IDS = 16
"""Bytes a face on the disk besides the vectors and FAISS's file: ids of face and identity."""


class Built(Protocol):
    """A recipe built for a gallery, asked with any value of its parameter."""

    @property
    def parameter(self) -> str:
        """Name of the search parameter; empty where there is none."""
        ...

    @property
    def values(self) -> Sequence[int]:
        """Values of it to try, cheapest first; (0,) where there is none."""
        ...

    @property
    def fetches(self) -> Sequence[int]:
        """Numbers of rows scored again to try, ascending."""
        ...

    @property
    def build_s(self) -> float:
        """Seconds that it took to build."""
        ...

    @property
    def bytes_ram(self) -> float:
        """Bytes of memory a face."""
        ...

    @property
    def bytes_disk(self) -> float:
        """Bytes on the disk a face."""
        ...

    def finds(self, value: int) -> Finds:
        """The rows that it names with this value."""
        ...

    def answers(self, value: int, rerank: int) -> Answers:
        """The whole of a query, as the engine makes it."""
        ...


class Maker(Protocol):
    """What builds recipes."""

    @property
    def exact(self) -> IndexSpec:
        """The recipe that compares every face."""
        ...

    def suits(self, spec: IndexSpec, rows: int) -> bool:
        """Whether a recipe can be built for so few rows."""
        ...

    def built(self, spec: IndexSpec, faces: Faces) -> AbstractContextManager[Built]:
        """A recipe built for a gallery, while the block lasts."""
        ...


def values(parameter: str, lists: int) -> Sequence[int]:
    """Values of a search parameter to try, cheapest first.

    Args:
        parameter: its name.
        lists: how many there are; 0 for a graph.
    """
    if lists:
        return sorted({max(1, lists // share) for share in _LIST_SHARES})
    return EFFORTS if parameter else (0,)


@dataclass(frozen=True, slots=True)
class _InMemory:
    """`Built` by FAISS."""

    index: FaissIndex
    spec: IndexSpec
    faces: Faces
    build_s: float
    size: float

    @property
    def parameter(self) -> str:
        return self.index.parameter

    @property
    def values(self) -> Sequence[int]:
        return values(self.index.parameter, self.index.lists)

    @property
    def fetches(self) -> Sequence[int]:
        lossless = self.spec.factory in ("Flat", "SQfp16")  # fetching more finds nothing more
        return [self.spec.rerank] if lossless or self.spec.parameter == "efSearch" else RERANKS

    @property
    def bytes_ram(self) -> float:
        return self.size + _RESIDENT

    @property
    def bytes_disk(self) -> float:
        return self.size + 2 * self.index.dim + _IDS

    def finds(self, value: int) -> FaissIndex:
        return self.index.searched_with(value) if value else self.index

    def answers(self, value: int, rerank: int) -> Segment:
        return Segment(self.faces, self.finds(value), rerank)


class InMemory:
    """`Maker` by FAISS."""

    @property
    def exact(self) -> IndexSpec:
        """As `Maker.exact`."""
        return load_recipe("exact")

    def suits(self, spec: IndexSpec, rows: int) -> bool:
        """As `Maker.suits`."""
        return rows >= faiss_index.SMALL or not spec.train_rows

    @contextmanager
    def built(self, spec: IndexSpec, faces: Faces) -> Iterator[Built]:
        """As `Maker.built`."""
        before = time.perf_counter()
        index = faiss_index.build(np.asarray(faces.vectors, np.float16), spec)
        spent = time.perf_counter() - before
        yield _InMemory(index, spec, faces, spent, faiss_index.size(index) / len(faces))
