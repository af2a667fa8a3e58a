"""FAISS behind the protocol: the only file that imports it.

Indexes use the inner product on unit vectors, which is the cosine. Search parameters travel with
each call, so that concurrent searches do not share state, and FAISS's global settings (threads
among them) stay as the process has them.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, Protocol

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from facesearch.errors import FacesearchError, IndexFileError, UsageError
from facesearch.index.exact import Mask, Refining, widen
from facesearch.index.spec import IndexSpec
from facesearch.values import F16, F32, I64

faiss: Any = _faiss  # the type stubs that FAISS ships miss half of what is used here

ADD_ROWS = 65_536
"""Rows widened to float32 and added at a time."""

SMALL = 10_000
"""Rows below which a recipe that needs training is built flat instead: FAISS wants 39 training rows
for each of the 256 centroids of a byte (9,984), and scanning so few takes a fraction of a
millisecond anyway."""

_SEED = 1234
"""Of the draw of training rows; k-means in FAISS has the same fixed seed of its own."""

_LINK_COST = 3.0
"""A row reached through a graph link, in rows of FAISS's flat scan (measured: it misses caches)."""

_PQ_SCAN_COST, _RABITQ_SCAN_COST = 0.08, 0.5
"""A row's code compared in SIMD registers, in rows of FAISS's flat scan (measured)."""

_MOST_FETCHED = 8192
"""Rows fetched at most to find allowed ones among them, where FAISS cannot restrict a search."""

_SHARED = 16
"""Queries from which a batch is shared out to threads."""

_OPQ_ROUNDS, _OPQ_CODE_ROUNDS, _CODE_BITS = 5, 2, 4
"""Rounds of OPQ, of k-means in each, and bits of its codes: FAISS's own (50, 40, 8 bits) take
minutes, and train a rotation for other codes than those that follow."""

VERSION: str = faiss.__version__


class Sink(Protocol):
    """Something bytes are written to."""

    def write(self, data: bytes, /) -> int:
        """Write all of `data`; returns its length."""
        ...


class FaissIndex:
    """A FAISS index of N rows, ready to search from any number of threads.

    Args:
        index: FAISS's index, trained and filled.
        spec: the recipe it was built by, with the search parameter to use.
        memory: what `index` refers to without owning it, kept as long as it.
    """

    def __init__(
        self, index: Any, spec: IndexSpec, memory: NDArray[np.uint8] | None = None
    ) -> None:
        self._index = index
        self._rows = int(index.ntotal)
        self._memory = memory
        self._spec = spec
        core = faiss.downcast_index(index.index) if _is_transformed(index) else index
        self._row_cost = _row_cost(core)
        self._lists: int = core.nlist if isinstance(core, faiss.IndexIVF) else 0
        self._links: int = core.hnsw.nb_neighbors(0) if isinstance(core, faiss.IndexHNSW) else 0
        self._selects = not isinstance(core, faiss.IndexPQ | faiss.IndexFastScan)

    def __len__(self) -> int:
        return self._rows

    @property
    def parameter(self) -> str:
        """Name of the search parameter that this kind of index has, or ""."""
        return "nprobe" if self._lists else "efSearch" if self._links else ""

    @property
    def lists(self) -> int:
        """Number of lists; 0 where there are none."""
        return self._lists

    def searched_with(self, value: int) -> FaissIndex:
        """The same index, searched with another value of its parameter."""
        return FaissIndex(self._index, replace(self._spec, value=value), self._memory)

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self._index.d)

    def cost(self, queries: int, allowed: int) -> float:
        """As `VectorIndex.cost`."""
        effort = self._effort(allowed)
        if self._lists:
            return queries * len(self) * effort / self._lists * self._row_cost
        if self._links:
            return queries * min(float(len(self)), effort * self._links * _LINK_COST)
        return queries * len(self) * self._row_cost

    def search(self, queries: F32, k: int, allowed: Mask | None) -> I64:
        """As `VectorIndex.search`.

        Where FAISS cannot restrict a search to some rows (compressed scans without lists), more
        rows are fetched, `_MOST_FETCHED` at most, and those not allowed dropped: then fewer than k
        may be returned although there are more.

        Raises:
            IndexFileError: FAISS failed.
        """
        count = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if count == 0:
            return np.full((len(queries), k), -1, np.int64)
        fetch = min(k, count)
        if not self._selects and allowed is not None:
            wanted = -(-fetch * len(self) // count)
            fetch = min(len(self), max(fetch, min(wanted, _MOST_FETCHED)))
        with _translated(IndexFileError, "FAISS could not search; rebuild the index"):
            rows: I64 = self._index.search(
                np.ascontiguousarray(queries, np.float32),
                fetch,
                params=self._parameters(count, allowed if self._selects else None),
            )[1]
        if allowed is not None and not self._selects:
            bad = ~allowed[rows]
            bad |= rows < 0
            if bad.any():
                rows = np.take_along_axis(
                    np.where(bad, -1, rows), np.argsort(bad, axis=1, kind="stable"), axis=1
                )
            rows = rows[:, :k]
        if rows.shape[1] == k:
            return rows
        return np.pad(rows, ((0, 0), (0, k - rows.shape[1])), constant_values=-1)

    def shared(self, work: Callable[[F32], I64], queries: F32) -> I64:
        """As `VectorIndex.shared`.

        FAISS's threads share the queries of a batch, and would idle while Python scores and groups
        what they found; here each thread does all of that for its part.
        """
        threads = int(faiss.omp_get_max_threads())
        if threads == 1 or len(queries) < _SHARED:
            return work(queries)
        parts = np.array_split(queries, 2 * threads)
        return np.concatenate(list(_crew(os.getpid(), threads).map(work, parts)))

    def refining(self, vectors: F16 | F32) -> Refining | None:
        """As `VectorIndex.refining`: FAISS reads float16 in place, memory maps too.

        Its sums are rounded otherwise than those of `score`; the rows are told, not the scores.
        """
        if vectors.dtype != np.float16 or not vectors.flags.c_contiguous or not len(vectors):
            return None
        return _Refined(self, vectors)

    def save(self, sink: Sink) -> None:
        """Write the index in FAISS's own format.

        Raises:
            OSError: from `sink`.
        """
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(sink.write))

    def _effort(self, allowed: int) -> int:
        """The search parameter, raised such that as many *allowed* rows are met as without a mask.

        A graph or a list visits rows wherever they are; with one in ten allowed it must visit ten
        times as many to see the same number of candidates.
        """
        effort = -(-self._spec.value * len(self) // max(1, allowed))
        return min(effort, self._lists or len(self))

    def _parameters(self, count: int, allowed: Mask | None) -> Any:
        """FAISS's search parameters for a mask with `count` rows."""
        options: dict[str, Any] = {}
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(bits)
        kind = faiss.SearchParameters
        if self._lists:
            kind = faiss.SearchParametersIVF
            options["nprobe"] = self._effort(count)
        elif self._links:
            kind = faiss.SearchParametersHNSW
            options["efSearch"] = self._effort(count)
        if not options:
            return None
        if _is_transformed(self._index):
            return faiss.SearchParametersPreTransform(index_params=kind(**options))
        return kind(**options)


class _Refined:
    """FAISS's scan and FAISS's scores of what it found, in one call.

    Args:
        index: what finds rows.
        vectors: (N, D) float16, contiguous; not copied.
    """

    def __init__(self, index: FaissIndex, vectors: F16 | F32) -> None:
        self._of = index
        self._bytes = vectors.reshape(-1).view(np.uint8)
        self._rows = faiss.IndexScalarQuantizer(
            vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        nobody = self._rows.codes.owner  # who keeps the memory is this object, not FAISS
        self._rows.codes = faiss.MaybeOwnedVectorUInt8.create_view(
            faiss.swig_ptr(self._bytes), self._bytes.size, nobody
        )
        self._rows.ntotal = len(vectors)
        self._both = faiss.IndexRefine(index._index, self._rows)

    def __call__(self, queries: F32, fetch: int, keep: int) -> I64:
        """As `Refining`.

        Raises:
            IndexFileError: FAISS failed.
        """
        fetch, keep = min(fetch, len(self._of)), min(keep, len(self._of))
        options = faiss.IndexRefineSearchParameters(
            k_factor=(fetch + 0.5) / keep,
            base_index_params=self._of._parameters(len(self._of), None),
        )
        with _translated(IndexFileError, "FAISS could not search; rebuild the index"):
            rows: I64 = self._both.search(
                np.ascontiguousarray(queries, np.float32), keep, params=options
            )[1]
        return rows


class FlatRows:
    """Exact search by FAISS over rows in memory, which are not copied.

    Args:
        vectors: (N, D) float32.
    """

    def __init__(self, vectors: F32) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def cost(self, queries: int, allowed: int) -> float:
        """As `VectorIndex.cost`."""
        return float(queries * len(self))

    def search(self, queries: F32, k: int, allowed: Mask | None) -> I64:
        """As `VectorIndex.search`."""
        queries = np.ascontiguousarray(queries, np.float32)
        scores = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        selector = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        faiss.knn_inner_product(
            faiss.swig_ptr(queries),
            faiss.swig_ptr(self._vectors),
            queries.shape[1],
            len(queries),
            len(self),
            k,
            faiss.swig_ptr(scores),
            faiss.swig_ptr(rows),
            selector,
        )
        return rows

    def shared(self, work: Callable[[F32], I64], queries: F32) -> I64:
        """As `VectorIndex.shared`: few rows, soon done."""
        return work(queries)

    def refining(self, vectors: F16 | F32) -> None:
        """As `VectorIndex.refining`: scores are exact as it is."""


@cache
def _crew(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads in which FAISS has one thread each; of this process, should it have been forked."""
    return ThreadPoolExecutor(
        threads,
        thread_name_prefix=f"facesearch-search-{process}",
        initializer=lambda: faiss.omp_set_num_threads(1),
    )


def build(
    vectors: F16, spec: IndexSpec, progress: Callable[[int], None] = lambda rows: None
) -> FaissIndex:
    """Train and fill an index.

    Memory beyond the index itself: the training rows and `ADD_ROWS` rows in float32.

    Args:
        vectors: (N, D) float16, in memory or a memory map.
        spec: the recipe.
        progress: called with the number of rows indexed so far.

    Raises:
        UsageError: FAISS does not know the factory string, or cannot build it for these rows.
    """
    rows, dim = vectors.shape
    factory = spec.factory_for(rows, dim)
    with (
        _translated(UsageError, f"recipe '{spec.name}' ({factory}) cannot be built"),
        _idle_cores(),
    ):
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        has = FaissIndex(index, spec).parameter
        if has != spec.parameter:
            raise UsageError(f"recipe '{spec.name}': {factory} wants parameter = '{has}'")
        if not index.is_trained and rows < SMALL:
            index = faiss.index_factory(dim, "Flat", faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            wanted = min(rows, spec.train_rows)
            drawn = np.random.default_rng(_SEED).choice(rows, wanted, replace=False)
            with _brisk(index):
                index.train(widen(vectors[np.sort(drawn)]))
        for start in range(0, rows, ADD_ROWS):
            index.add(widen(vectors[start : start + ADD_ROWS]))
            progress(min(start + ADD_ROWS, rows))
    return FaissIndex(index, spec)


def size(index: FaissIndex) -> int:
    """Bytes that `index.save` writes."""
    counted = 0

    class Counter:
        def write(self, data: bytes, /) -> int:
            nonlocal counted
            counted += len(data)
            return len(data)

    index.save(Counter())
    return counted


def load(data: mmap.mmap | bytes, spec: IndexSpec) -> FaissIndex:
    """An index from a memory map of its file, whose checksum the caller has verified.

    FAISS refers to the mapped bytes instead of copying them, where the kind of index allows it: the
    operating system then pages them in, shares them between processes and may drop them.

    Raises:
        IndexFileError: FAISS does not understand the bytes.
    """
    view = np.frombuffer(data, np.uint8)
    with _translated(IndexFileError, f"FAISS {VERSION} cannot read it"):
        index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(view), view.size))
    return FaissIndex(index, spec, view)


def _is_transformed(index: Any) -> bool:
    return isinstance(index, faiss.IndexPreTransform)


def _row_cost(core: Any) -> float:
    """Cost of comparing one row's code, in rows of FAISS's flat scan."""
    if isinstance(core, faiss.IndexRaBitQFastScan | faiss.IndexIVFRaBitQFastScan):
        return _RABITQ_SCAN_COST
    if isinstance(core, faiss.IndexFastScan | faiss.IndexIVFFastScan):
        return _PQ_SCAN_COST
    return 1.0


@contextmanager
def _brisk(index: Any) -> Iterator[None]:
    """Let OPQ, if the index starts with it, train for the codes that follow, and not for long."""
    first = faiss.downcast_VectorTransform(index.chain.at(0)) if _is_transformed(index) else None
    if not isinstance(first, faiss.OPQMatrix):
        yield
        return
    first.niter, first.niter_pq, first.niter_pq_0 = _OPQ_ROUNDS, _OPQ_CODE_ROUNDS, _OPQ_ROUNDS
    codes = faiss.ProductQuantizer(first.d_out, first.M, _CODE_BITS)
    first.pq = codes  # FAISS refers to it without owning it
    try:
        yield
    finally:
        first.pq = None


@contextmanager
def _idle_cores() -> Iterator[None]:
    """Build with a thread for each core that nobody uses, one at least.

    FAISS's threads wait for each other at every step, spinning: on a busy machine two take several
    times as long as one.
    """
    before = int(faiss.omp_get_max_threads())
    faiss.omp_set_num_threads(max(1, before - round(os.getloadavg()[0])))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def _translated(kind: type[FacesearchError], what: str) -> Iterator[None]:
    """Raise FAISS's exceptions, which reach Python as RuntimeError, as `kind`."""
    try:
        yield
    except RuntimeError as err:
        # "Error in <signature> at <file>:<line>: Error: '<condition>' failed: <message>"
        message = str(err).rsplit(": ", 1)[-1].strip()
        raise kind(f"{what}: {message}") from err
