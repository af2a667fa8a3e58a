"""The policy at the gate: which faces are stored, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass

from facesearch.faces.extract import Extraction
from facesearch.faces.quality import Measures, quality, why
from facesearch.store.outcomes import Extracted, FileStamp
from facesearch.values import F32, Detections, Embeddings

ELSEWHERE = "shown better in another frame of this video"
"""Why a face in a frame that is kept for another's sake is not stored."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a face must be to be stored.

    Attributes:
        min_quality: least quality, 0 to 1.
        min_face: least shorter side of its box, pixels of the original photo.
        crops: whether its pixels are stored, too.
    """

    min_quality: float = 0.0
    min_face: float = 0.0
    crops: bool = False

    def __call__(self, detections: Detections, measures: Measures, quality: F32) -> tuple[str, ...]:
        """Why each of N faces is rejected; "" for those that are stored."""
        sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).min(axis=1)
        return tuple(
            f"{side:.0f} pixels, less than min_face ({self.min_face:g})"
            if side < self.min_face
            else f"quality {figure:.2f}, less than min_quality ({self.min_quality:g}): "
            f"{why(measures, row)}"
            if figure < self.min_quality
            else ""
            for row, (side, figure) in enumerate(zip(sides, quality.tolist(), strict=True))
        )


def assessed(gate: Gate, file: FileStamp, found: Extraction, embedded: Embeddings) -> Extracted:
    """A photo's faces with their quality, and which of them are to be stored."""
    figures = quality(found.measures, embedded)
    return Extracted(
        file,
        found.sha256,
        found.size,
        found.detections,
        embedded,
        figures,
        gate(found.detections, found.measures, figures),
        found.facts,
        found.crops if gate.crops else None,
    )
