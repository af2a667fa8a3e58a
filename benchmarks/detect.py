"""Detection and alignment: what is found, how exactly, how fast, and what it is worth to search.

    python -m benchmarks.detect [--quick]

Compares the detector as it ships with variants that leave something out or add to it. Times are of
one core: the process's own CPU time, so that other work on the machine disturbs it little. Writes
`records/detect.json`, which docs/detection.md quotes. `--quick` takes every tenth photo of
`lfw-dev` and `landmarks68`, skips search accuracy, and writes nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import evaluation_data, header, write
from facesearch.evaluate.metrics import SearchScores, open_set, verification
from facesearch.evaluate.protocol import read_protocol
from facesearch.faces.align import align, umeyama
from facesearch.faces.boxes import overlap
from facesearch.faces.detect import FAR, Detector, Level
from facesearch.faces.embed import load_embedder
from facesearch.faces.extract import Extractor, finer, principal
from facesearch.faces.torch_yunet import TorchYuNet
from facesearch.faces.yunet import STRIDE
from facesearch.photos.decode import decode, read_photo
from facesearch.settings import DetectSpec, EmbedSpec, PhotoLimits
from facesearch.values import F32, Crops

SPEC, LIMITS = DetectSpec(), PhotoLimits()
NEAR = 0.35
"""A find is a face of the truth if their noses are this close, in sides of the box found."""
ROUNDS = 7
TURNS = (0, 15, 25, 35, 45)
"""Degrees a photo is turned by."""
PARTS = ("decode_ms", "detect_ms", "align_ms")
F64 = NDArray[np.float64]


class Untilted(Detector):
    """Without undoing the tilt of heads: looked at four times as the first look has them."""

    def _second_look(self, levels: Sequence[Level], rows: F64) -> F64:
        seen = self._looked_at(levels, rows[:, 4:14].reshape(-1, 5, 2), (0, STRIDE // 2), FAR)
        unseen = np.column_stack([rows[:, :14], np.zeros(len(rows))])
        return np.where(seen[:, 14:] > 0, seen, unseen)


def in_torch(precision: str) -> Callable[[float], TorchYuNet]:
    """YuNet as bulk work runs it on the CPU."""
    return lambda score: TorchYuNet(score, torch.device("cpu"), precision)


VARIANTS: dict[str, Detector] = {
    "as it ships": Detector(SPEC, in_torch("auto")),
    "in float32": Detector(SPEC, in_torch("fp32")),
    "through OpenCV, for probes": Detector(SPEC),
    "heads left tilted": Untilted(SPEC),
    "one look": Detector(DetectSpec(second_look=False)),
    "one scale": Detector(DetectSpec(sizes=(1280,))),
    "three scales": Detector(DetectSpec(sizes=(320, 640, 1280))),
}


def five(points: F64) -> F64:
    """(68, 2) landmarks in iBUG order as the five of `values.Detections`."""
    eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    return np.stack([*eyes, points[30], points[48], points[54]])


def groups(detector: Detector) -> dict[str, Any]:
    """Faces found and extra on `groups`, and how far they are from the truth."""
    root = evaluation_data() / "groups"
    found = extra = expected = 0
    nose_off: list[float] = []
    landmarks_off: list[float] = []
    overlaps: list[float] = []
    for name, truth in json.loads((root / "truth.json").read_text(encoding="utf-8")).items():
        faces = detector.detect(read_photo(root / "photos" / name, LIMITS, detector.wanted))
        marks = [np.array(p, np.float64) for p in truth.get("landmarks68", [])]
        noses = [p[30] for p in marks] or [np.array(p, np.float64) for p in truth["noses"]]
        sides = np.sqrt(np.prod(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1))
        free = set(range(len(faces)))
        for i, nose in enumerate(noses):
            off = np.linalg.norm(faces.landmarks[:, 2] - nose, axis=1) / sides
            row = min(free, key=off.__getitem__, default=-1)
            if row < 0 or off[row] > NEAR:
                continue
            free.remove(row)
            found += 1
            nose_off.append(float(off[row]))
            if marks:
                true = five(marks[i])
                error = np.linalg.norm(faces.landmarks[row] - true, axis=1).mean()
                landmarks_off.append(float(error / np.linalg.norm(true[1] - true[0])))
                overlaps.append(
                    float(overlap(faces.boxes[row : row + 1], corners(truth["boxes"][i]))[0])
                )
        extra += len(free)
        expected += len(noses)
    return {
        "faces": expected,
        "found": found,
        "extra": extra,
        "nose_off_in_boxes": {"mean": float(np.mean(nose_off)), "max": max(nose_off)},
        "landmarks_off_in_eye_distances": {
            "mean": float(np.mean(landmarks_off)),
            "max": max(landmarks_off),
        },
        "box_iou": {"mean": float(np.mean(overlaps)), "min": min(overlaps)},
    }


def corners(box: Sequence[float]) -> F64:
    """X y w h as x1 y1 x2 y2."""
    x, y, width, height = box
    return np.array([x, y, x + width, y + height], np.float64)


def landmarks(detector: Detector, step: int) -> dict[str, Any]:
    """Error of the five landmarks on `landmarks68`, in pixels of a 112-pixel crop.

    Where the two sets of points mean different spots of the face, all faces differ alike; that
    part, the median over all faces, is taken off.
    """
    root = evaluation_data() / "landmarks68"
    with (root / "points.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1::step]
    offs, missed = [], 0
    for name, *numbers in rows:
        true = five(np.array(numbers, np.float64).reshape(68, 2))
        faces = detector.detect(read_photo(root / "photos" / name, LIMITS))
        errors = np.linalg.norm(faces.landmarks - true, axis=2).mean(axis=1)
        if not len(errors) or errors.min() > np.linalg.norm(true[1] - true[0]):
            missed += 1
            continue
        linear = umeyama(true[None])[0, :, :2]
        offs.append((faces.landmarks[errors.argmin()] - true) @ linear.T)
    off = np.linalg.norm(np.array(offs) - np.median(offs, axis=0), axis=2)
    return {
        "frames": len(rows),
        "missed": missed,
        "off_in_crop_pixels": {"mean": float(off.mean()), "median": float(np.median(off))},
    }


@dataclass(frozen=True, slots=True)
class Portraits:
    """The principal face of each photo of `lfw-dev`.

    Attributes:
        photos: relative paths.
        crops: the faces; black where none was found.
        summary: counts and times.
    """

    photos: tuple[str, ...]
    crops: Crops
    summary: dict[str, Any]


def portraits(detector: Detector, step: int) -> Portraits:
    """Detect on `lfw-dev`, whose photos are centred on the face that names them."""
    root = evaluation_data() / "lfw-dev" / "photos"
    paths = sorted(root.glob("*/*.jpg"))[::step]
    crops = np.zeros((len(paths), 112, 112, 3), np.uint8)
    faces = missed = elsewhere = 0
    seconds = []
    for crop, path in zip(crops, paths, strict=True):
        photo = read_photo(path, LIMITS)
        start = time.process_time()
        found = detector.detect(photo)
        seconds.append(time.process_time() - start)
        faces += len(found)
        if not len(found):
            missed += 1
            continue
        middle = np.array(photo.original_size) / 2
        off = np.abs((found.boxes[:, :2] + found.boxes[:, 2:]) / 2 - middle).max(axis=1)
        inside = bool(off.min() < photo.original_size[0] / 4)
        missed += not inside
        chosen = principal(found, photo.original_size)
        elsewhere += inside and chosen != off.argmin()
        crop[:] = align(photo, found.take(np.array([chosen])))[0]
    summary = {
        "photos": len(paths),
        "faces": faces,
        "centre_face_missed": missed,
        "principal_is_another": elsewhere,
        "milliseconds_a_photo_median": float(np.median(seconds) * 1e3),
    }
    return Portraits(tuple(p.relative_to(root).as_posix() for p in paths), crops, summary)


def search(found: Portraits) -> dict[str, Any]:
    """`judged` of the bundled model."""
    embedder = load_embedder(EmbedSpec(device="cpu"), Path("/nonexistent"))
    return judged(found.photos, embedder.embed(found.crops).vectors)


def judged(photos: Sequence[str], vectors: F32) -> dict[str, Any]:
    """Verification and open-set identification, one photo enrolled, of unit vectors (N, D).

    Args:
        photos: of `lfw-dev`, relative paths.
        vectors: of the principal face of each.
    """
    protocol = read_protocol(evaluation_data() / "lfw-dev")
    row = {photo: i for i, photo in enumerate(photos)}

    def of(photos: Sequence[str]) -> F32:
        chosen: F32 = vectors[[row[photo] for photo in photos]]
        return chosen

    cosines = np.einsum("pd,pd->p", of(protocol.pairs.photos_a), of(protocol.pairs.photos_b))
    pairs = verification(cosines, protocol.pairs.same, protocol.pairs.folds)
    gallery = of(protocol.gallery.photos)
    names = np.array(protocol.gallery.identities)
    mated = of(protocol.mated.photos) @ gallery.T
    right = names[mated.argmax(axis=1)] == np.array(protocol.mated.identities)
    result = open_set(
        SearchScores(
            gallery=len(names),
            mated_ranks=right.astype(np.int64),
            mated_scores=np.where(right, mated.max(axis=1), -np.inf).astype(np.float32),
            nonmated_scores=(of(protocol.nonmated.photos) @ gallery.T).max(axis=1),
        )
    )
    tpir = {f"{point.target:g}": point.tpir for point in result.points}
    return {"accuracy": pairs.accuracy, "rank1": result.rank1, "tpir": tpir}


def tilted(detector: Detector) -> list[dict[str, Any]]:
    """Mated scores on `lfw-dev` when one photo of each pair is turned.

    Of every third person who has two photos, the first two.
    """
    root = evaluation_data() / "lfw-dev" / "photos"
    people = [photos for d in sorted(root.iterdir()) if len(photos := sorted(d.iterdir())) > 1][::3]
    embedder = load_embedder(EmbedSpec(device="cpu"), Path("/nonexistent"))
    first = [crop for one, *_ in people if (crop := _turned(detector, one, 0)) is not None]
    assert len(first) == len(people)
    enrolled = embedder.embed(np.stack(first)).vectors
    rows = []
    for degrees in TURNS:
        crops = [_turned(detector, other, degrees) for _, other, *_ in people]
        seen = np.array([crop is not None for crop in crops])
        found = embedder.embed(np.stack([crop for crop in crops if crop is not None])).vectors
        cosines = np.full(len(people), -1.0)
        cosines[seen] = np.einsum("nd,nd->n", found, enrolled[seen])
        rows.append(
            {
                "degrees": degrees,
                "pairs": len(people),
                "undetected": int((~seen).sum()),
                "mean_cosine": float(cosines[seen].mean()),
                "share_at_0.45": float((cosines >= 0.45).mean()),
            }
        )
    return rows


def _turned(detector: Detector, path: Path, degrees: float) -> NDArray[np.uint8] | None:
    """The principal face of a photo turned about its middle; None if none is found."""
    photo = read_photo(path, LIMITS)
    height, width = photo.pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    pixels = cv2.warpAffine(photo.pixels, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    turned = replace(photo, pixels=np.asarray(pixels, np.uint8))
    faces = detector.detect(turned)
    if not len(faces):
        return None
    row = principal(faces, photo.original_size)
    crop: NDArray[np.uint8] = align(turned, faces.take(np.array([row])))[0]
    return crop


def speed(detector: Detector) -> list[dict[str, Any]]:
    """Median milliseconds of decoding, detecting and aligning photos of several sizes."""
    root = evaluation_data()
    lfw = min((root / "lfw-dev" / "photos").glob("*/*.jpg"))
    names = ("017_0", "2008_001322", "011_3", "016_8", "004_A", "002_A", "001_A")
    rows = []
    for path in (lfw, *(root / "groups" / "photos" / f"{name}.jpg" for name in names)):
        data = path.read_bytes()
        laps = np.array([_lap(detector, data, path.name) for _ in range(ROUNDS + 1)])[1:]
        photo = decode(data, path.name, LIMITS, detector.wanted)
        faces = detector.detect(photo)
        row: dict[str, Any] = {
            "photo": path.name,
            "size": list(photo.original_size),
            "decoded": list(photo.pixels.shape[1::-1]),
            "decoded_again": finer(photo, faces) is not None,
            "faces": len(faces),
        }
        rows.append(row | dict(zip(PARTS, (np.median(laps, axis=0) * 1e3).tolist(), strict=True)))
    return rows


def _lap(detector: Detector, data: bytes, name: str) -> tuple[float, float, float]:
    """Seconds that the parts of `Extractor` take."""
    times = [time.process_time()]
    photo = decode(data, name, LIMITS, detector.wanted)
    times.append(time.process_time())
    faces = detector.detect(photo)
    times.append(time.process_time())
    wanted = finer(photo, faces)
    if wanted is not None:
        photo = decode(data, name, LIMITS, wanted)
    times.append(time.process_time())
    align(photo, faces)
    times.append(time.process_time())
    decoding, detecting, again, aligning = np.diff(times).tolist()
    return decoding + again, detecting, aligning


def archive() -> dict[str, Any]:
    """Faces found in the small labelled archive."""
    extract = Extractor(SPEC, LIMITS)
    paths = sorted((evaluation_data() / "johns").glob("*/*.jpg"))
    counts = [len(extract(path.read_bytes(), path.name).detections) for path in paths]
    return {"photos": len(counts), "faces": sum(counts), "without": counts.count(0)}


def main() -> None:
    """Measure, print tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    step = 10 if quick else 1
    head = header()

    results: dict[str, dict[str, Any]] = {}
    for name, detector in VARIANTS.items():
        found = portraits(detector, step)
        results[name] = {
            "groups": groups(detector),
            "landmarks68": landmarks(detector, step),
            "lfw": found.summary | ({} if quick else search(found)),
            "tilted": [] if quick else tilted(detector),
        }
        print(f"\n{name}")
        for what, figures in results[name].items():
            print(f"  {what}: {json.dumps(figures)}", flush=True)
    times = speed(VARIANTS["as it ships"])
    print("\n| photo | pixels | decoded at | faces | decode ms | detect ms | align ms |")
    print("|---|---|---|---|---|---|---|")
    for row in times:
        size, decoded = ("x".join(map(str, row[key])) for key in ("size", "decoded"))
        again = " + finer" if row["decoded_again"] else ""
        numbers = " | ".join(f"{row[part]:.1f}" for part in PARTS)
        print(f"| {row['photo']} | {size} | {decoded}{again} | {row['faces']} | {numbers} |")
    johns = archive()
    print(f"\njohns: {json.dumps(johns)}")
    if not quick:
        print(write("detect", head, {"variants": results, "speed": times, "johns": johns}))


if __name__ == "__main__":
    main()
