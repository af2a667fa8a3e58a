"""The chance that a candidate is a false match, and when two candidates are too close to call.

Let pi be the prior: the chance, before looking, that the person in the probe is enrolled. With g
and G the density and distribution of the score of a person against their own enrolled face, and F_N
the distribution of the best of N strangers, F_N(s) = 1 - FPIR(N, s), with density f_N, the best
candidate has the score s

    and is right   with density  pi g(s) F_(N-1)(s)
    and is wrong   with density  pi G(s) f_(N-1)(s) + (1 - pi) f_N(s)

and `odds` is their ratio. Candidates of one probe are different people, of whom at most one can be
right, so with the odds o_i of every candidate of a list

    P(candidate i is right) = o_i / (1 + sum of o_j)

which for a lone candidate is Bayes' rule, and for two that are equally good leaves each at most one
half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facesearch.errors import UsageError
from facesearch.identify.fpir import F64, FpirModel
from facesearch.values import F32, I64, JSONValue

PRIOR = 0.5
"""The chance that a probe shows somebody enrolled, unless stated otherwise."""
FEWEST_MATES = 30
"""People with several photos, at least, for the distribution of their scores to mean anything."""
LEVELS = 201
"""Quantiles by which the scores between photos of one person are kept."""
STEP = 0.005
"""Half the interval of cosine over which densities of strangers are taken."""
MISLABELLED = 1e-3
"""Share of mated scores taken to be anywhere between -1 and 1: labels are not perfect, and no
candidate is certain."""


@dataclass(frozen=True, slots=True)
class Mates:
    """Scores between photos of one person.

    Attributes:
        quantiles: (L,) ascending, at equal steps of probability; every person weighs the same.
        bandwidth: of the Gaussian kernel that makes a density of them, by Silverman's rule.
        noise: standard deviation of the change of the difference of two candidates' scores when
            another photo of the same probe person is used.
        people: with two photos or more.
    """

    quantiles: F64
    bandwidth: float
    noise: float
    people: int

    def density(self, score: float) -> float:
        """g(s), a chance per unit of cosine."""
        z = (score - self.quantiles) / self.bandwidth
        kernel = np.exp(-z * z / 2.0) / (np.sqrt(2.0 * np.pi) * self.bandwidth)
        return (1.0 - MISLABELLED) * float(kernel.mean()) + MISLABELLED / 2.0

    def below(self, score: float) -> float:
        """G(s): the share of mated scores below s."""
        levels = np.linspace(0.0, 1.0, len(self.quantiles))
        return float(np.interp(score, self.quantiles, levels))

    def as_json(self) -> dict[str, JSONValue]:
        """Everything, as JSON types; `from_json` reads it."""
        return {
            "quantiles": [round(v, 5) for v in self.quantiles.tolist()],
            "bandwidth": self.bandwidth,
            "noise": self.noise,
            "people": self.people,
        }

    @staticmethod
    def from_json(data: Mapping[str, JSONValue]) -> Mates:
        """What `as_json` wrote."""
        return Mates(
            np.array(data["quantiles"], np.float64),
            float(str(data["bandwidth"])),
            float(str(data["noise"])),
            int(str(data["people"])),
        )


def mates(vectors: F32, people: I64) -> Mates | None:
    """What photos of the same people score, from labelled faces; None where too few have several.

    The first face of each person stands for the enrolled one.

    Args:
        vectors: (N, D) unit norm.
        people: (N,) number of the person of each.
    """
    _, first, person, counts = np.unique(
        people, return_index=True, return_inverse=True, return_counts=True
    )
    several = np.flatnonzero(counts >= 2)
    if len(several) < FEWEST_MATES:
        return None
    probes = np.setdiff1d(np.flatnonzero(counts[person] >= 2), first)
    owner = person[probes]
    scores = np.einsum("nd,nd->n", vectors[probes], vectors[first[owner]]).astype(np.float64)
    weights = 1.0 / (counts[owner] - 1)
    order = np.argsort(scores)
    reached = np.cumsum(weights[order]) - weights[order] / 2.0
    levels = np.linspace(0.0, 1.0, LEVELS)
    quantiles = np.interp(levels, reached / weights.sum(), scores[order])
    spread = min(
        quantiles.std(), float(np.subtract(*np.interp((0.75, 0.25), levels, quantiles))) / 1.34
    )
    bandwidth = max(0.9 * spread * len(several) ** -0.2, STEP)
    return Mates(quantiles, float(bandwidth), _noise(vectors, person, first, several), len(several))


def _noise(vectors: F32, person: I64, first: I64, several: I64) -> float:
    """How much another photo of a probe person changes the difference of two strangers' scores."""
    total, count = 0.0, 0
    for one in several[:: max(1, len(several) // 200)].tolist():
        a, b = vectors[np.flatnonzero(person == one)[:2]]
        change = np.delete(vectors[first], one, axis=0) @ (a - b)
        # two independent such changes make the change of a difference
        total += 2.0 * float(change.var())
        count += 1
    return float(np.sqrt(total / count))


def odds(model: FpirModel, own: Mates, gallery: int, score: float, prior: float = PRIOR) -> float:
    """Odds that a best candidate of this score among N people is right.

    Raises:
        UsageError: `prior` is not between 0 and 1.
    """
    if not 0.0 < prior < 1.0:
        raise UsageError(f"prior {prior:g} is not between 0 and 1, both exclusive")
    others = max(gallery - 1, 0)
    right = prior * own.density(score) * (1.0 - model.fpir(others, score))
    wrong = prior * own.below(score) * _best_density(model, others, score)
    wrong += (1.0 - prior) * _best_density(model, gallery, score)
    return right / max(wrong, 1e-12)


def _best_density(model: FpirModel, gallery: int, score: float) -> float:
    """f_N(s): density of the best of N strangers."""
    drop = model.fpir(gallery, score - STEP) - model.fpir(gallery, score + STEP)
    return max(drop / (2.0 * STEP), 0.0)


def false_match(all_odds: Sequence[float]) -> list[float]:
    """The chance that each candidate of one list is a false match, from the `odds` of each."""
    total = 1.0 + sum(all_odds)
    return [1.0 - o / total for o in all_odds]
