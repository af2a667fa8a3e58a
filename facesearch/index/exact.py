"""Exact search in numpy: the oracle, the delta, and the fallback where FAISS would cost more.

The similarity of a face to a query is the float32 dot product of the float32 query with the stored
float16 vector widened to float32. Every score that leaves the index stage comes from `score`, so a
face's score does not depend on where the face was found.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facesearch.index.keys import EMPTY, best, best_distinct, pack, unpack
from facesearch.values import F16, F32, I64

Mask = NDArray[np.bool_]

_FIRST_BLOCK = 1024
"""Rows of the first block scanned: all its rows are ranked; later only those that beat the k-th."""
_BLOCK_COMPONENTS = 2**21
"""Components of a block of rows widened to float32 at a time: 8 MiB."""
_BLOCK_SCORES = 2**22
"""Scores computed at a time: 16 MiB."""
_SCORE_COMPONENTS = 2**18
"""Components gathered at a time by `score`: 1 MiB of float32, which stays in cache."""

_FEW_COMPONENTS = 2**11
"""Components that numpy converts in the time that five of its operations take to start."""

_SIGN_EXPONENT_MANTISSA = np.int32(0x8FFF_E000 - 2**32)
"""The bits of a float16 that was sign-extended to 32 bits and shifted left by 13."""

_ROW_COST = 5.0
"""Reading, gathering and widening one float16 row, in rows of FAISS's flat scan (measured)."""
_QUERY_COST = 0.18
"""Scoring and selecting a widened row for one more query of a batch, in the same unit."""


class VectorIndex(Protocol):
    """Nearest rows of a query by inner product: brute force, or FAISS."""

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def cost(self, queries: int, allowed: int) -> float:
        """Work of searching `queries` vectors in a batch where `allowed` rows may be returned.

        The unit is one row scored for one query by FAISS's sequential flat scan.
        """
        ...

    def search(self, queries: F32, k: int, allowed: Mask | None) -> I64:
        """Rows most similar to each query.

        Args:
            queries: (Q, D) float32.
            k: rows wanted a query, at least 1.
            allowed: (N,) bool, the rows that may be returned; None for all.

        Returns:
            (Q, k) int64 rows, -1 where there are no more; best first by the index's own scores.
        """
        ...

    def shared(self, work: Callable[[F32], I64], queries: F32) -> I64:
        """`work` on (Q, D) queries, in parts on several threads where that is faster; joined.

        Args:
            work: gives a row for each of the queries it is given, and calls `search`.
            queries: (Q, D) float32.
        """
        ...

    def refining(self, vectors: F16 | F32) -> Refining | None:
        """A search of all rows that costs less than `search` and `score`; None if there is none.

        Args:
            vectors: (N, D), by which it scores what it finds.
        """
        ...


class Refining(Protocol):
    """A search whose rows were scored again before the best of them are returned."""

    def __call__(self, queries: F32, fetch: int, keep: int) -> I64:
        """The best rows of those that an index finds for each query.

        Args:
            queries: (Q, D) float32.
            fetch: rows that the index finds.
            keep: rows wanted of these, by their similarity; at most `fetch`.

        Returns:
            (Q, C) int64 rows, C at least `keep`; -1 where there are no more.
        """
        ...


class ExactIndex:
    """Brute force over rows in memory or in a memory map.

    Args:
        vectors: (N, D) float16 or float32.
    """

    def __init__(self, vectors: F16 | F32) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def cost(self, queries: int, allowed: int) -> float:
        """As `VectorIndex.cost`."""
        return allowed * (_ROW_COST + _QUERY_COST * queries)

    def search(self, queries: F32, k: int, allowed: Mask | None) -> I64:
        """As `VectorIndex.search`, exact."""
        return unpack(top(queries, self._vectors, k, allowed))[0]

    def shared(self, work: Callable[[F32], I64], queries: F32) -> I64:
        """As `VectorIndex.shared`: numpy's matrix product has threads of its own."""
        return work(queries)

    def refining(self, vectors: F16 | F32) -> None:
        """As `VectorIndex.refining`: scores are exact as it is."""


def widen(vectors: F16 | F32, out: NDArray[np.int32] | None = None) -> F32:
    """Finite vectors as float32, bit for bit what `astype` gives, at an eighth of its cost.

    Widening float16 shifts exponent and mantissa into place, then corrects the exponent's bias
    (127 - 15 = 112) by a multiplication, which also normalises what was subnormal; numpy converts
    value by value.

    Args:
        vectors: any shape.
        out: memory of that shape for the result.
    """
    if vectors.dtype == np.float32 or (vectors.size <= _FEW_COMPONENTS and out is None):
        return vectors.astype(np.float32, copy=False)
    half = np.ascontiguousarray(vectors).view(np.int16)
    bits = np.empty(half.shape, np.int32) if out is None else out
    np.copyto(bits, half)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_EXPONENT_MANTISSA, out=bits)
    widened = bits.view(np.float32)
    return np.multiply(widened, np.float32(2.0**112), out=widened)


def score(queries: F32, vectors: F16 | F32, rows: I64) -> I64:
    """The exact similarity of chosen rows.

    Args:
        queries: (Q, D) float32.
        vectors: (N, D) float16 or float32.
        rows: (Q, C) int64, rows of `vectors` for each query; negative for none.

    Returns:
        (Q, C) int64 keys (see `facesearch.index.keys`), in the order of `rows`.
    """
    if len(vectors) == 0:
        return np.full(rows.shape, EMPTY)
    step = max(1, _SCORE_COMPONENTS // max(1, rows.shape[1] * vectors.shape[1]))
    if len(rows) <= step:
        return _scored(queries, vectors, rows)
    keys = np.empty(rows.shape, np.int64)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        keys[part] = _scored(queries[part], vectors, rows[part])
    return keys


def _scored(queries: F32, vectors: F16 | F32, rows: I64) -> I64:
    """`score` of few queries."""
    gathered: F16 | F32
    if rows.size * vectors.shape[1] <= _FEW_COMPONENTS:
        gathered = widen(vectors.take(rows, axis=0, mode="clip"))
    elif vectors.dtype == np.float16:
        half, wide = _scratch.of(rows.size * vectors.shape[1])
        half = half.reshape(*rows.shape, vectors.shape[1])
        vectors.take(rows, axis=0, out=half, mode="clip")
        gathered = widen(half, wide.reshape(half.shape))
    else:
        gathered = vectors.take(rows, axis=0, mode="clip")
    # einsum without BLAS adds up in an order that depends on D alone: equal everywhere.
    return pack(np.einsum("qcd,qd->qc", gathered, queries), rows)


class _Scratch(threading.local):
    """Memory that each thread scores in: fetching it anew costs as much as the gathering."""

    def __init__(self) -> None:
        self._half, self._wide = np.empty(0, np.float16), np.empty(0, np.int32)

    def of(self, components: int) -> tuple[F16, NDArray[np.int32]]:
        """Room for so many components; lent until the next call."""
        if components > _SCORE_COMPONENTS:
            return np.empty(components, np.float16), np.empty(components, np.int32)
        if components > len(self._half):
            self._half = np.empty(components, np.float16)
            self._wide = np.empty(components, np.int32)
        return self._half[:components], self._wide[:components]


_scratch = _Scratch()


def top(queries: F32, vectors: F16 | F32, k: int, allowed: Mask | None = None) -> I64:
    """The k rows most similar to each query.

    Args:
        queries: (Q, D) float32.
        vectors: (N, D) float16 or float32.
        k: rows wanted, at least 1.
        allowed: (N,) bool; None for all rows.

    Returns:
        (Q, k) int64 keys, best first, `EMPTY` beyond the last row.
    """
    return _scan(queries, vectors, k, allowed, lambda keys: best(keys, k))


def top_distinct(
    queries: F32, vectors: F16 | F32, groups: I64, k: int, allowed: Mask | None = None
) -> I64:
    """The best row of each of the k groups most similar to each query.

    Args:
        queries: (Q, D) float32.
        vectors: (N, D) float16 or float32.
        groups: (N,) int64 group (identity) of each row; rows of group 0 or below do not count.
        k: groups wanted, at least 1.
        allowed: (N,) bool; None for all rows.

    Returns:
        (Q, k) int64 keys of rows of k different groups, best first, `EMPTY` beyond the last group.
    """

    def reduce(keys: I64) -> I64:
        return best_distinct(keys, groups[np.maximum(unpack(keys)[0], 0)], k)

    return _scan(queries, vectors, k, allowed, reduce)


def _scan(
    queries: F32,
    vectors: F16 | F32,
    k: int,
    allowed: Mask | None,
    reduce: Callable[[I64], I64],
) -> I64:
    """Score all allowed rows block by block, keeping what `reduce` keeps of (Q, C) keys.

    `reduce` returns (Q, k) keys, best first. A row that does not beat the k-th of a query cannot
    enter, so after the first block few rows are looked at again.
    """
    kept = np.full((len(queries), k), EMPTY)
    for rows, block in _blocks(vectors, allowed, len(queries)):
        scores = queries @ block.T
        floor = unpack(kept[:, -1:])[1]
        query, column = np.divmod(np.flatnonzero(scores > floor), scores.shape[1])
        if len(query):
            keys = pack(scores[query, column], rows[column])
            kept = reduce(np.concatenate([kept, _padded(keys, query, len(queries))], axis=1))
    kept_rows = unpack(kept)[0]
    # The matrix product rounds differently from `score`: state the score that everyone states.
    return np.sort(score(queries, vectors, kept_rows), axis=1)[:, ::-1]


def _blocks(vectors: F16 | F32, allowed: Mask | None, queries: int) -> Iterator[tuple[I64, F32]]:
    """Blocks of allowed rows: their numbers, and their vectors widened to float32."""
    chosen = None if allowed is None else np.flatnonzero(allowed)
    total = len(vectors) if chosen is None else len(chosen)
    largest = max(
        256, min(_BLOCK_COMPONENTS // max(1, vectors.shape[1]), _BLOCK_SCORES // max(1, queries))
    )
    start, size = 0, min(_FIRST_BLOCK, largest)
    while start < total:
        stop = min(start + size, total)
        if chosen is None:
            rows, block = np.arange(start, stop), vectors[start:stop]
        else:
            rows = chosen[start:stop]
            block = vectors.take(rows, axis=0)
        yield rows, widen(block)
        start, size = stop, min(2 * size, largest)


def _padded(keys: I64, query: NDArray[np.intp], queries: int) -> I64:
    """Keys listed query by query as a (Q, C) array, C the longest list, padded with `EMPTY`."""
    counts = np.bincount(query, minlength=queries)
    position = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.full((queries, counts.max()), EMPTY)
    padded[query, position] = keys
    return padded
