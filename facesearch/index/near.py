"""Pairs of 64-bit hashes that differ in few bits, found without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet: "Fast Exact Search in Hamming Space with Multi-Index
Hashing", PAMI 36(6), 2014), as FAISS has it: the bits are cut into four words of 16; hashes within
7 bits of each other agree in one of them but for one bit, so that only those are compared.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from facesearch.errors import UsageError
from facesearch.values import I64

MOST = 7
"""Greatest distance that can be searched."""
_WORDS, _WORD = 4, 16
_BATCH = 4096


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> I64:
    """Every pair of hashes that differ in at most `distance` bits.

    Args:
        hashes: (N,) uint64.
        distance: bits, 0 to `MOST`.

    Returns:
        (M, 3) int64: rows of the two hashes, the lesser first, and the bits they differ in; sorted.

    Raises:
        UsageError: the distance is out of range.
    """
    if not 0 <= distance <= MOST:
        raise UsageError(f"distance {distance}: between 0 and {MOST} bits")
    unique, back = np.unique(hashes, return_inverse=True)
    codes = unique.astype("<u8").view(np.uint8).reshape(-1, 8)
    index = faiss.IndexBinaryMultiHash(64, _WORDS, _WORD)
    index.nflip = min(1, distance // _WORDS)
    index.add(codes)
    found = [np.zeros((0, 3), np.int64)]
    for start in range(0, len(codes), _BATCH):
        limits, distances, ids = index.range_search(codes[start : start + _BATCH], distance + 1)
        rows = np.repeat(
            np.arange(len(limits) - 1) + start, (limits[1:] - limits[:-1]).astype(np.int64)
        )
        pairs = np.stack([rows, ids, distances.astype(np.int64)], 1)
        found.append(np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0))
    return _of_all(np.concatenate(found), back)


def _of_all(pairs: I64, back: NDArray[np.intp]) -> I64:
    """Pairs of distinct hashes, as pairs of the rows that have them; equal ones in a chain."""
    order = np.argsort(back, kind="stable")
    first = np.zeros(back.max(initial=-1) + 1, np.int64)
    first[back[order][::-1]] = order[::-1]
    same = back[order][1:] == back[order][:-1]
    chain = np.stack([order[:-1][same], order[1:][same], np.zeros(same.sum(), np.int64)], 1)
    rows = np.concatenate([np.column_stack([first[pairs[:, :2]], pairs[:, 2]]), chain])
    rows[:, :2].sort(axis=1)
    result: I64 = np.unique(rows, axis=0)
    return result


def groups(pairs: I64, count: int) -> list[list[int]]:
    """Rows 0 to `count` - 1 that are connected by pairs; lonely ones are left out."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for a, b in pairs[:, :2].tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    members: dict[int, list[int]] = {}
    for row in sorted(set(pairs[:, :2].ravel().tolist())):
        members.setdefault(root(row), []).append(row)
    return list(members.values())
