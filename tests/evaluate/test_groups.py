"""Errors by group, and how unequal they are."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.evaluate.groups import by_group, gini, summary
from facesearch.evaluate.lists import Probe, of_probes


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([0.1, 0.1, 0.1], 0.0),
        ([0.0, 1.0], 1.0),  # the most unequal two can be
        ([0.0, 0.0, 0.3], 1.0),
        ([0.1, 0.3], 0.5),  # 2 * (2 * 0.2) / (2 * 4 * 0.2)
        ([0.01, 0.02, 0.03], 1 / 3),  # 3/2 * 0.08 / (2 * 9 * 0.02)
    ],
)
def test_gini_by_hand(rates: list[float], expected: float) -> None:
    assert gini(rates) == pytest.approx(expected, abs=1e-9)


def test_gini_of_nothing_is_none() -> None:
    assert gini([0.1]) is None
    assert gini([0.0, 0.0]) is None


def test_ratios_by_hand() -> None:
    found = summary([0.01, 0.04])
    assert found.highest_over_lowest == pytest.approx(4.0)
    assert found.highest_over_mean == pytest.approx(2.0)  # the geometric mean is 0.02
    assert summary([0.0, 0.04]).highest_over_lowest is None


def test_each_group_is_measured_on_its_own_probes() -> None:
    probes, labels = [], []
    for group, hits in (("f", 9), ("m", 6), ("", 0)):
        for n in range(10):
            score = 0.9 if n < hits else 0.1
            probes.append(Probe(f"{group}{n}", f"{group}{n}", True, [(f"{group}{n}", score)]))
            probes.append(Probe(f"s{group}{n}", f"s{group}{n}", False, [("f0", 1.0 - score)]))
            labels += [group, group]
    found = by_group(of_probes(probes, 30), labels, "sex", 0.5)
    assert found.names == ("f", "m")
    assert [g.errors for g in found.fnir] == [1, 4]
    assert [g.rate for g in found.fnir] == pytest.approx([0.1, 0.4])
    assert [g.ratio for g in found.fnir] == pytest.approx([1.0, 4.0])
    assert [g.errors for g in found.fpir] == [1, 4]
    assert found.fnir_summary.gini == pytest.approx(0.6)
    assert found.unlabelled == 20
    for one in (*found.fnir, *found.fpir):
        assert one.rate is not None
        assert one.rate_95 is not None
        assert one.rate_95[0] <= one.rate <= one.rate_95[1]
        assert (one.probes, one.people) == (10, 10)


def test_a_group_without_probes_of_a_kind_has_no_rate() -> None:
    lists = of_probes([Probe("a", "A", True, [("A", 0.9)]), Probe("s", "S", False)], 1)
    found = by_group(lists, ["x", "y"], "k", 0.5)
    assert [g.rate for g in found.fnir] == [0.0, None]
    assert [g.ratio for g in found.fnir] == [None, None]


def test_labels_are_kept_apart_from_people() -> None:
    lists = of_probes(
        [Probe(str(n), "A", True, [("A", 0.9)]) for n in range(4)] + [Probe("s", "S", False)], 1
    )
    found = by_group(lists, ["x", "x", "y", "y", ""], "k", 0.5)
    assert np.array_equal([g.people for g in found.fnir], [1, 1])
