"""Labels in doubt are found, most suspicious first."""

from __future__ import annotations

import numpy as np

from facesearch.evaluate.audit import audit, twins_of
from facesearch.evaluate.lists import Outcome, Probe, of_probes
from facesearch.values import F32

LISTS = of_probes(
    [
        Probe("fine", "A", True, [("A", 0.8), ("B", 0.1)]),
        Probe("a bit swapped", "A", True, [("B", 0.6), ("A", 0.4)]),
        Probe("very swapped", "A", True, [("B", 0.9), ("A", 0.1)]),
        Probe("off the list", "A", True, [("B", 0.8), ("C", 0.3)]),
        Probe("second but strong", "A", True, [("B", 0.9), ("A", 0.7)]),
        Probe("weak", "A", True, [("B", 0.4), ("A", 0.3)]),
        Probe("blank", "A", True, outcome=Outcome.NO_FACE),
        Probe("quiet", "S", False, [("A", 0.2)]),
        Probe("loud", "", False, [("B", 0.7)]),
        Probe("louder", "T", False, [("A", 0.95)]),
        Probe("empty", "T", False),
    ],
    3,
)


def test_probes() -> None:
    found = audit(LISTS, 0.5, None)
    assert [s.photo for s in found.strangers] == ["louder", "loud"]
    assert [s.photo for s in found.swapped] == ["very swapped", "off the list", "a bit swapped"]
    assert [s.own for s in found.swapped] == [0.1, None, 0.4]
    assert {s.offered for s in found.swapped} == {"B"}
    assert found.found == {"strangers": 2, "swapped": 3, "twins": None}


def test_lists_are_cut_but_counted() -> None:
    found = audit(LISTS, 0.5, [], most=1)
    assert [s.photo for s in found.swapped] == ["very swapped"]
    assert found.found == {"strangers": 2, "swapped": 3, "twins": 0}


def test_twins_equal_all_pairs() -> None:
    rng = np.random.default_rng(0)
    vectors: F32 = rng.normal(size=(300, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owners = [f"p{n // 2:03}" for n in range(300)]  # two templates each
    expected: dict[tuple[str, str], float] = {}
    for i in range(300):
        for j in range(i + 1, 300):
            score, pair = float(vectors[i] @ vectors[j]), (owners[i], owners[j])
            if score >= 0.9 and pair[0] != pair[1]:
                expected[pair] = max(score, expected.get(pair, -1.0))
    found = twins_of(vectors, owners, 0.9)
    assert len(found) > 20
    assert {(t.first, t.second) for t in found} == set(expected)
    for twins in found:
        assert abs(twins.score - expected[twins.first, twins.second]) < 1e-6
    assert [t.score for t in found] == sorted((t.score for t in found), reverse=True)
