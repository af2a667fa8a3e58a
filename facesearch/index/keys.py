"""A scored row as one integer: what exact search, re-ranking and grouping sort.

A key holds the score in its upper 32 bits and the row in its lower 32, such that the larger key is
the better match and, of equal scores, the lower row. One `np.sort` of int64 (vectorised in numpy)
then ranks, merges and breaks ties at once. Rows must be below 2**32.
"""

from __future__ import annotations

import numpy as np

from facesearch.values import F32, I64

EMPTY = np.int64(np.iinfo(np.int64).min)
"""The key of no row; sorts last."""

_LOW = np.int64(0xFFFF_FFFF)


def pack(scores: F32, rows: I64) -> I64:
    """Keys of scored rows.

    Args:
        scores: float32, any shape, no NaN.
        rows: int64 of the same shape, 0 <= row < 2**32; negative for none.

    Returns:
        int64 keys of that shape, `EMPTY` where the row is negative.
    """
    bits = np.ascontiguousarray(scores, np.float32).view(np.int32)
    # IEEE 754 floats order like sign-magnitude integers; this makes them order as two's complement.
    ordered = (bits ^ ((bits >> 31) & np.int32(0x7FFF_FFFF))).astype(np.int64)
    keys = (ordered << 32) | (_LOW - rows)
    none = rows < 0
    if np.count_nonzero(none):
        keys[none] = EMPTY
    return keys


def unpack(keys: I64) -> tuple[I64, F32]:
    """Rows and scores of keys; row -1 and score -inf where a key is `EMPTY`."""
    ordered = (keys >> 32).astype(np.int32)
    scores = (ordered ^ ((ordered >> 31) & np.int32(0x7FFF_FFFF))).view(np.float32)
    rows = _LOW - (keys & _LOW)
    none = keys == EMPTY
    if np.count_nonzero(none):
        rows[none], scores[none] = -1, -np.inf
    return rows, scores


def rows_of(keys: I64) -> I64:
    """Rows of keys; -1 where a key is `EMPTY`."""
    rows = _LOW - (keys & _LOW)
    rows[keys == EMPTY] = -1
    return rows


def shift(keys: I64, offset: int) -> I64:
    """The same keys with `offset` added to every row."""
    if not offset:
        return keys
    return np.where(keys == EMPTY, EMPTY, keys - offset)


def best(keys: I64, k: int) -> I64:
    """The k best keys of each row of (Q, C) `keys`, best first, padded with `EMPTY` to (Q, k)."""
    if keys.shape[1] > 4 * k:
        keys = np.partition(keys, keys.shape[1] - k, axis=1)[:, -k:]
    ranked = np.sort(keys, axis=1)[:, ::-1][:, :k]
    if ranked.shape[1] == k:
        return ranked
    return np.pad(ranked, ((0, 0), (0, k - ranked.shape[1])), constant_values=EMPTY)


def best_distinct(keys: I64, groups: I64, k: int) -> I64:
    """The best key of each of the k best groups.

    Args:
        keys: (Q, C) int64.
        groups: (Q, C) int64, the group of each key; keys of group 0 or below do not count.
        k: groups wanted.

    Returns:
        (Q, k) keys of k different groups, best first, padded with `EMPTY`.
    """
    by_key = np.argsort(keys, axis=1)
    by_group = np.argsort(np.take_along_axis(groups, by_key, axis=1), axis=1, kind="stable")
    order = np.take_along_axis(by_key, by_group, axis=1)
    grouped = np.take_along_axis(groups, order, axis=1)
    # Within a group keys ascend, so its last is its best.
    last = np.ones(grouped.shape, np.bool_)
    np.not_equal(grouped[:, 1:], grouped[:, :-1], out=last[:, :-1])
    ordered = np.take_along_axis(keys, order, axis=1)
    return best(np.where(last & (grouped > 0), ordered, EMPTY), k)


def count(keys: I64) -> I64:
    """How many keys of each row are not `EMPTY`."""
    counts: I64 = np.add.reduce(keys != EMPTY, axis=1, dtype=np.int64)
    return counts
