"""Multi-index hashing, against comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.errors import UsageError
from facesearch.index.near import groups, near_pairs


@pytest.mark.parametrize("distance", range(8))
def test_every_near_pair_is_found(distance: int) -> None:
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 2**64, 400, np.uint64)
    for i in range(0, 400, 2):  # half of them are neighbours of others, 0 to 10 bits away
        bits = rng.choice(64, int(rng.integers(0, 11)), replace=False)
        hashes[i] = hashes[i + 1] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64))
    unique = np.unique(hashes)
    apart = np.unpackbits(
        (unique[:, None] ^ unique).view(np.uint8).reshape(len(unique), -1, 8), axis=2
    ).sum(2)
    a, b = np.triu(apart <= distance, 1).nonzero()
    wanted = np.stack([a, b, apart[a, b]], 1)
    np.testing.assert_array_equal(near_pairs(unique, distance), wanted)


def test_equal_hashes_are_a_chain() -> None:
    hashes = np.array([5, 0, 5, 7, 5, 2**63], np.uint64)
    pairs = near_pairs(hashes, 0)
    assert pairs.tolist() == [[0, 2, 0], [2, 4, 0]]
    assert groups(pairs, len(hashes)) == [[0, 2, 4]]
    assert groups(near_pairs(hashes, 2), len(hashes)) == [[0, 1, 2, 3, 4, 5]]
    many = near_pairs(np.zeros(10_000, np.uint64), 4)
    assert len(many) == 9_999


def test_none() -> None:
    assert near_pairs(np.zeros(0, np.uint64), 4).shape == (0, 3)
    assert groups(near_pairs(np.zeros(1, np.uint64), 4), 1) == []
    with pytest.raises(UsageError, match="between 0 and 7"):
        near_pairs(np.zeros(1, np.uint64), 8)
