"""What worsening photos does to identification: FNIR by blur, size, compression, cover and pose.

    python -m benchmarks.degrade [ROOT] [--every N] [--faces NPZ]

Every N-th mated probe of ROOT (FACESEARCH_EVAL_DATA/lfw-dev unless given) and as many strangers are
made worse *as photos*, then decoded, looked for, aligned, embedded and searched like any photo, so
that a face that is no longer found counts as missed. The gallery is the protocol's, one photo a
person; the threshold is the default one for it at FPIR 1 %. Pose cannot be worsened in a picture:
there the probes are grouped by the pose they have, and turned in the plane.

Writes `records/degrade.json`, which docs/quality.md quotes and `benchmarks.plots` draws.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.faces import Faces, arguments, embedded, mean_of
from benchmarks.record import evaluation_data, header, write
from facesearch.evaluate.bootstrap import mean_interval
from facesearch.evaluate.protocol import read_protocol
from facesearch.faces.embed import load_embedder
from facesearch.faces.extract import Extraction, Extractor, principal
from facesearch.faces.mirror import MirroredEmbedder
from facesearch.faces.quality import quality, why
from facesearch.identify.threshold import default_threshold
from facesearch.index.centring import centred
from facesearch.settings import DetectSpec, EmbedSpec, IdentifySettings, PhotoLimits
from facesearch.values import F32, Pixels

TARGET = 0.01
EVERY = 12
Landmarks = NDArray[np.float32]
YAWS = (0, 10, 20, 30, 40, 90)
"""Degrees: ends of the groups by pose."""


def blur(pixels: Pixels, points: Landmarks, level: float) -> Pixels:
    """Out of focus: a Gaussian, its deviation a share of the distance between the eyes."""
    sigma = level * float(np.hypot(*(points[1] - points[0])))
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)


def motion(pixels: Pixels, points: Landmarks, level: float) -> Pixels:
    """Moved sideways meanwhile, by a share of the distance between the eyes."""
    length = max(2, round(level * float(np.hypot(*(points[1] - points[0])))))
    kernel = np.full((1, length), 1.0 / length, np.float32)
    return np.asarray(cv2.filter2D(pixels, -1, kernel), np.uint8)


def small(pixels: Pixels, points: Landmarks, level: float) -> Pixels:
    """Taken from afar: the whole photo made smaller, until the eyes are so many pixels apart."""
    scale = level / float(np.hypot(*(points[1] - points[0])))
    return np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))


def jpeg(pixels: Pixels, points: Landmarks, level: int) -> Pixels:
    """Compressed at a JPEG quality."""
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, level])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def dark(pixels: Pixels, points: Landmarks, level: float) -> Pixels:
    """Underexposed, with the noise of a sensor (deviation 3 grey levels)."""
    rng = np.random.default_rng(0)
    noisy = pixels * level + rng.normal(0.0, 3.0, pixels.shape)
    return np.asarray(noisy.clip(0, 255), np.uint8)


def covered(pixels: Pixels, points: Landmarks, level: str) -> Pixels:
    """A grey mask over nose and mouth, dark glasses, or a hand's breadth over one side."""
    right, left, nose, mouth_right, mouth_left = np.asarray(points, np.float64)
    across, middle = left - right, (left + right) / 2
    down = (mouth_right + mouth_left) / 2 - middle
    if level == "mask":
        corners = (
            middle + (nose - middle) * 0.75 - across * 0.95,
            middle + (nose - middle) * 0.75 + across * 0.95,
            middle + down * 1.9 + across * 0.6,
            middle + down * 1.9 - across * 0.6,
        )
        colour = (196, 190, 180)
    elif level == "glasses":
        up, side = down * 0.24, across * 0.85
        corners = (middle - side - up, middle + side - up, middle + side + up, middle - side + up)
        colour = (24, 24, 24)
    else:
        top, low = middle - down * 1.2, middle + down * 2.2
        corners = (top, top - across * 1.3, low - across * 1.3, low)
        colour = (90, 110, 150)
    polygon = np.round(np.array(corners)).astype(np.int32)
    return np.asarray(cv2.fillConvexPoly(pixels.copy(), polygon, colour), np.uint8)


def turned(pixels: Pixels, points: Landmarks, level: float) -> Pixels:
    """Turned in the plane about the middle of the photo."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), level, 1.0)
    return np.asarray(cv2.warpAffine(pixels, matrix, (width, height)), np.uint8)


KINDS: dict[str, tuple[str, Sequence[float | str], Callable[..., Pixels]]] = {
    "blur": ("deviation, share of the eyes' distance", (0.05, 0.1, 0.2), blur),
    "motion": ("length, share of the eyes' distance", (0.3, 0.6), motion),
    "size": ("distance between the eyes, pixels", (14, 10, 7), small),
    "compression": ("JPEG quality", (20, 10, 5), jpeg),
    "darkness": ("share of the light", (0.1, 0.05), dark),
    "cover": ("what is covered", ("glasses", "mask", "one side"), covered),
    "turned": ("degrees in the plane", (45, 180), turned),
}
"""Name of a kind to what its levels are, the levels, and the change (photo, landmarks, level)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one probe: no face (score -inf), or what a search answered.

    Attributes:
        own: score of the probe's own identity; -inf if it is not first or there is none.
        best: best score of anybody.
        quality: of the face; 0 if none was found.
        yaw: degrees.
        poor: what is said of a face that is too poor to be given a name; "" of others.
    """

    own: float
    best: float
    quality: float
    yaw: float
    poor: str = ""


class Search:
    """The whole way from a photo to an outcome, against the protocol's gallery.

    Args:
        gallery: (N, D) faces of the enrolled people as they are compared, one each.
        identities: N names.
        mean: (D,) what was taken out of them.
    """

    def __init__(self, gallery: F32, identities: Sequence[str], mean: F32) -> None:
        self._extractor = Extractor(DetectSpec(), PhotoLimits())
        self._embedder = MirroredEmbedder(load_embedder(EmbedSpec(device="cpu"), Path("none")))
        self.contract = self._embedder.contract
        self._gallery = gallery
        self._column = {name: i for i, name in enumerate(identities)}
        self._mean = mean
        self._least = IdentifySettings().min_quality
        self._points: dict[Path, Landmarks] = {}

    def extract(self, photo: Path, change: Callable[[Pixels, Landmarks], Pixels]) -> Extraction:
        """The faces of a photo made worse; it travels as PNG, which loses nothing."""
        data = photo.read_bytes()
        if photo not in self._points:
            found = self._extractor(data, photo.name)
            if not len(found.detections):
                return found
            face = principal(found.detections, found.size)
            self._points[photo] = found.detections.landmarks[face]
        pixels = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)
        worse = cv2.imencode(".png", change(pixels, self._points[photo]))[1].tobytes()
        return self._extractor(worse, photo.name)

    def __call__(
        self, photos: Sequence[Path], change: Callable[[Pixels, Landmarks], Pixels]
    ) -> list[Outcome]:
        """What becomes of each photo, of PERSON/NAME.jpg, when it is made worse."""
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(partial(self.extract, change=change), photos))
        outcomes = [Outcome(-np.inf, -np.inf, 0.0, 0.0)] * len(found)
        for n, (photo, e) in enumerate(zip(photos, found, strict=True)):
            if not len(e.detections):
                continue
            face = principal(e.detections, e.size)
            embedded = self._embedder.embed(e.crops)
            vector = centred(embedded.vectors[face : face + 1], self._mean)
            scores = (vector @ self._gallery.T)[0]
            figure = float(quality(e.measures, embedded)[face])
            column, best = self._column.get(photo.parent.name), float(scores.max())
            first = column is not None and scores[column] >= best
            outcomes[n] = Outcome(
                best if first else -np.inf,
                best,
                figure,
                float(e.measures.yaw[face]),
                why(e.measures, face) if figure < self._least else "",
            )
        return outcomes


def summed(mated: Sequence[Outcome], strangers: Sequence[Outcome], limit: float) -> dict[str, Any]:
    """Rates at a threshold, and what is gained by saying of some probes that they are too poor."""
    missed = np.array([o.own < limit for o in mated])
    poor = np.array([bool(o.poor) for o in mated])
    reasons = Counter(re.split(r":| by ", o.poor)[0] for o in mated if o.poor)
    alarms = np.array([o.best >= limit for o in strangers])
    poor_strangers = np.array([bool(o.poor) for o in strangers])
    return {
        "mated": len(mated),
        "fnir": float(missed.mean()),
        "fnir_95": mean_interval(missed, np.arange(len(missed))),
        "no_face": float(np.mean([np.isneginf(o.best) for o in mated])),
        "insufficient": float(poor.mean()),
        "missed_of_insufficient": float(missed[poor].mean()) if poor.any() else None,
        "strangers": len(strangers),
        "fpir": float(alarms.mean()) if len(alarms) else None,
        "fpir_named": float((alarms & ~poor_strangers).mean()) if len(alarms) else None,
        "quality": float(np.median([o.quality for o in mated])),
        "reasons": dict(reasons.most_common()),
    }


def main() -> None:
    """Worsen, search, print and record."""
    parser = arguments(__doc__, evaluation_data() / "lfw-dev", "an LFW-style root")
    parser.add_argument("--every", type=int, default=EVERY, help="take every so many-th probe")
    args = parser.parse_args()
    head = header()
    protocol = read_protocol(args.data)
    source = embedded(protocol.photos, args.faces)
    known = Faces.of(source, "mirror")
    mean = mean_of(known.vectors, known.people)
    rows = known.rows(protocol.gallery.photos)
    people = [known.names[n] for n in known.people[rows].tolist()]
    search = Search(centred(known.vectors[rows], mean), people, mean)
    limit = default_threshold(search.contract, len(rows), TARGET, centred=True).value

    def photos(names: Sequence[str], every: int) -> list[Path]:
        return [protocol.photos / name for name in sorted(names)[::every]]

    def as_it_is(pixels: Pixels, points: Landmarks) -> Pixels:
        return pixels

    mated, strangers = protocol.mated.photos, protocol.nonmated.photos
    probes, others = photos(mated, args.every), photos(strangers, max(1, args.every // 3))
    results: list[dict[str, Any]] = []

    def note(kind: str, level: float | str, change: Callable[[Pixels, Landmarks], Pixels]) -> None:
        row = {"kind": kind, "level": level}
        row |= summed(search(probes, change), search(others, change), limit)
        results.append(row)
        print(row, flush=True)

    note("none", "as they are", as_it_is)
    for kind, (_, levels, change) in KINDS.items():
        for level in levels:
            note(kind, level, partial(change, level=level))
    whole = search(photos(mated, max(1, args.every // 6)), as_it_is)
    poses = []
    for low, high in pairwise(YAWS):
        group = [o for o in whole if o.quality > 0 and low <= abs(o.yaw) < high]
        if group:
            poses.append({"from": low, "to": high} | summed(group, [], limit))
            print(poses[-1], flush=True)
    record = {
        "gallery": len(rows),
        "threshold": limit,
        "units": {kind: unit for kind, (unit, _, _) in KINDS.items()},
        "results": results,
        "pose": poses,
    }
    print(write("degrade", head, record))


if __name__ == "__main__":
    main()
