"""The error budget: every missed mate has exactly one cause.

A mated probe is missed when its identity is not the first candidate, or is below the threshold.
The causes, in the order in which they are looked for:

    unreadable       the probe photo could not be read
    no_face          no face was found in the probe
    not_enrolled     no photo of the identity could be enrolled
    index_loss       exact search over the same vectors has the mate first and above the threshold
    wrong_rank       somebody else is ahead of the mate
    below_threshold  the mate is first, and below the threshold
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from facesearch.evaluate.lists import F64, Lists, Outcome


class Cause(StrEnum):
    """Why a mate was missed."""

    UNREADABLE = "unreadable"
    NO_FACE = "no_face"
    NOT_ENROLLED = "not_enrolled"
    INDEX_LOSS = "index_loss"
    WRONG_RANK = "wrong_rank"
    BELOW_THRESHOLD = "below_threshold"


@dataclass(frozen=True, slots=True)
class Exact:
    """What comparing each probe with every template gives.

    Attributes:
        own: (P,) score of the probe's own identity; -inf where there is none, or no face.
        other: (P,) best score of another identity; likewise.
    """

    own: F64
    other: F64


@dataclass(frozen=True, slots=True)
class Miss:
    """One missed mate.

    Attributes:
        probe: its row among the lists.
        photo: name of the probe photo.
        person: whose mate it is.
        cause: why.
        own: score of its own identity; None where it has none that is known.
        best: score of the first candidate; None where there is none.
        offered: who that is; None likewise.
    """

    probe: int
    photo: str
    person: str
    cause: Cause
    own: float | None
    best: float | None
    offered: str | None


@dataclass(frozen=True, slots=True)
class Budget:
    """All missed mates at one threshold.

    Attributes:
        threshold: the one.
        mated: number of mated probes.
        counts: missed mates by cause; index_loss is None where no exact search was made.
        misses: one a missed mate; the sum of the counts.
    """

    threshold: float
    mated: int
    counts: dict[str, int | None]
    misses: tuple[Miss, ...]


def error_budget(
    lists: Lists, threshold: float, enrolled: Container[str] | None, exact: Exact | None
) -> Budget:
    """Give each missed mate its cause.

    Args:
        lists: what was answered.
        threshold: a candidate at or above it is a match.
        enrolled: the identities of which a photo was enrolled; None if that is not known.
        exact: what exact search finds; None where none was made: then nothing counts as lost by
            the index.
    """
    ranks, listed = lists.ranks, lists.own_scores
    misses = []
    for row in np.flatnonzero(lists.mated & ((ranks != 1) | (listed < threshold))).tolist():
        own = float(listed[row])
        if exact is not None and not np.isfinite(own):
            own = float(exact.own[row])
        first = int(lists.candidates[row, 0])
        misses.append(
            Miss(
                probe=row,
                photo=lists.photos[row],
                person=lists.labels[row],
                cause=_cause(lists, row, threshold, enrolled, exact),
                own=own if np.isfinite(own) else None,
                best=float(lists.scores[row, 0]) if first >= 0 else None,
                offered=lists.names[first] if first >= 0 else None,
            )
        )
    found = Counter(miss.cause for miss in misses)
    counts: dict[str, int | None] = {cause.value: found[cause] for cause in Cause}
    if exact is None:
        counts[Cause.INDEX_LOSS] = None
    if enrolled is None:
        counts[Cause.NOT_ENROLLED] = None
    return Budget(threshold, int(lists.mated.sum()), counts, tuple(misses))


def _cause(
    lists: Lists,
    row: int,
    threshold: float,
    enrolled: Container[str] | None,
    exact: Exact | None,
) -> Cause:
    if lists.outcomes[row] is Outcome.UNREADABLE:
        return Cause.UNREADABLE
    if lists.outcomes[row] is Outcome.NO_FACE:
        return Cause.NO_FACE
    if enrolled is not None and lists.labels[row] not in enrolled:
        return Cause.NOT_ENROLLED
    if int(lists.candidates[row, 0]) == int(lists.people[row]):
        return Cause.BELOW_THRESHOLD
    if exact is not None and exact.own[row] > exact.other[row]:
        return Cause.INDEX_LOSS if exact.own[row] >= threshold else Cause.BELOW_THRESHOLD
    return Cause.WRONG_RANK
