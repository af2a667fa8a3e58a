"""Calibrating, joined: labelled faces in, a calibration to store and what to tell about it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facesearch.identify.calibration import calibrate, set_aside
from facesearch.identify.judge import to_store
from facesearch.identify.labelled import LabelledFaces
from facesearch.identify.probability import mates
from facesearch.store.calibrations import NewCalibration, StoredCalibration
from facesearch.values import Failure


@dataclass(frozen=True, slots=True)
class Alike:
    """Two labels whose faces are too alike for two people; they were not compared."""

    first: str
    second: str
    score: float


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What `Engine.calibrate` found.

    Attributes:
        id: of the stored calibration.
        collection: name.
        fpir: the rate asked for.
        gallery: enrolled people it is for.
        threshold: cosine that keeps the rate there.
        threshold_95: 95 % interval of the threshold that keeps exactly that rate.
        fpir_95: 95 % interval of the true rate at `threshold`.
        data: what it was made from.
        people: labelled people.
        photos: of theirs with a usable face.
        mated_people: with several photos; with too few the chance of a false match is not stated.
        noise: see `facesearch.identify.probability.Mates`; None with too few mated people.
        suspects: labels to check, which may be one person under two names.
        failures: photos that could not be used.
    """

    id: int
    collection: str
    fpir: float
    gallery: int
    threshold: float
    threshold_95: tuple[float, float]
    fpir_95: tuple[float, float]
    data: str
    people: int
    photos: int
    mated_people: int
    noise: float | None
    suspects: tuple[Alike, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Learned:
    """A calibration before it is stored."""

    new: NewCalibration
    suspects: tuple[Alike, ...]

    def stored(
        self, stored: StoredCalibration, collection: str, faces: LabelledFaces
    ) -> Calibrated:
        """What to tell about it, once it has a number."""
        model = self.new.model
        own, low_high, rates = model["mates"], model["threshold_95"], model["fpir_95"]
        assert isinstance(low_high, list)
        assert isinstance(rates, list)
        own = own if isinstance(own, dict) else {}
        noise = own.get("noise")
        return Calibrated(
            id=stored.id,
            collection=collection,
            fpir=self.new.fpir,
            gallery=self.new.gallery,
            threshold=self.new.threshold,
            threshold_95=_pair(low_high),
            fpir_95=_pair(rates),
            data=self.new.data,
            people=len(faces.names),
            photos=len(faces.people),
            mated_people=int(str(own.get("people", 0))),
            noise=None if noise is None else float(str(noise)),
            suspects=self.suspects,
            failures=faces.failures,
        )


def learn(faces: LabelledFaces, scores: str, gallery: int, fpir: float, source: str) -> Learned:
    """Calibrate with labelled faces.

    Args:
        faces: of known people, as they are compared.
        scores: `judge.scores_key` of what they are.
        gallery: N, enrolled people to calibrate for.
        fpir: false-positive identification rate to keep.
        source: where the faces are from, for people.

    Raises:
        UsageError: as `facesearch.identify.calibration.calibrate`.
    """
    data, suspects = set_aside(faces.scores())
    (estimate,) = calibrate(data, gallery, (fpir,))
    own = mates(faces.vectors, faces.people)
    described = f"{estimate.probes:,} people of {source}"
    return Learned(
        to_store(estimate, own, scores, described, faces.quality),
        tuple(Alike(faces.names[s.probe], faces.names[s.gallery], s.score) for s in suspects),
    )


def _pair(values: Sequence[object]) -> tuple[float, float]:
    low, high = (float(str(v)) for v in values)
    return low, high
