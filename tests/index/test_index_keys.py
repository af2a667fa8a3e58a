"""Packing a score and a row into an integer, and what sorting such integers gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from facesearch.index.keys import EMPTY, best, best_distinct, count, pack, shift, unpack

FLOATS = st.floats(-1.5, 1.5, width=32)
ROWS = st.integers(-1, 2**32 - 1)


@given(st.lists(st.tuples(FLOATS, ROWS), min_size=1, max_size=40))
def test_round_trip_and_order(items: list[tuple[float, int]]) -> None:
    scores = np.array([score for score, _ in items], np.float32)
    rows = np.array([row for _, row in items], np.int64)
    keys = pack(scores, rows)
    back_rows, back_scores = unpack(keys)
    none = rows < 0
    assert (back_rows == np.where(none, -1, rows)).all()
    assert (back_scores[~none] == scores[~none]).all()
    assert np.isneginf(back_scores[none]).all()
    assert (keys[none] == EMPTY).all()
    ranked = unpack(np.sort(keys)[::-1])
    # -0.0 and 0.0 compare equal as floats but not as keys: rows of equal key order are enough.
    expected = sorted(
        ((s, r) for s, r in items if r >= 0),
        key=lambda item: (-item[0], np.signbit(item[0]), item[1]),
    )
    assert ranked[0].tolist()[: len(expected)] == [row for _, row in expected]


@given(arrays.arrays(np.int64, (3, 7), elements=st.integers(0, 40)), st.integers(1, 9))
def test_best(rows: np.ndarray[tuple[int, int], np.dtype[np.int64]], k: int) -> None:
    keys = pack((rows % 5).astype(np.float32), rows)
    found = best(keys, k)
    assert found.shape == (3, k)
    for row, line in zip(keys, found, strict=True):
        assert line.tolist() == (sorted(row.tolist(), reverse=True) + [int(EMPTY)] * k)[:k]


@given(
    arrays.arrays(np.int64, (2, 9), elements=st.integers(-1, 40)),
    arrays.arrays(np.int64, 41, elements=st.integers(-1, 4)),
    st.integers(1, 6),
)
def test_best_distinct(
    rows: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    group_of: np.ndarray[tuple[int], np.dtype[np.int64]],
    k: int,
) -> None:
    keys = pack((rows % 7).astype(np.float32), rows)
    groups = group_of[np.maximum(rows, 0)]
    found = best_distinct(keys, groups, k)
    for line, key, group in zip(found, keys.tolist(), groups.tolist(), strict=True):
        of_group: dict[int, int] = {}
        for one, name in zip(key, group, strict=True):
            if name > 0 and one != EMPTY:
                of_group[name] = max(one, of_group.get(name, one))
        expected = sorted(of_group.values(), reverse=True)
        assert line.tolist() == (expected + [int(EMPTY)] * k)[:k]


def test_shift_and_count() -> None:
    keys = pack(np.array([[0.5, -0.5, 0.0]], np.float32), np.array([[7, 0, -1]]))
    moved = shift(keys, 100)
    assert unpack(moved)[0].tolist() == [[107, 100, -1]]
    assert unpack(moved)[1][0, :2].tolist() == [0.5, -0.5]
    assert count(moved).tolist() == [2]
