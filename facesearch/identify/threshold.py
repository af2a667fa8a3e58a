"""The default threshold: measured once for the bundled model, grown with the gallery by a rule.

The cosine between two different people, far out where thresholds lie, is very nearly normal, so
two constants describe it. With FMR(T) the chance that a face of one person scores T or more against
one face of another, and N faces enrolled,

    FMR(T)     = (1 - erf((T - mean) / (deviation sqrt(2)))) / 2
    FPIR(N, T) = 1 - (1 - FMR(T))^N

`benchmarks/default_threshold.py` measures the constants and how far real galleries are off the
rule; `docs/threshold.md` tells it with the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from facesearch.errors import UsageError
from facesearch.values import ModelContract, Threshold


@dataclass(frozen=True, slots=True)
class ImpostorTail:
    """How high faces of different people score against each other, for one model.

    Attributes:
        mean: of the normal distribution whose upper tail fits, cosine.
        deviation: its standard deviation, cosine.
        lowest_fmr: the smallest FMR that the data support; below it the tail is extrapolated.
        source: the data, for people.
    """

    mean: float
    deviation: float
    lowest_fmr: float
    source: str

    def fmr(self, score: float) -> float:
        """FMR(T) at T = `score`."""
        return math.erfc((score - self.mean) / (self.deviation * math.sqrt(2.0))) / 2.0

    def fpir(self, gallery: int, score: float) -> float:
        """FPIR(N, T) at N = `gallery` templates and T = `score`."""
        fmr = self.fmr(score)
        if gallery == 0 or fmr == 1.0:
            return float(gallery > 0)
        return -math.expm1(gallery * math.log1p(-fmr))

    def threshold(self, gallery: int, fpir: float) -> float:
        """The T at which FPIR(N, T) is `fpir`, 0..1 exclusive, for N >= 1."""
        fmr = -math.expm1(math.log1p(-fpir) / gallery)
        return self.mean - self.deviation * NormalDist().inv_cdf(fmr)

    def supports(self, fpir: float) -> int:
        """The largest N for which the threshold at `fpir` is measured and not extrapolated."""
        return int(math.log1p(-fpir) / math.log1p(-self.lowest_fmr))


_SFACE = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"
_PLAIN = "112x112 RGB (x-127.5)/128"
_MIRRORED = f"{_PLAIN}, 2 up, averaged with its mirror image 2 down"
_UNMOVED = f"{_PLAIN}, averaged with its mirror image"

MEASURED = {
    (_SFACE, _PLAIN, False): ImpostorTail(0.0932, 0.0878, 2.4e-6, "LFW (2,869 people)"),
    (_SFACE, _PLAIN, True): ImpostorTail(-0.012, 0.0971, 2.4e-6, "LFW (2,869 people)"),
    (_SFACE, _UNMOVED, False): ImpostorTail(0.0925, 0.0886, 2.4e-6, "LFW (2,869 people)"),
    (_SFACE, _UNMOVED, True): ImpostorTail(-0.0159, 0.0985, 2.4e-6, "LFW (2,869 people)"),
    (_SFACE, _MIRRORED, False): ImpostorTail(0.0924, 0.0887, 2.4e-6, "LFW (2,869 people)"),
    (_SFACE, _MIRRORED, True): ImpostorTail(-0.0113, 0.0974, 2.4e-6, "LFW (2,869 people)"),
}
"""By `ModelContract.sha256`, `.preprocessing`, and whether vectors are centred; from
benchmarks/records/default_threshold.json."""


def default_threshold(
    contract: ModelContract, gallery: int, fpir: float, centred: bool = False
) -> Threshold:
    """The threshold at which a stranger is taken for somebody with probability `fpir`.

    Args:
        contract: the model of the collection.
        gallery: N, the number of templates searched, identities where each has one, else enrolled
            faces: each is one more that a stranger may resemble. With an empty gallery it is the
            threshold for one.
        fpir: false-positive identification rate wanted, between 0 and 1.
        centred: whether vectors are centred before they are compared.

    Raises:
        UsageError: nothing was measured for this model, or `fpir` is not between 0 and 1.
    """
    tail = _tail(contract, centred)
    if not 0.0 < fpir < 1.0:
        raise UsageError(f"FPIR {fpir:g} is not between 0 and 1, both exclusive")
    origin = f"FPIR {100 * fpir:g} % at {gallery:,} enrolled, measured on {tail.source}"
    if gallery > tail.supports(fpir):
        origin += f", extrapolated beyond {tail.supports(fpir):,}"
    return Threshold(tail.threshold(max(gallery, 1), fpir), origin, fpir, gallery)


def expected_fpir(
    contract: ModelContract, gallery: int, score: float, centred: bool = False
) -> float:
    """The chance that a stranger scores `score` or more against any of N templates.

    Args:
        contract: the model of the collection.
        gallery: N, the number of templates searched.
        score: cosine.
        centred: whether vectors are centred before they are compared.

    Raises:
        UsageError: nothing was measured for this model.
    """
    return _tail(contract, centred).fpir(gallery, score)


def _tail(contract: ModelContract, centred: bool) -> ImpostorTail:
    tail = MEASURED.get((contract.sha256, contract.preprocessing, centred))
    if tail is None:
        raise UsageError(
            f"no default threshold was measured for model '{contract.name}' "
            f"({contract.sha256[:12]}); set one with --threshold"
        )
    return tail
