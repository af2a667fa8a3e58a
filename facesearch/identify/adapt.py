"""Learning an adaptation from labelled people, and whether it helps people it was not learned from.

The map is within-class whitening: with S the covariance of photos about their person's mean, D the
dimension and r the shrinkage,

    W = ((1 - r) S D / trace(S) + r I)^(-1/2)

(Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004).
People are halved at random. In each half r is chosen by halving once more, W is learned with it,
and the people of the other half are searched: everybody is judged by a map that has not seen them.
Only if the 95 % interval of the gain, by bootstrap over people, lies above 0 is a map learned from
all accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import UsageError
from facesearch.evaluate.bootstrap import draws_of, middle
from facesearch.index.adaptation import Adaptation, Evidence, adapted
from facesearch.values import F32, I64

SHRINKAGES = (0.3, 0.5, 0.7, 0.9)
RATES = (0.1, 0.03, 0.01)
"""False-positive rates over which the share of people found is averaged."""
FEWEST = 60
"""People with two photos, at least: 15 to judge with while r is chosen."""
MOST_PEOPLE = 4000
"""People learned from and searched among, at most; of more, so many are drawn at random."""
RESAMPLES = 500

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Adapted:
    """What `adapt` found.

    Attributes:
        accepted: whether people are found better with it, and it may be applied.
        adaptation: learned from everybody.
    """

    accepted: bool
    adaptation: Adaptation


@dataclass(frozen=True, slots=True)
class _Searched:
    """Each probe against one photo of everybody else, and of their own person.

    Attributes:
        own: (P,) score of the probe's own person.
        other: (P,) best score of anybody else.
        people: (P,) number of the person.
    """

    own: F32
    other: F32
    people: I64

    def found(self, times: F64) -> F64:
        """(B,) share of probes found, mean over `RATES`, where people count (B, P) `times`.

        Every probe is a mated one and, its own person left out, a non-mated one.
        """
        weights = times[:, self.people]
        total = weights.sum(axis=1)
        order = np.argsort(-self.other)
        alarms = np.cumsum(weights[:, order], axis=1)
        rates = []
        for rate in RATES:
            last = (alarms > rate * total[:, None]).argmax(axis=1)
            limit = self.other[order][last]
            hit = (self.own >= self.other) & (self.own > limit[:, None])
            rates.append((weights * hit).sum(axis=1) / np.maximum(total, 1.0))
        return np.asarray(np.mean(rates, axis=0))


def adapt(vectors: F32, people: I64, contract: str, seed: int = 0) -> Adapted:
    """Learn a map, and judge it on people it was not learned from.

    Args:
        vectors: (N, D) centred unit vectors.
        people: (N,) number of the person of each.
        contract: key of the model contract of the vectors.
        seed: of the halves and draws.

    Raises:
        UsageError: too few people have two photos.
    """
    rng = np.random.default_rng(seed)
    vectors, people = _drawn(vectors, people, rng)
    count = int(people.max(initial=-1)) + 1
    several = np.flatnonzero(np.bincount(people, minlength=count) > 1)
    if len(several) < FEWEST:
        raise UsageError(
            f"{len(several)} people have two photos or more; learning an adaptation, and telling "
            f"whether it helps, takes {FEWEST}: enrol {FEWEST - len(several)} more"
        )
    half = np.zeros(count, np.bool_)
    half[rng.permutation(count)[: count // 2]] = True
    once = np.ones((1, count))
    times = np.concatenate([once, draws_of(count, RESAMPLES, rng)])
    before, after, pairs = [], [], []
    for part in (half, ~half):
        learned, judged = ~part[people], part[people]
        known = vectors[learned], people[learned]
        matrix = whitening(*known, _chosen(*known, rng))
        mapped = _mapped(vectors[judged], matrix)
        before.append(_search(vectors[judged], people[judged]))
        after.append(_search(mapped, people[judged]))
        pairs.append(_strangers(vectors[judged], mapped, people[judged]))
    gains = _mean(after, times) - _mean(before, times)
    shrinkage = min(0.9, _chosen(vectors, people, rng))
    offset, slope = _scale([p[0] for p in pairs], [p[1] for p in pairs])
    low, high = middle(gains[1:])
    evidence = Evidence(
        people=len(several),
        photos=int(np.isin(people, several).sum()),
        shrinkage=shrinkage,
        before=float(_mean(before, once)[0]),
        after=float(_mean(after, once)[0]),
        gain_95=(low, high),
        offset=offset,
        slope=slope,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        contract=contract,
    )
    return Adapted(low > 0.0, Adaptation(whitening(vectors, people, shrinkage), evidence))


def whitening(vectors: F32, people: I64, shrinkage: float) -> F32:
    """(D, D) the map, see the module; the identity at shrinkage 1."""
    _, whose, counts = np.unique(people, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), vectors.shape[1]))
    np.add.at(means, whose, vectors.astype(np.float64))
    within = vectors - (means / counts[:, None])[whose]
    covariance = within.T @ within / max(1, len(vectors) - len(counts))
    dim = len(covariance)
    scaled = covariance * dim / max(float(np.trace(covariance)), 1e-12)
    values, basis = np.linalg.eigh((1 - shrinkage) * scaled + shrinkage * np.identity(dim))
    return np.asarray((basis / np.sqrt(values)) @ basis.T, np.float32)


def _chosen(vectors: F32, people: I64, rng: np.random.Generator) -> float:
    """The shrinkage that finds most people by maps of the other half of them; 1 for no map."""
    labels = np.unique(people)
    half = np.isin(people, rng.permutation(labels)[: len(labels) // 2])
    once = np.ones((1, int(people.max()) + 1))
    found = {1.0: 0.0} | dict.fromkeys(SHRINKAGES, 0.0)
    for part in (half, ~half):
        for shrinkage in found:
            matrix = whitening(vectors[~part], people[~part], shrinkage)
            searched = _search(_mapped(vectors[part], matrix), people[part])
            found[shrinkage] += float(searched.found(once)[0])
    return max(found, key=lambda shrinkage: (found[shrinkage], shrinkage))


def _search(vectors: F32, people: I64) -> _Searched:
    """The first photo of each person is enrolled; all others search."""
    labels, first, owner = np.unique(people, return_index=True, return_inverse=True)
    probes = np.setdiff1d(np.arange(len(people)), first)
    scores = vectors[probes] @ vectors[first].T
    at = np.arange(len(probes)), owner[probes]
    own = scores[at]
    scores[at] = -np.inf
    other = scores.max(axis=1, initial=-1.0) if len(labels) > 1 else np.full(len(probes), -1.0)
    return _Searched(own, np.asarray(other, np.float32), people[probes])


def _mean(halves: list[_Searched], times: F64) -> F64:
    """(B,) share found in both halves, each probe weighing the same."""
    weights = [times[:, one.people].sum(axis=1) for one in halves]
    total = sum(one.found(times) * weight for one, weight in zip(halves, weights, strict=True))
    return np.asarray(total / np.maximum(sum(weights), 1.0), np.float64)


def _mapped(vectors: F32, matrix: F32) -> F32:
    nothing = Evidence(0, 0, 0.0, 0.0, 0.0, (0.0, 0.0), 0.0, 1.0, "", "")
    return adapted(vectors, Adaptation(matrix, nothing))


def _strangers(plain: F32, mapped: F32, people: I64) -> tuple[F32, F32]:
    """Scores of all pairs of people, by their first photos, without the map and with it."""
    first = np.unique(people, return_index=True)[1]
    upper = np.triu_indices(len(first), 1)
    return (plain[first] @ plain[first].T)[upper], (mapped[first] @ mapped[first].T)[upper]


def _scale(before: list[F32], after: list[F32]) -> tuple[float, float]:
    """Offset and slope that take the high scores of strangers before to those after."""
    plain, mapped = np.concatenate(before), np.concatenate(after)
    shares = 1.0 - np.geomspace(0.05, max(1e-4, 20.0 / len(plain)), 20)
    slope, offset = np.polyfit(np.quantile(plain, shares), np.quantile(mapped, shares), 1)
    return float(offset), float(slope)


def _drawn(vectors: F32, people: I64, rng: np.random.Generator) -> tuple[F32, I64]:
    """At most `MOST_PEOPLE`, numbered without a gap."""
    labels = np.unique(people)
    if len(labels) > MOST_PEOPLE:
        labels = np.sort(rng.choice(labels, MOST_PEOPLE, replace=False))
        kept = np.isin(people, labels)
        vectors, people = vectors[kept], people[kept]
    return vectors, np.searchsorted(labels, people).astype(np.int64)
