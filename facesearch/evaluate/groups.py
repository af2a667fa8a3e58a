"""Demographic differentials: the errors of each group of people at one common threshold.

Summaries as in NIST FRTE part 8 (Grother, "Summarizing Demographic Differentials", NISTIR 8429,
2022): the ratio of each group's rate to the lowest, of the highest to the geometric mean, and the
Gini coefficient of the groups' rates x_1..x_n,

    G = n / (n - 1) * sum_i sum_j |x_i - x_j| / (2 n^2 mean(x))

with the factor n / (n - 1) that makes 1 the most unequal, as in Howard et al., "Evaluating Proposed
Fairness Models for Face Recognition Algorithms", ICPR workshops 2022 (arXiv 2203.05051).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facesearch.evaluate.bootstrap import Interval, mean_interval
from facesearch.evaluate.lists import Lists


@dataclass(frozen=True, slots=True)
class GroupRate:
    """One error rate of one group.

    Attributes:
        probes: that it was measured on.
        people: in them.
        errors: how many probes failed.
        rate: share of them; None without probes.
        rate_95: its interval.
        ratio: to the lowest rate of all groups; None where that is 0 or there is none.
    """

    probes: int
    people: int
    errors: int
    rate: float | None
    rate_95: Interval | None
    ratio: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """How far one error rate differs between the groups.

    Attributes:
        highest_over_lowest: None where the lowest is 0, or fewer than two groups have probes.
        highest_over_mean: highest over the geometric mean; None likewise.
        gini: the coefficient, 0 where all are equal; None where all are 0 or fewer than two.
    """

    highest_over_lowest: float | None
    highest_over_mean: float | None
    gini: float | None


@dataclass(frozen=True, slots=True)
class Groups:
    """The errors of each group.

    Attributes:
        key: of the metadata.
        threshold: at which they were measured.
        names: of the groups, in order of name.
        fpir: of the non-mated probes of each.
        fnir: of the mated probes of each.
        fpir_summary: of `fpir`.
        fnir_summary: of `fnir`.
        unlabelled: probes without the label, which are left out.
    """

    key: str
    threshold: float
    names: tuple[str, ...]
    fpir: tuple[GroupRate, ...]
    fnir: tuple[GroupRate, ...]
    fpir_summary: Summary
    fnir_summary: Summary
    unlabelled: int


def by_group(lists: Lists, labels: Sequence[str], key: str, threshold: float) -> Groups:
    """FPIR(N, T) and FNIR(N, 1, T) of the probes of each group.

    Args:
        lists: what was answered.
        labels: P groups, "" for none.
        key: name of the label.
        threshold: a candidate at or above it is a match.
    """
    names = tuple(sorted(set(labels) - {""}))
    alarms = lists.best_scores >= threshold
    missed = (lists.ranks != 1) | (lists.own_scores < threshold)
    of = np.array(labels, dtype=object)
    fpir = _rates([(alarms, (of == name) & ~lists.mated) for name in names], lists)
    fnir = _rates([(missed, (of == name) & lists.mated) for name in names], lists)
    return Groups(
        key=key,
        threshold=threshold,
        names=names,
        fpir=fpir,
        fnir=fnir,
        fpir_summary=summary([g.rate for g in fpir if g.rate is not None]),
        fnir_summary=summary([g.rate for g in fnir if g.rate is not None]),
        unlabelled=int((of == "").sum()),
    )


def gini(rates: Sequence[float]) -> float | None:
    """The Gini coefficient of at least two rates; None for fewer, or where all are 0."""
    x = np.array(rates, np.float64)
    n = len(x)
    if n < 2 or not x.any():
        return None
    apart = np.abs(x[:, None] - x[None, :]).sum()
    return float(n / (n - 1) * apart / (2 * n**2 * x.mean()))


def summary(rates: Sequence[float]) -> Summary:
    """How far rates differ."""
    if len(rates) < 2 or min(rates) == 0.0:
        return Summary(None, None, gini(rates))
    mean = float(np.exp(np.mean(np.log(rates))))
    return Summary(max(rates) / min(rates), max(rates) / mean, gini(rates))


def _rates(
    groups: Sequence[tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], object]], lists: Lists
) -> tuple[GroupRate, ...]:
    measured = []
    for failed, member in groups:
        rows = np.flatnonzero(np.asarray(member))
        people = lists.people[rows]
        rate = float(failed[rows].mean()) if len(rows) else None
        interval = mean_interval(failed[rows], people) if len(rows) else None
        measured.append(
            (len(rows), len(np.unique(people)), int(failed[rows].sum()), rate, interval)
        )
    lowest = min((rate for _, _, _, rate, _ in measured if rate is not None), default=0.0)
    return tuple(
        GroupRate(
            probes,
            people,
            errors,
            rate,
            interval,
            rate / lowest if rate is not None and lowest > 0.0 else None,
        )
        for probes, people, errors, rate, interval in measured
    )
