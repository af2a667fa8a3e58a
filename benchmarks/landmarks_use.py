"""What the 68 landmarks are good for: alignment, pose, eyes and mouth, what is hidden, quality.

    python -m benchmarks.landmarks_use [ROOT] [--photos N] [--frames N]

ROOT is FACESEARCH_EVAL_DATA unless given. Writes `records/landmarks_use.json`.

- Alignment: faces of `lfw-dev` (people with several photos first) aligned by the detector's five
  landmarks, and by the 68 in three ways, each embedded by the bundled network and searched
  (`facesearch.identify.versus`): gain of TPIR at FPIR 1 % over five, with the paired interval.
- Quality: whether hints from the 68 add to the figure that quality has: how much of the variance of
  a probe's score against its own template is explained, on people not fitted on.
- The rest on `landmarks68`'s people held out, against the labelled points: pose; the same photos
  mirrored and turned; eyes closed and mouth open; faces half covered.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.landmarks import held_out
from benchmarks.record import evaluation_data, header, write
from facesearch.evaluate.bootstrap import draws_of, middle
from facesearch.faces.align import SIDE, TEMPLATE, align, cut, umeyama
from facesearch.faces.detect import Detector
from facesearch.faces.embed import load_embedder
from facesearch.faces.extract import principal
from facesearch.faces.head import CLOSED, OPEN, Head, eyes_opening, head, mouth_opening, pose
from facesearch.faces.landmark_crops import moved
from facesearch.faces.landmarks import Landmarker
from facesearch.faces.quality import measure, quality
from facesearch.identify.versus import compare, search
from facesearch.photos.decode import read_photo
from facesearch.settings import DetectSpec, EmbedSpec, LandmarkSpec
from facesearch.train.held_out import measure as figures_of
from facesearch.train.landmarks_data import five
from facesearch.values import Detections, Photo

F64 = NDArray[np.float64]
TURN = 20.0


def seen(folder: Path, most: int) -> dict[str, Any]:
    """Some photos' principal faces: crops by each alignment, quality, and what the 68 say."""
    detector = Detector(DetectSpec())
    landmarker = Landmarker(LandmarkSpec(device="cpu"))
    people = sorted(folder.iterdir(), key=lambda one: (-len(list(one.iterdir())), one.name))
    several = [one for one in people if 2 <= len(list(one.iterdir())) <= 8]
    paths = [path for one in several for path in sorted(one.glob("*.jpg"))][:most]
    faces: list[tuple[Photo, Detections, NDArray[np.floating], float, float]] = []
    who = []
    for path in paths:
        photo = read_photo(path)
        found = detector.detect(photo)
        if not len(found):
            continue
        one = found.take(np.array([principal(found, photo.original_size)]))
        landmarks = landmarker(photo, one)
        said = head(landmarks)
        faces.append((photo, one, landmarks.points[0], float(said.hidden[0]), float(said.yaw[0])))
        who.append(path.parent.name)
    _, numbers = np.unique(who, return_inverse=True)
    points = np.array([face[2] for face in faces], np.float64)
    by_five = umeyama(np.concatenate([face[1].landmarks for face in faces]))
    places = moved(points, by_five)  # of the 68 in crops by five: where they are on average
    matrices = {
        "five of the detector": by_five,
        "five of the 68": umeyama(five(points)),
        "five of the 68, to their mean places": umeyama(five(points), five(places).mean(axis=0)),
        "all 68, to their mean places": umeyama(points, places.mean(axis=0)),
        "both fives": umeyama(
            np.concatenate([np.concatenate([f[1].landmarks for f in faces]), five(points)], axis=1),
            np.concatenate([TEMPLATE, five(places).mean(axis=0)]),
        ),
    }
    photos = [face[0] for face in faces]
    embedder = load_embedder(EmbedSpec(), Path("no-models"))
    kept: dict[str, Any] = {"people": numbers.astype(np.int64)}
    for name, maps in matrices.items():
        crops = np.stack([cut(p.pixels, m, SIDE) for p, m in zip(photos, maps, strict=True)])
        kept[name] = embedder.embed(crops)
        print(name, flush=True)
    five_crops = np.concatenate([align(p, d) for p, d, *_ in faces])
    together = Detections(
        np.concatenate([f[1].boxes for f in faces]),
        np.concatenate([f[1].landmarks for f in faces]),
        np.concatenate([f[1].scores for f in faces]),
    )
    kept["quality"] = quality(measure(five_crops, together), kept["five of the detector"])
    kept["hidden"] = np.array([f[3] for f in faces])
    kept["yaw"] = np.array([f[4] for f in faces])
    kept["eyes"], kept["mouth"] = eyes_opening(points), mouth_opening(points)
    kept["names"] = list(matrices)
    return kept


def alignment(kept: dict[str, Any]) -> dict[str, Any]:
    """Each alignment against that by the detector's five."""
    people, (first, *others) = kept["people"], kept["names"]
    plain = kept[first].vectors
    found: dict[str, Any] = {
        "faces": len(people),
        "people": len(np.unique(people)),
        first: {"verification": figures_of(plain, people)[0]},
    }
    for name in others:
        vectors = kept[name].vectors
        told = compare(plain, vectors, people, 0.01)
        assert told is not None
        found[name] = {
            "verification": figures_of(vectors, people)[0],
            **dataclasses.asdict(told),
        }
    return found


def hints(kept: dict[str, Any]) -> dict[str, Any]:
    """Variance of a probe's own score explained by quality, and by quality and the hints."""
    people = kept["people"]
    own = search(kept["five of the detector"].vectors, people, np.arange(len(people))).own
    q = np.log(kept["quality"] / (1 - kept["quality"]))
    more = np.column_stack(
        [kept["hidden"], np.abs(kept["yaw"]), np.minimum(kept["eyes"], 0.3), kept["mouth"]]
    )
    groups = np.random.default_rng(0).permutation(int(people.max()) + 1)[people] % 5
    errors = {}
    for name, columns in (
        ("quality", q[:, None]),
        ("quality and hints", np.column_stack([q, more])),
    ):
        x = np.column_stack([np.ones(len(q)), columns])
        left = np.zeros(len(q))
        for group in range(5):
            fit = groups != group
            weights = np.linalg.lstsq(x[fit], own[fit], rcond=None)[0]
            left[~fit] = own[~fit] - x[~fit] @ weights
        errors[name] = left**2
    spread = (own - own.mean()) ** 2
    times = np.concatenate(
        [
            np.ones((1, int(people.max()) + 1)),
            draws_of(int(people.max()) + 1, 1000, np.random.default_rng(0)),
        ]
    )[:, people]
    share = {name: 1 - (times @ error) / (times @ spread) for name, error in errors.items()}
    gain = share["quality and hints"] - share["quality"]
    return {
        "probes": len(own),
        "explained by quality": float(share["quality"][0]),
        "explained by quality and hints": float(share["quality and hints"][0]),
        "gain": float(gain[0]),
        "gain, 95 %": list(middle(gain[1:])),
    }


def heads(root: Path, most: int) -> dict[str, Any]:
    """Pose, eyes, mouth and what is hidden, on some frames of people held out."""
    faces, _ = held_out(root)
    faces = [faces[n] for n in np.linspace(0, len(faces) - 1, min(most, len(faces))).astype(int)]
    landmarker = Landmarker(LandmarkSpec(device="cpu"))
    detector = Detector(DetectSpec())
    truth = np.array([face[2] for face in faces], np.float64)
    said = [head(landmarker(photo, found)) for photo, found, _, _ in faces]
    angles = np.array([[one.yaw[0], one.pitch[0], one.roll[0]] for one in said])
    labelled = np.array([pose(points) for points in truth])
    changed: dict[str, list[list[float]]] = {"mirrored": [], "turned": []}
    rows: dict[str, list[int]] = {"mirrored": [], "turned": []}
    covered = []
    for n, (photo, found, points, _) in enumerate(faces):
        for name, pixels in (("mirrored", photo.pixels[:, ::-1]), ("turned", turned(photo.pixels))):
            other = Photo(np.ascontiguousarray(pixels), photo.original_size, "")
            again = detector.detect(other)
            if len(again) == len(detector.detect(photo)) == 1:
                one = head(landmarker(other, again))
                changed[name].append([one.yaw[0], one.pitch[0], one.roll[0]])
                rows[name].append(n)
        one = head(landmarker(half_covered(photo, points), found))
        covered.append(float(one.hidden[0]))
    hidden = np.array([one.hidden[0] for one in said])
    mirrored = np.array(changed["mirrored"]) - angles[rows["mirrored"]] * [-1, 1, -1]
    rolled = np.array(changed["turned"]) - angles[rows["turned"]] - [0, 0, -TURN]
    clear = np.abs(labelled[:, 0]) > 10
    return {
        "frames": len(faces),
        "people": len({face[3] for face in faces}),
        "yaw, pitch, roll: mean difference from the labelled points'": off(angles - labelled),
        "of the mean pose instead": off(labelled - np.median(labelled, axis=0)),
        "yaw beyond 10 degrees: frames, and share on the same side": [
            int(clear.sum()),
            float((np.sign(angles[clear, 0]) == np.sign(labelled[clear, 0])).mean()),
        ],
        "mirrored: yaw and roll change sign, pitch stays; mean difference": off(mirrored),
        f"turned by {TURN:g} degrees: roll follows, the rest stays; mean difference": off(rolled),
        "eyes closed": agreement(said, truth, eyes=True),
        "mouth open": agreement(said, truth, eyes=False),
        "hidden, median": {
            "as they are": float(np.median(hidden)),
            "lower half covered": float(np.median(covered)),
            "share of pairs told apart (AUC)": float(
                (np.array(covered)[:, None] > hidden).mean()
                + 0.5 * (np.array(covered)[:, None] == hidden).mean()
            ),
        },
    }


def off(angles: F64) -> list[float]:
    """Mean absolute angles, degrees."""
    return [round(float(v), 2) for v in np.abs((angles + 180) % 360 - 180).mean(axis=0)]


def turned(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photo turned about its middle, anticlockwise as it is seen."""
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), TURN, 1)
    return np.asarray(cv2.warpAffine(pixels, turn, (width, height)), np.uint8)


def half_covered(photo: Photo, points: F64) -> Photo:
    """The face grey below the middle of the nose, as by a mask."""
    pixels = photo.pixels.copy()
    at = photo.to_decoded(points[None].astype(np.float32))[0]
    left, right = np.clip(at[:, 0].min(), 0, None), at[:, 0].max()
    top, bottom = np.clip(at[29, 1], 0, None), at[:, 1].max()
    pixels[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = 128
    return Photo(pixels, photo.original_size, photo.name)


def agreement(said: list[Head], truth: F64, *, eyes: bool) -> dict[str, Any]:
    """What the points found say against what the labelled points say."""
    if eyes:
        found, labelled = np.array([one.eyes[0] for one in said]), eyes_opening(truth)
        mine, theirs = found < CLOSED, labelled < CLOSED
    else:
        found, labelled = np.array([one.mouth[0] for one in said]), mouth_opening(truth)
        mine, theirs = found > OPEN, labelled > OPEN
    return {
        "by the labelled points": int(theirs.sum()),
        "by the points found": int(mine.sum()),
        "by both": int((mine & theirs).sum()),
        "frames that agree": float((mine == theirs).mean()),
        "correlation of the openings": float(np.corrcoef(found, labelled)[0, 1]),
    }


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", nargs="?", type=Path, default=evaluation_data())
    parser.add_argument("--photos", type=int, default=1500, help="of lfw-dev, at most")
    parser.add_argument("--frames", type=int, default=300, help="of landmarks68, at most")
    options = parser.parse_args()
    top = header()
    record: dict[str, Any] = {"heads": heads(options.root, options.frames)}
    print(record["heads"], flush=True)
    kept = seen(options.root / "lfw-dev" / "photos", options.photos)
    record |= {"alignment": alignment(kept), "quality": hints(kept)}
    print(record["alignment"], record["quality"])
    print(write("landmarks_use", top, record))


if __name__ == "__main__":
    main()
