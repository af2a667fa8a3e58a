"""Calibration: from labelled photos to the threshold that keeps a stated rate of false alarms.

`calibrate` fits `FpirModel` to the scores of a labelled set, solves it for the threshold at a
gallery of N people, which may be larger than the set, and says how sure it is. What the intervals
are intervals of:

    fpir_95       the true FPIR, over endlessly many probes, that the threshold has in one gallery
                  of N people drawn from the population of the labelled set. It covers the
                  estimation of the model (a bootstrap over identities: whoever is drawn twice
                  counts twice, as probe and as gallery) and that galleries of N people differ.
    checked_95    the share of false alarms counted among m new probes at that gallery: the former,
                  and the luck of m probes (a mixture of binomials).
    threshold_95  the thresholds whose modelled FPIR are the ends of fpir_95 when the roles are
                  exchanged: where the threshold for exactly the target lies.

All three hold for probes and people like those of the labelled set, and for no others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from facesearch.errors import UsageError
from facesearch.identify import fpir
from facesearch.identify.fpir import F64, FpirModel
from facesearch.values import F32, I64

RESAMPLES = 100
"""Bootstrap resamples: the half-width of an interval is then known to 7 % (1 / sqrt(2 * 100))."""
FEWEST_PEOPLE = 30
"""People a probe must be compared with, at least, for its mean and deviation to mean anything."""
RULE_OF_THREE = 3.0
"""K probes without one false alarm show only, with 95 % confidence, that the rate is below 3 / K
(Hanley and Lippman-Hand 1983, "If nothing goes wrong, is everything all right?")."""
BEYOND = 2.0
"""Comparisons of strangers expected at or above the threshold, at least: with fewer the threshold
lies beyond nearly all data, and the tail there is a guess."""
SUSPECT = 0.05
"""A pair of people is suspected to be one person under two names when the tail expects fewer than
this many scores as high among all comparisons made."""
Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a labelled set.

    Attributes:
        scores: (P, G) float32 cosine of each probe with each gallery face.
        probes: (P,) number of the person of each probe.
        gallery: (G,) number of the person of each gallery face.
    """

    scores: F32
    probes: I64
    gallery: I64

    def __post_init__(self) -> None:
        if self.scores.shape != (len(self.probes), len(self.gallery)):
            raise ValueError("scores must be (P, G)")

    @property
    def strangers(self) -> NDArray[np.bool_]:
        """(P, G) whether probe and gallery face show different people."""
        different: NDArray[np.bool_] = self.probes[:, None] != self.gallery[None, :]
        return different

    def take(self, people: I64) -> Scores:
        """The probes and gallery faces of these people, as often as each is named."""
        times = np.bincount(people, minlength=int(max(self.probes.max(), self.gallery.max())) + 1)
        rows = np.repeat(np.arange(len(self.probes)), times[self.probes])
        columns = np.repeat(np.arange(len(self.gallery)), times[self.gallery])
        return Scores(self.scores[np.ix_(rows, columns)], self.probes[rows], self.gallery[columns])


@dataclass(frozen=True, slots=True)
class Estimate:
    """A threshold for a target rate, and how sure it is.

    Attributes:
        model: of FPIR(N, T).
        target: the FPIR asked for.
        gallery: N, people in the gallery it is for.
        threshold: cosine.
        spread: standard deviation of the log odds of the true FPIR at `threshold`, see the module.
        probes: non-mated probes it rests on.
        compared: people each of them was compared with.
    """

    model: FpirModel
    target: float
    gallery: int
    threshold: float
    spread: float
    probes: int
    compared: int

    @property
    def fpir_95(self) -> tuple[float, float]:
        """95 % interval of the true FPIR at the threshold."""
        odds = math.log(self.target / (1.0 - self.target))
        low, high = (1.0 / (1.0 + math.exp(-(odds + z * self.spread))) for z in (-Z95, Z95))
        return low, high

    @property
    def threshold_95(self) -> tuple[float, float]:
        """95 % interval of the threshold at which the true FPIR is the target."""
        low, high = self.fpir_95
        return self.model.threshold(self.gallery, high), self.model.threshold(self.gallery, low)

    def checked_95(self, probes: int) -> tuple[float, float]:
        """95 % prediction interval of the share of false alarms among `probes` new probes."""
        grid = (np.arange(201) + 0.5) / 201
        normal = np.array([NormalDist().inv_cdf(g) for g in grid.tolist()])
        odds = math.log(self.target / (1.0 - self.target)) + self.spread * normal
        rate = 1.0 / (1.0 + np.exp(-odds))
        counts = np.arange(probes + 1)
        log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, probes + 1)))))
        choose = log_factorial[-1] - log_factorial - log_factorial[::-1]
        chance = np.zeros(probes + 1)
        for p in rate.tolist():
            chance += np.exp(choose + counts * math.log(p) + (probes - counts) * math.log1p(-p))
        below = np.cumsum(chance) / chance.sum()
        low, high = np.searchsorted(below, (0.025, 0.975)).tolist()
        return low / probes, high / probes


@dataclass(frozen=True, slots=True)
class Suspect:
    """A pair of people so alike that they may be one, left out of the calibration.

    Attributes:
        probe: number of the one.
        gallery: number of the other.
        score: their highest cosine.
        expected: scores as high that the model expects among all comparisons made.
    """

    probe: int
    gallery: int
    score: float
    expected: float


def calibrate(
    data: Scores, gallery: int, targets: tuple[float, ...], resamples: int = RESAMPLES
) -> list[Estimate]:
    """The threshold for each target at a gallery of N people, with its uncertainty.

    Args:
        data: scores of a labelled set.
        gallery: N.
        targets: FPIRs asked for, between 0 and 1.
        resamples: bootstrap resamples over identities; their seed is fixed.

    Raises:
        UsageError: a target is not between 0 and 1, N is below 1, or the data do not support the
            rate: the message says which rate they do, and how many more probes are needed.
    """
    for target in targets:
        require_enough(data, gallery, target)
    strangers = data.strangers
    model = fpir.fit(data.scores, strangers)
    thresholds = [model.threshold(gallery, target) for target in targets]
    spread = np.hypot(
        _estimation(data, gallery, thresholds, resamples),
        _between_galleries(data.scores, strangers, gallery, thresholds),
    )
    compared = int(strangers.sum(axis=1).min())
    return [
        Estimate(model, target, gallery, t, s, len(data.probes), compared)
        for target, t, s in zip(targets, thresholds, spread.tolist(), strict=True)
    ]


def _estimation(data: Scores, gallery: int, thresholds: list[float], resamples: int) -> F64:
    """(T,) bootstrap deviation, over identities, of the log odds of the modelled FPIR."""
    rng = np.random.default_rng(0)
    people = np.unique(np.concatenate([data.probes, data.gallery]))
    odds = np.empty((resamples, len(thresholds)))
    for i in range(resamples):
        drawn = data.take(rng.choice(people, len(people)))
        model = fpir.fit(drawn.scores, drawn.strangers)
        rate = np.clip([model.fpir(gallery, t) for t in thresholds], 1e-9, 1.0 - 1e-9)
        odds[i] = np.log(rate / (1.0 - rate))
    return np.asarray(odds.std(axis=0, ddof=1), np.float64)


def _between_galleries(
    scores: F32, strangers: NDArray[np.bool_], gallery: int, thresholds: list[float]
) -> F64:
    """(T,) deviation of the log odds of FPIR between galleries of N people.

    The same model with the roles exchanged says how often each gallery person is the cause of a
    false alarm; the sum of N such rates varies by their variance over N.
    """
    model = fpir.fit(np.ascontiguousarray(scores.T), np.ascontiguousarray(strangers.T))
    rates = [model.each(t) for t in thresholds]
    return np.array([np.sqrt(r.var() / gallery) / max(r.mean(), 1e-300) for r in rates])


def require_enough(data: Scores, gallery: int, target: float) -> None:
    """Check that the data can support a threshold for this rate and gallery.

    Raises:
        UsageError: they cannot, see `calibrate`.
    """
    if not 0.0 < target < 1.0:
        raise UsageError(f"FPIR {target:g} is not between 0 and 1, both exclusive")
    if gallery < 1:
        raise UsageError(f"gallery of {gallery} people: calibrate for at least one")
    probes, people = len(data.probes), len(data.gallery)
    everyone = np.array_equal(data.probes, data.gallery)  # each newcomer is probe and gallery
    people -= everyone
    lowest = 1.0
    if min(probes, people) >= FEWEST_PEOPLE:
        lowest = max(RULE_OF_THREE / probes, BEYOND * gallery / (probes * people))
    if lowest <= target:
        return
    comparisons = BEYOND * gallery / target
    needed = math.sqrt(comparisons) + 1.0 if everyone else comparisons / max(people, FEWEST_PEOPLE)
    needed = max(needed, RULE_OF_THREE / target, FEWEST_PEOPLE + 1.0)
    supported = (
        f"they support {100 * _ceil(lowest):g} % at best"
        if lowest < 1.0
        else "they support no rate"
    )
    raise UsageError(
        f"too little data for FPIR {100 * target:g} % at {gallery:,} enrolled: {probes:,} non-mated"
        f" probes against {people:,} people; {supported}. Label at least "
        f"{max(1, math.ceil(needed) - probes):,} more people, or ask for a higher --fpir"
    )


def _ceil(rate: float) -> float:
    """The rate, rounded up to two digits, so that asking for it succeeds."""
    digits = 1 - math.floor(math.log10(rate))
    scale = 10.0**digits
    return math.ceil(rate * scale) / scale


def set_aside(data: Scores) -> tuple[Scores, list[Suspect]]:
    """The data without pairs of people that are too alike to be two, and those pairs.

    Both of a pair stay, compared with everybody else: the one is only made to count as the other.
    """
    strangers = data.strangers
    model = fpir.fit(data.scores, strangers)
    comparisons = int(strangers.sum())
    highest = np.where(strangers, data.scores, -1.0)
    cut = _score_expected(model, comparisons)
    found: dict[tuple[int, int], Suspect] = {}
    for row, column in np.argwhere(highest >= cut).tolist():
        a, b = sorted((int(data.probes[row]), int(data.gallery[column])))
        score = float(highest[row, column])
        if (a, b) not in found or score > found[a, b].score:
            found[a, b] = Suspect(a, b, score, comparisons * model.fmr(score))
    if not found:
        return data, []
    person = np.arange(int(max(data.probes.max(), data.gallery.max())) + 1)
    for a, b in found:
        person[person == person[b]] = person[a]
    merged = Scores(data.scores, person[data.probes], person[data.gallery])
    return merged, list(found.values())


def _score_expected(model: FpirModel, comparisons: int) -> float:
    """The cosine that the model expects to be reached by SUSPECT of this many comparisons."""
    low, high = 0.0, 1.0
    for _ in range(fpir.STEPS):
        middle = (low + high) / 2.0
        more = comparisons * model.fmr(middle) > SUSPECT
        low, high = (middle, high) if more else (low, middle)
    return high
