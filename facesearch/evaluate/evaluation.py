"""An evaluation: what searching gave, and every number that follows from it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from facesearch.errors import UsageError
from facesearch.evaluate.audit import Audit, Twins, audit
from facesearch.evaluate.budget import Budget, Exact, error_budget
from facesearch.evaluate.groups import Groups, by_group
from facesearch.evaluate.lists import Lists, Outcome
from facesearch.evaluate.metrics import FPIRS
from facesearch.evaluate.one_to_many import (
    RANKS,
    Band,
    Point,
    Rank,
    Size,
    at_fpirs,
    at_threshold,
    by_rank,
    least_fpir,
    strangers_needed,
    sweep,
)
from facesearch.evaluate.one_to_one import Comparisons, OneToOne, one_to_one
from facesearch.values import Threshold

BINS = 60
"""Bins of the histograms of scores."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What searching gave.

    Attributes:
        source: what was searched with what, a line.
        lists: what was answered.
        threshold: the one in use; None where none is known.
        enrolled: identities of which a photo was enrolled; None where that is not known.
        exact: exact search of the missed mates; None where none was made.
        twins: enrolled pairs above the threshold; None where templates were not compared.
        comparisons: for one-to-one; None where there are candidate lists alone.
        groups: key of the label, and the P probes' labels; None without.
        notes: what is to be known, a line each.
    """

    source: str
    lists: Lists
    threshold: Threshold | None = None
    enrolled: Container[str] | None = None
    exact: Exact | None = None
    twins: Sequence[Twins] | None = None
    comparisons: Comparisons | None = None
    groups: tuple[str, Sequence[str]] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """Shares of scores in evenly spaced bins.

    Attributes:
        edges: BINS + 1 ascending.
        mated: BINS shares: scores of mated probes' own identities, those listed.
        nonmated: BINS shares: best scores of non-mated probes.
    """

    edges: tuple[float, ...]
    mated: tuple[float, ...]
    nonmated: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every number.

    Attributes:
        source: what was searched with what, a line.
        gallery: N, number of identities searched.
        mated: number of mated probes.
        nonmated: number of non-mated probes.
        no_face: probes without a face.
        unreadable: probes that could not be read.
        threshold: in use; None where none is known.
        at: errors at that threshold; None likewise.
        points: errors at each FPIR asked for that the probes support.
        unsupported: FPIRs asked for that they do not.
        strangers: people among the non-mated probes.
        least_fpir: the smallest FPIR that so many support, by the rule of three.
        ranks: investigation mode.
        det: FNIR against FPIR, over all thresholds.
        sizes: errors in smaller galleries; empty where no FPIR asked for is supported.
        sizes_unstated: sizes that the candidate lists are too short for.
        size_target: FPIR that `sizes` refers to; None likewise.
        histogram: of scores.
        one_to_one: None where there are candidate lists alone, or too few faces.
        budget: causes of the missed mates, at `budget.threshold`.
        groups: None without labels.
        audit: labels in doubt.
        notes: what is to be known, a line each.
    """

    source: str
    gallery: int
    mated: int
    nonmated: int
    no_face: int
    unreadable: int
    threshold: Threshold | None
    at: Point | None
    points: tuple[Point, ...]
    unsupported: tuple[float, ...]
    strangers: int
    least_fpir: float
    ranks: tuple[Rank, ...]
    det: Band
    sizes: tuple[Size, ...]
    sizes_unstated: tuple[int, ...]
    size_target: float | None
    histogram: Histogram
    one_to_one: OneToOne | None
    budget: Budget
    groups: Groups | None
    audit: Audit
    notes: tuple[str, ...]


def evaluate(found: Evidence, fpirs: Sequence[float] = FPIRS) -> Evaluation:
    """Measure everything.

    The error budget, the groups and the audit are taken at the threshold in use; where none is
    known, at the smallest FPIR that was asked for and that the probes support.

    Args:
        found: what searching gave.
        fpirs: false-positive identification rates to find thresholds for.

    Raises:
        UsageError: there are no mated or no non-mated probes, a rate is out of range, or none is
            supported and there is no threshold.
    """
    lists = found.lists
    require_both_kinds(lists.mated.tolist())
    require_rates(fpirs)
    scores = lists.search_scores()
    strangers = len(np.unique(lists.people[~lists.mated]))
    least = least_fpir(strangers)
    stated = sorted({f for f in fpirs if f >= least}, reverse=True)
    points, det = at_fpirs(scores, stated)
    limit = found.threshold.value if found.threshold else None
    working = limit if limit is not None else points[-1].threshold if points else None
    if working is None:
        raise UsageError(
            f"non-mated probes of {strangers} people support no FPIR asked for: "
            f"{min(fpirs):g} takes {strangers_needed(min(fpirs)):,}; give more of them, a higher "
            "--fpir, or a --threshold"
        )
    sizes, short = sweep(lists, stated[-1], limit) if stated else ((), ())
    outcomes = list(lists.outcomes)
    return Evaluation(
        source=found.source,
        gallery=lists.gallery,
        mated=int(lists.mated.sum()),
        nonmated=int((~lists.mated).sum()),
        no_face=outcomes.count(Outcome.NO_FACE),
        unreadable=outcomes.count(Outcome.UNREADABLE),
        threshold=found.threshold,
        at=None if limit is None else at_threshold(scores, limit),
        points=points,
        unsupported=tuple(sorted({f for f in fpirs if f < least}, reverse=True)),
        strangers=strangers,
        least_fpir=least,
        ranks=by_rank(scores, [r for r in RANKS if r == 1 or r <= lists.candidates.shape[1]]),
        det=det,
        sizes=sizes,
        sizes_unstated=short,
        size_target=stated[-1] if stated else None,
        histogram=histogram(lists),
        one_to_one=None
        if found.comparisons is None
        else one_to_one(found.comparisons, threshold=limit),
        budget=error_budget(lists, working, found.enrolled, found.exact),
        groups=None
        if found.groups is None
        else by_group(lists, found.groups[1], found.groups[0], working),
        audit=audit(lists, working, found.twins),
        notes=found.notes,
    )


def require_both_kinds(mated: Sequence[bool]) -> None:
    """Complain unless there are mated probes and non-mated ones.

    Raises:
        UsageError: a kind is missing.
    """
    for kind, name in ((True, "mated"), (False, "non-mated")):
        if kind not in mated:
            raise UsageError(
                f"no {name} probes: an evaluation needs photos of people who are enrolled "
                "and of people who are not"
            )


def require_rates(fpirs: Sequence[float]) -> None:
    """Complain about rates that cannot be.

    Raises:
        UsageError: one is not between 0 and 1.
    """
    for fpir in fpirs:
        if not 0.0 < fpir < 1.0:
            raise UsageError(f"FPIR {fpir:g} is not between 0 and 1, both exclusive")


def histogram(lists: Lists) -> Histogram:
    """Where the scores lie."""
    own, best = lists.own_scores[lists.mated], lists.best_scores[~lists.mated]
    own, best = own[np.isfinite(own)], best[np.isfinite(best)]
    both = np.concatenate([own, best])
    low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    mated = np.histogram(own, edges)[0] / max(1, len(own))
    nonmated = np.histogram(best, edges)[0] / max(1, len(best))
    return Histogram(tuple(edges.tolist()), tuple(mated.tolist()), tuple(nonmated.tolist()))
