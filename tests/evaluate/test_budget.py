"""Every missed mate has one cause, and only one."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.evaluate.budget import Cause, Exact, error_budget
from facesearch.evaluate.lists import Outcome, Probe, of_probes
from facesearch.evaluate.metrics import fnir
from tests.evaluate.made_lists import made

HIT, BELOW, WRONG, LOST, LOST_LOW, GONE, FACELESS, BROKEN, STRANGER = range(9)
LISTS = of_probes(
    [
        Probe("hit", "A", True, [("A", 0.8), ("B", 0.1)]),
        Probe("below", "A", True, [("A", 0.4), ("B", 0.1)]),
        Probe("wrong", "A", True, [("B", 0.7), ("A", 0.6)]),
        Probe("lost", "A", True, [("B", 0.3)]),
        Probe("lost and low", "A", True, [("B", 0.3)]),
        Probe("gone", "C", True, [("B", 0.3)]),
        Probe("faceless", "A", True, outcome=Outcome.NO_FACE),
        Probe("broken", "C", True, outcome=Outcome.UNREADABLE),
        Probe("stranger", "S", False, [("A", 0.9)]),
    ],
    4,
)


def exact() -> Exact:
    own, other = np.full(9, -np.inf), np.full(9, -np.inf)
    own[[WRONG, LOST, LOST_LOW]] = 0.6, 0.75, 0.4
    other[[WRONG, LOST, LOST_LOW]] = 0.7, 0.3, 0.3
    return Exact(own, other)


def test_each_cause() -> None:
    budget = error_budget(LISTS, 0.5, {"A", "B"}, exact())
    assert {LISTS.photos[m.probe]: m.cause for m in budget.misses} == {
        "below": Cause.BELOW_THRESHOLD,
        "wrong": Cause.WRONG_RANK,
        "lost": Cause.INDEX_LOSS,
        "lost and low": Cause.BELOW_THRESHOLD,
        "gone": Cause.NOT_ENROLLED,
        "faceless": Cause.NO_FACE,
        "broken": Cause.UNREADABLE,
    }
    scores = {m.photo: (m.own, m.best, m.offered) for m in budget.misses}
    assert scores["below"] == (0.4, 0.4, "A")
    assert scores["lost"] == (0.75, 0.3, "B")
    assert scores["gone"] == (None, 0.3, "B")
    assert scores["broken"] == (None, None, None)


def test_without_exact_search_nothing_is_said_of_the_index() -> None:
    budget = error_budget(LISTS, 0.5, None, None)
    assert budget.counts["index_loss"] is None
    assert budget.counts["not_enrolled"] is None
    assert budget.counts["wrong_rank"] == 4


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.45, 0.9])
def test_the_counts_sum_to_the_misses(threshold: float) -> None:
    lists, _ = made(np.random.default_rng(2))
    budget = error_budget(lists, threshold, None, None)
    total = sum(n for n in budget.counts.values() if n is not None)
    scores = lists.search_scores()
    assert total == len(budget.misses) == round(fnir(scores, 1, threshold) * budget.mated)
    assert len({m.probe for m in budget.misses}) == total
