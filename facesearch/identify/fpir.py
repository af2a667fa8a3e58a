"""How often strangers are taken for somebody: FPIR(N, T) modelled from labelled scores.

Some faces resemble many others, so the scores of one probe p against strangers are described by
their own mean and deviation, and what is left, standardised, is pooled over all probes:

    score of probe p against a random stranger  =  mean_p + deviation_p * Z
    q_p(T)     = P(Z >= (T - mean_p) / deviation_p)
    FPIR(N, T) = average over probes of 1 - (1 - q_p(T))^N

For one probe a gallery of N people is N independent draws, so the last line is exact whatever
gallery people have in common; only the shape of Z is assumed to be the same for all probes. It
contains FPIR = 1 - (1 - FMR)^N, the case in which all probes are alike.

Far out, Z is given by a generalised Pareto distribution of the excesses of Z^2 over a high level
(Pickands 1975; Balkema and de Haan 1974). Squaring makes the tail of a normal distribution very
nearly exponential, so that it is met at once instead of only far beyond the data; the shape
parameter then tells how much heavier or lighter than normal the tail is. Shape and scale are fitted
by L-moments (Hosking and Wallis 1987).

Means and deviations of a probe are measured on the few people it was compared with; their spread is
shrunk by the part of it that is sampling noise, since in a larger gallery that part is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facesearch.values import F32, JSONValue

F64 = NDArray[np.float64]

TAIL = 0.02
"""Share of the pooled scores that the tail is fitted to. Chosen on LFW, by 30 splits, among 0.002,
0.005, 0.01 and 0.02: the least scattered FPIR of those with the shape fitted."""
SHAPE_PRIOR = 0.1
"""Standard deviation of the shape parameter expected before any data: small, cosines of
high-dimensional vectors have nearly normal tails. It decides only where the scores are few."""
BODY = 257
"""Points at which the distribution below the tail is kept."""
STEPS = 40
"""Halvings in the search for a threshold: 2 / 2^40, far below the resolution of float32."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The distribution of pooled standardised scores: points below `start`, a formula beyond.

    Attributes:
        body: (BODY,) ascending: quantiles of Z at equal steps of probability, up to `start`.
        start: where the tail begins.
        rate: P(Z >= start).
        scale: of the excess of Z^2 over start^2.
        shape: of that excess; 0 for an exponential, as a normal Z very nearly has.
    """

    body: F64
    start: float
    rate: float
    scale: float
    shape: float

    def exceed(self, z: F64) -> F64:
        """P(Z >= z)."""
        levels = np.linspace(1.0, self.rate, len(self.body))
        below = np.interp(z, self.body, levels)
        excess = np.maximum(z * z - self.start**2, 0.0) / self.scale
        if abs(self.shape) < 1e-6:
            beyond = np.exp(-excess)
        else:
            beyond = np.maximum(1.0 + self.shape * excess, 1e-300) ** (-1.0 / self.shape)
        return np.where(z < self.start, below, self.rate * beyond)


def fit_tail(z: F32, share: float = TAIL) -> Tail:
    """The distribution of (n,) pooled standardised scores."""
    count = len(z)
    k = min(count - 1, max(30, int(count * share)))
    parted = np.partition(z, count - k)
    top = np.sort(parted[count - k :].astype(np.float64))
    start = float(max(top[0], 0.5))
    y = top**2 - start**2
    y = y[top >= start]
    k = len(y)
    # alpha_r = E[Y (1 - F(Y))^r]; Hosking and Wallis (1987), equations 4 to 6
    a0 = max(float(y.mean()), 1e-9)
    a1 = float((y * (1.0 - (np.arange(k) + 0.5) / k)).mean())
    shape = 2.0 - a0 / max(a0 - 2.0 * a1, 1e-12)
    shape *= SHAPE_PRIOR**2 / (SHAPE_PRIOR**2 + 1.3 / k)
    shape = float(np.clip(shape, -0.5, 0.5))
    body = np.quantile(parted[: count - k + 1], np.linspace(0.0, 1.0, BODY)).astype(np.float64)
    return Tail(np.minimum(body, start), start, k / count, a0 * (1.0 - shape), shape)


@dataclass(frozen=True, slots=True)
class FpirModel:
    """FPIR(N, T) of one kind of probe.

    Attributes:
        means: (P,) mean score of each probe against strangers, cosine, shrunk.
        deviations: (P,) their standard deviations, likewise.
        tail: of the pooled standardised scores.
    """

    means: F64
    deviations: F64
    tail: Tail

    def each(self, threshold: float) -> F64:
        """(P,) q_p(T): the chance of each probe to score T or more against one stranger."""
        return self.tail.exceed((threshold - self.means) / self.deviations)

    def fpir(self, gallery: int, threshold: float) -> float:
        """FPIR(N, T) at N = `gallery` people and T = `threshold`."""
        q = np.minimum(self.each(threshold), 1.0 - 1e-12)
        return float(np.mean(-np.expm1(gallery * np.log1p(-q))))

    def fmr(self, threshold: float) -> float:
        """FMR(T): two random different people score T or more."""
        return float(self.each(threshold).mean())

    def threshold(self, gallery: int, fpir: float) -> float:
        """The T at which FPIR(N, T) is `fpir`, 0..1 exclusive, for N >= 1."""
        low, high = -1.0, 1.0
        for _ in range(STEPS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self.fpir(gallery, middle) > fpir else (low, middle)
        return high

    def as_json(self) -> dict[str, JSONValue]:
        """Everything, as JSON types; `from_json` reads it."""
        return {
            "means": [round(v, 5) for v in self.means.tolist()],
            "deviations": [round(v, 5) for v in self.deviations.tolist()],
            "body": [round(v, 5) for v in self.tail.body.tolist()],
            "start": self.tail.start,
            "rate": self.tail.rate,
            "scale": self.tail.scale,
            "shape": self.tail.shape,
        }

    @staticmethod
    def from_json(data: Mapping[str, JSONValue]) -> FpirModel:
        """What `as_json` wrote."""

        def number(key: str) -> float:
            return float(np.float64(str(data[key])))

        def array(key: str) -> F64:
            return np.array(data[key], np.float64)

        tail = Tail(
            array("body"), number("start"), number("rate"), number("scale"), number("shape")
        )
        return FpirModel(array("means"), array("deviations"), tail)


def fit(scores: F32, strangers: NDArray[np.bool_], share: float = TAIL) -> FpirModel:
    """The model of a matrix of scores.

    Args:
        scores: (P, G) cosine of each probe with each gallery face.
        strangers: (P, G) whether they are different people; only those count.
        share: part of the pooled scores that the tail is fitted to.
    """
    means, deviations, z = standardised(scores, strangers)
    return FpirModel(means, deviations, fit_tail(z[strangers], share))


def standardised(scores: F32, strangers: NDArray[np.bool_]) -> tuple[F64, F64, F32]:
    """Each probe's mean and deviation, shrunk, and the (P, G) standardised scores."""
    count = strangers.sum(axis=1).astype(np.float64)
    plain_means = np.where(strangers, scores, 0).sum(axis=1, dtype=np.float64) / count
    rest = np.where(strangers, scores - plain_means[:, None].astype(np.float32), 0)
    variances = np.square(rest).sum(axis=1, dtype=np.float64) / (count - 1.0)
    pooled = float(variances.mean())
    means = _shrunk(plain_means, pooled / float(count.mean()))
    # the logarithm of a sample's standard deviation has a variance of about 1 / (2 n)
    logs = _shrunk(np.log(np.maximum(variances, 1e-12)) / 2.0, 0.5 / float(count.mean()))
    deviations = np.exp(logs)
    deviations *= np.sqrt(pooled / float(np.mean(deviations**2)))
    # a sample's own mean lies nearer to its values than the true one, by (n - 1) / n in variance
    factor = np.sqrt(count / (count - 1.0)) / deviations
    return means, deviations, rest * factor[:, None].astype(np.float32)


def _shrunk(values: F64, noise: float) -> F64:
    """Values drawn to their mean until their variance is what it would be without the noise."""
    middle, spread = float(values.mean()), float(values.var(ddof=1))
    keep = np.sqrt(max(0.0, 1.0 - noise / spread)) if spread > 0 else 0.0
    return middle + (values - middle) * keep
