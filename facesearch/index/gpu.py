"""Exact search on a GPU, where FAISS was built for one and the vectors fit.

A GPU compares a query with every vector in less time than a processor needs for their codes, and
loses nobody; so it takes the place of any recipe, which goes on answering what is asked under a
filter, and everything if the GPU fails. The copy is made once so much was asked that it pays: a
command that asks for one face is done sooner without.

FAISS for GPUs is another package than the one that is installed with facesearch: see README.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from facesearch.index.exact import Mask, Refining, widen
from facesearch.index.faiss_index import ADD_ROWS, FaissIndex, faiss
from facesearch.values import F16, F32, I64

RERANK = 64
"""Rows fetched at least, to be scored again: on a GPU the query is rounded to float16, too."""

_WORTH = 128
"""Queries that a process has asked when the copy is made; a batch of so many has it made first."""
_MOST_ROWS = 2048
"""Rows that FAISS returns from a GPU at most."""
_ROW_COST = 1e-3
"""A row compared, in rows of FAISS's flat scan on a processor; assumed, not measured."""
_WORKSPACE = 256 * 2**20
"""Bytes of the GPU's memory that FAISS takes beside the vectors."""


def on_gpu(index: FaissIndex, vectors: F16, most: int) -> FaissIndex | OnGpu:
    """The index, or one that searches its vectors on a GPU.

    Args:
        index: of the vectors.
        vectors: (N, D) float16.
        most: bytes of the GPU's memory for them, at most.
    """
    if not most or vectors.nbytes + _WORKSPACE > most or not gpus():
        return index
    return OnGpu(index, vectors, _copied)


def gpus() -> int:
    """How many GPUs FAISS can use: none, unless it was built for them."""
    return int(faiss.get_num_gpus())


class OnGpu:
    """Exact search of all rows in another place; of some of them by the index as it is.

    Args:
        index: of the vectors.
        vectors: (N, D) float16.
        copied: makes an index of FAISS's that compares with all of them.
    """

    def __init__(self, index: FaissIndex, vectors: F16, copied: Callable[[F16], Any]) -> None:
        self._index = index
        self._vectors = vectors
        self._copied = copied
        self._asked = 0
        self._copy: Any = None
        self._failed = False
        self._lock = threading.Lock()  # FAISS's resources of a GPU are one thread's at a time

    def __len__(self) -> int:
        return len(self._index)

    def cost(self, queries: int, allowed: int) -> float:
        """As `VectorIndex.cost`, as if the copy were made: it is to be asked for."""
        if self._failed or allowed < len(self):
            return self._index.cost(queries, allowed)
        return queries * len(self) * _ROW_COST

    def search(self, queries: F32, k: int, allowed: Mask | None) -> I64:
        """As `VectorIndex.search`."""
        if allowed is None:
            found = self._by_copy(queries, k)
            if found is not None:
                return found
        return self._index.search(queries, k, allowed)

    def shared(self, work: Callable[[F32], I64], queries: F32) -> I64:
        """As `VectorIndex.shared`: a GPU takes a batch as a whole."""
        return self._index.shared(work, queries) if self._copy is None else work(queries)

    def refining(self, vectors: F16 | F32) -> Refining | None:
        """As `VectorIndex.refining`, `RERANK` rows or more."""
        otherwise = self._index.refining(vectors)
        if otherwise is None:
            return None

        def refined(queries: F32, fetch: int, keep: int) -> I64:
            found = self._by_copy(queries, max(keep, RERANK))
            return otherwise(queries, fetch, keep) if found is None else found

        return refined

    def _by_copy(self, queries: F32, k: int) -> I64 | None:
        """(Q, k) rows by the copy, which is made if it is time; None where it cannot answer."""
        with self._lock:
            self._asked += len(queries)
            if self._failed or self._asked < _WORTH or k > _MOST_ROWS:
                return None
            try:
                if self._copy is None:
                    self._copy = self._copied(self._vectors)
                rows: I64 = self._copy.search(np.ascontiguousarray(queries, np.float32), k)[1]
                return rows
            except RuntimeError:  # of CUDA: no memory left, say
                self._copy, self._failed = None, True
                return None


def _copied(vectors: F16) -> Any:
    """The vectors on the first GPU, in float16.

    Raises:
        RuntimeError: there is no room, or the GPU fails.
    """
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_WORKSPACE)
    config = faiss.GpuIndexFlatConfig()
    config.useFloat16 = True
    flat = faiss.GpuIndexFlatIP(resources, vectors.shape[1], config)
    for start in range(0, len(vectors), ADD_ROWS):
        flat.add(widen(vectors[start : start + ADD_ROWS]))
    return flat
