"""How scores are judged at a gallery's size: threshold, expected FPIR, chance of a false match.

In order of precedence: a threshold set by the caller, the collection's active calibration, the
default measured for the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from facesearch.errors import UsageError
from facesearch.identify import probability
from facesearch.identify.calibration import RULE_OF_THREE, Estimate
from facesearch.identify.fpir import FpirModel
from facesearch.identify.probability import Mates
from facesearch.identify.threshold import default_threshold, expected_fpir
from facesearch.index.adaptation import Adaptation
from facesearch.store.calibrations import NewCalibration, StoredCalibration
from facesearch.values import F32, JSONValue, ModelContract, Threshold

GROWTH = 2.0
"""A calibration is stale when the gallery is more than this many times what it was made for."""
UNUSUAL = 0.05
"""Share of the faces it rests on, the poorest, below whose quality a probe is unlike them."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How scores are judged at one gallery size.

    Attributes:
        threshold: the one that applies.
        expected_fpir: score to the FPIR of a threshold there; None where nothing was measured.
        false_match: scores of a candidate list to the chance that each is a false match; None each
            where there is no calibration with mated scores.
        noise: lead of one candidate over another that another photo of the probe would change, one
            standard deviation, cosine; None likewise.
        warnings: what is to be known about the threshold, a line each.
        usual: quality of a probe's face from which on the rate is known to hold.
        poor: what to say of a probe's face below it.
    """

    threshold: Threshold
    expected_fpir: Callable[[float], float | None] = lambda score: None
    false_match: Callable[[Sequence[float]], Sequence[float | None]] = lambda scores: [
        None for _ in scores
    ]
    noise: float | None = None
    warnings: tuple[str, ...] = ()
    usual: float = 0.0
    poor: str = ""

    def warnings_for(self, quality: float) -> tuple[str, ...]:
        """`warnings`, and what is to be known of a probe's face of that quality."""
        return self.warnings if quality >= self.usual else (*self.warnings, self.poor)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a gallery of any size is judged by.

    Attributes:
        contract: the model of the scores.
        centred: whether vectors are centred before they are compared.
        threshold: set by the caller; None to work it out.
        fpir: asked for by the caller; None for the calibration's, else `default_fpir`.
        default_fpir: from the settings.
        prior: chance that a probe shows somebody enrolled.
        calibration: the active one; None where there is none.
        adaptation: what is done to vectors after centring; None for nothing.
    """

    contract: ModelContract
    centred: bool
    threshold: float | None
    fpir: float | None
    default_fpir: float
    prior: float
    calibration: StoredCalibration | None
    adaptation: Adaptation | None = None

    def __call__(self, gallery: int) -> Judgement:
        """How scores against N templates are judged.

        Raises:
            UsageError: a rate or the prior is out of range, or the model has neither a calibration
                nor a measured default and no threshold was set.
        """
        stored = self.calibration
        warnings: list[str] = []
        scores = scores_key(self.contract, self.centred, self.adaptation)
        if stored is not None and stored.values.contract != scores:
            warnings.append(
                f"calibration {stored.id} is of another model, or of other scores, and not used; "
                "calibrate again"
            )
            stored = None
        if stored is None:
            return self._uncalibrated(gallery, tuple(warnings))
        values = stored.values
        rate = values.fpir if self.fpir is None else self.fpir
        if not 0.0 < rate < 1.0:
            raise UsageError(f"FPIR {rate:g} is not between 0 and 1, both exclusive")
        if gallery > GROWTH * values.gallery:
            warnings.append(
                f"calibration {stored.id} was made for {values.gallery:,} enrolled and there "
                f"are {gallery:,}: its threshold was adjusted, but calibrate again"
            )
        if self.threshold is None and rate < RULE_OF_THREE / values.probes:
            warnings.append(
                f"calibration {stored.id} rests on {values.probes:,} probes and supports no FPIR "
                f"below {100 * RULE_OF_THREE / values.probes:.2g} %"
            )
        model, own = from_json(values.model)
        size = max(gallery, 1)
        threshold = set_by_caller(self.threshold)
        if threshold is None:
            origin = f"FPIR {100 * rate:g} % at {gallery:,} enrolled, calibration {stored.id}"
            origin += f" on {values.data}"
            threshold = Threshold(model.threshold(size, rate), origin, rate, gallery)
        usual = usual_quality(values.model)
        judged = Judgement(
            threshold,
            partial(model.fpir, size),
            warnings=tuple(warnings),
            usual=usual,
            poor=f"the face is poorer than {100 * (1 - UNUSUAL):.0f} % of those that calibration "
            f"{stored.id} rests on (quality below {usual:.2f}): whether its rate holds for such "
            "photos is not known; calibrate with photos like this one",
        )
        if own is None:
            return judged

        def false_match(scores: Sequence[float]) -> list[float]:
            return probability.false_match(
                [probability.odds(model, own, size, s, self.prior) for s in scores]
            )

        return replace(judged, false_match=false_match, noise=own.noise)

    def _uncalibrated(self, gallery: int, warnings: tuple[str, ...]) -> Judgement:
        rate = self.default_fpir if self.fpir is None else self.fpir
        threshold = set_by_caller(self.threshold)
        if threshold is None:
            threshold = default_threshold(self.contract, gallery, rate, self.centred)
            if self.adaptation is not None:
                threshold = replace(
                    threshold,
                    value=self.adaptation.threshold(threshold.value),
                    origin=f"{threshold.origin}, adapted to this collection",
                )

        def expected(score: float) -> float | None:
            if self.adaptation is not None:
                score = self.adaptation.plain(score)
            try:
                return expected_fpir(self.contract, gallery, score, self.centred)
            except UsageError:  # nothing was measured for this model
                return None

        return Judgement(threshold, expected, warnings=warnings)


def set_by_caller(value: float | None) -> Threshold | None:
    """A threshold set by the caller, if one was."""
    return None if value is None else Threshold(value, "set by the caller")


def scores_key(contract: ModelContract, centred: bool, adaptation: Adaptation | None = None) -> str:
    """What scores are of: equal keys mean comparable scores."""
    parts = [contract.key]
    parts += ["centred"] if centred else []
    parts += [f"adapted {adaptation.key}"] if adaptation is not None else []
    return "|".join(parts)


def to_store(
    estimate: Estimate, own: Mates | None, scores: str, data: str, quality: F32
) -> NewCalibration:
    """A calibration as the store keeps it; `from_json` reads its model.

    Args:
        estimate: what was found about strangers.
        own: what was found about mates.
        scores: `scores_key` of what was compared.
        data: what it was made from, for people.
        quality: of the faces compared, 0 to 1; empty if it is not known.
    """
    model: dict[str, JSONValue] = {
        "strangers": estimate.model.as_json(),
        "mates": own.as_json() if own else None,
        "spread": estimate.spread,
        "compared": estimate.compared,
        "fpir_95": list(estimate.fpir_95),
        "threshold_95": list(estimate.threshold_95),
        "usual_quality": float(np.quantile(quality, UNUSUAL)) if len(quality) else 0.0,
    }
    return NewCalibration(
        scores,
        data,
        estimate.gallery,
        estimate.probes,
        estimate.target,
        estimate.threshold,
        model,
    )


def usual_quality(model: Mapping[str, JSONValue]) -> float:
    """The quality that all but the poorest faces had, of `to_store`'s model; 0 if not known."""
    figure = model.get("usual_quality", 0.0)  # older calibrations have none
    assert isinstance(figure, int | float)
    return float(figure)


def from_json(model: object) -> tuple[FpirModel, Mates | None]:
    """The models that `to_store` wrote."""
    assert isinstance(model, dict)
    own = model["mates"]
    return FpirModel.from_json(model["strangers"]), Mates.from_json(own) if own else None
