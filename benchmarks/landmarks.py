"""Landmarks: error on people held out of training, on another domain, and faces a second.

    python -m benchmarks.landmarks [ROOT] [--plain FILE] [--dlib FOLDER] [--no-speed]

ROOT is FACESEARCH_EVAL_DATA unless given; `landmarks68` and `groups` in it are used. Photos go
through detection as at run time. Writes `records/landmarks.json` and `docs/landmarks-ced.svg`.
`--plain FILE` also measures the plain network, with weights that training wrote; they do not ship.
`--dlib FOLDER` also measures dlib's 68-point predictor: a folder with the packages `dlib` and
`face_recognition_models`. It gets the faces that its own detector finds. It was trained on iBUG
300-W, labelled otherwise than `landmarks68`, so that a part of its error is how labels differ.

The error of a face is the mean distance of its 68 points over that of the outer corners of its
eyes (NME). Intervals are over people, by bootstrap.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import REPOSITORY, evaluation_data, header, write
from facesearch.evaluate.plot import Axis, Series, chart, standalone
from facesearch.faces.detect import Detector
from facesearch.faces.landmark_crops import crop_matrices, face_crops
from facesearch.faces.landmarks import Landmarker
from facesearch.photos.decode import read_photo
from facesearch.settings import DetectSpec, LandmarkSpec
from facesearch.train.landmarks_data import labelled_face, ocular, part, person, read
from facesearch.values import Detections, Photo

F64 = NDArray[np.float64]
FAILED = 0.1
DRAWS = 1000
ROUNDS = 5
RUNS = {
    "heat (default)": LandmarkSpec(device="cpu"),
    "heat, not mirrored": LandmarkSpec(device="cpu", mirror=False),
}
Face = tuple[Photo, Detections, F64, str]
"""A photo, the one face in it, its labelled points, whose it is."""


def held_out(root: Path) -> tuple[list[Face], int]:
    """The labelled faces of the people held out, as detected, and how many were not found."""
    labelled = read(root / "landmarks68")
    rows = [n for n, path in enumerate(labelled.photos) if part(person(path)) == "test"]
    pairs = [(labelled.photos[n], [labelled.points[n]]) for n in rows]
    return _detected(pairs, person)


def groups(root: Path) -> tuple[list[Face], int]:
    """The labelled faces of the group photos."""
    truth = json.loads((root / "groups" / "truth.json").read_text(encoding="utf-8"))
    pairs = [
        (root / "groups" / "photos" / name, [np.array(p, np.float64) for p in about["landmarks68"]])
        for name, about in truth.items()
        if "landmarks68" in about
    ]
    return _detected(pairs, lambda path: path.stem)


def _detected(
    pairs: list[tuple[Path, list[F64]]], who: Callable[[Path], str]
) -> tuple[list[Face], int]:
    detector = Detector(DetectSpec())
    faces: list[Face] = []
    missed = 0
    for path, labels in pairs:
        photo = read_photo(path)
        found = detector.detect(photo)
        for points in labels:
            row = labelled_face(found, points)
            if row is None:
                missed += 1
            else:
                faces.append((photo, found.take(np.array([row])), points, who(path)))
    return faces, missed


def errors(found: F64, truth: F64) -> F64:
    """(N,) NME."""
    return np.asarray(np.linalg.norm(found - truth, axis=2).mean(axis=1) / ocular(truth))


def summary(error: F64, people: list[str], missed: int) -> dict[str, Any]:
    """NME with its interval over people, failures, area under the curve to 0.1."""
    rng = np.random.default_rng(0)
    names = sorted(set(people))
    rows = {name: np.flatnonzero(np.array(people) == name) for name in names}
    means = []
    for _ in range(DRAWS):
        drawn = np.concatenate([rows[names[n]] for n in rng.integers(0, len(names), len(names))])
        means.append(error[drawn].mean())
    everyone = np.concatenate([error, np.full(missed, np.inf)])
    at = np.linspace(0, FAILED, 201)
    return {
        "faces": len(error),
        "not found": missed,
        "people": len(names),
        "NME": round(float(error.mean()), 5),
        "95 %": [round(float(v), 5) for v in np.quantile(means, [0.025, 0.975])],
        "median": round(float(np.median(error)), 5),
        "failure rate at 0.1": round(float((everyone > FAILED).mean()), 5),
        "area under CED to 0.1": round(float((everyone[None] <= at[:, None]).mean()), 5),
    }


def dlib_predictor(folder: Path) -> tuple[Any, Any, Path]:
    """The module, and its detector and the predictor's file, from a folder of packages."""
    sys.path.append(str(folder))
    import dlib

    file = folder / "face_recognition_models/models/shape_predictor_68_face_landmarks.dat"
    return dlib.get_frontal_face_detector(), dlib.shape_predictor(str(file)), file


def by_dlib(faces: list[Face], detector: Any, predictor: Any) -> tuple[list[int], F64]:
    """Rows of the faces that dlib's detector finds, and its points."""
    rows, points = [], []
    for n, (photo, _, truth, _) in enumerate(faces):
        rgb = np.ascontiguousarray(photo.pixels[..., ::-1])
        middle = truth.mean(axis=0)
        for box in detector(rgb, 1):
            if box.left() < middle[0] < box.right() and box.top() < middle[1] < box.bottom():
                shape = predictor(rgb, box)
                rows.append(n)
                points.append([[p.x, p.y] for p in shape.parts()])
                break
    return rows, np.array(points, np.float64)


def speed(faces: list[Face], peer: Any) -> dict[str, list[float]]:
    """Faces a second of each, detection left out, in turns."""
    some = faces[:128]
    landmarkers = {name: Landmarker(spec) for name, spec in RUNS.items()}
    tasks: dict[str, Callable[[], object]] = {}
    crops = np.concatenate([face_crops(p, crop_matrices(d.landmarks)) for p, d, _, _ in some])
    for name, landmarker in landmarkers.items():
        tasks[f"{name}, batches"] = lambda one=landmarker: one.of_crops(crops)  # type: ignore[misc]
        tasks[f"{name}, one by one, with cropping"] = (
            lambda one=landmarker: [one(p, d) for p, d, _, _ in some]  # type: ignore[misc]
        )
    if peer is not None:
        import dlib

        _, predictor, _ = peer
        boxes = [dlib.rectangle(*(int(v) for v in d.boxes[0])) for _, d, _, _ in some]
        rgb = [np.ascontiguousarray(p.pixels[..., ::-1]) for p, _, _, _ in some]
        tasks["dlib, one by one"] = lambda: [
            predictor(a, b) for a, b in zip(rgb, boxes, strict=True)
        ]
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(ROUNDS + 1):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if turn:
                rates[name].append(round(len(some) / (time.perf_counter() - began), 1))
    return rates


def main() -> None:
    """Measure, print, write the record and the plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", nargs="?", type=Path, default=evaluation_data())
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--dlib", type=Path)
    parser.add_argument("--no-speed", action="store_true")
    options = parser.parse_args()
    head = header()
    if options.plain:
        RUNS["plain"] = LandmarkSpec(network="plain", weights=str(options.plain), device="cpu")
    peer = dlib_predictor(options.dlib) if options.dlib else None
    record: dict[str, Any] = {"torch_threads": torch.get_num_threads()}
    curves: list[Series] = []
    for domain, load in (("held-out people", held_out), ("groups", groups)):
        faces, missed = load(options.root)
        truth, people = np.array([f[2] for f in faces]), [f[3] for f in faces]
        record[domain] = {}
        for name, spec in RUNS.items():
            landmarker = Landmarker(spec)
            found = np.array([landmarker(p, d).points[0] for p, d, _, _ in faces], np.float64)
            error = errors(found, truth)
            record[domain][name] = summary(error, people, missed)
            record[domain][name]["mean shift"] = [
                round(float(v), 4)
                for v in ((truth - found) / ocular(truth)[:, None, None]).mean(axis=(0, 1))
            ]
            print(domain, name, record[domain][name], flush=True)
            if domain == "held-out people" and "not" not in name:
                curves.append(_curve(name, error, len(faces) + missed))
            if peer is not None and name == "heat (default)":
                rows, points = by_dlib(faces, peer[0], peer[1])
                theirs = errors(points, truth[rows])
                some = [people[n] for n in rows]
                record[domain]["dlib"] = summary(theirs, some, 0)
                record[domain]["heat, faces dlib finds"] = summary(error[rows], some, 0)
                print(domain, "dlib", record[domain]["dlib"], flush=True)
                if domain == "held-out people":
                    curves.append(_curve("dlib", theirs, len(faces) + missed))
        if domain == "held-out people" and not options.no_speed:
            record["faces a second"] = speed(faces, peer)
            print(record["faces a second"])
    axes = (
        Axis("error (NME, inter-ocular)", 0.0, 0.15),
        Axis("share of faces within it", 0.0, 1.0),
    )
    about = "Share of the held-out people's faces whose mean error is within a bound."
    plot = standalone([chart("Cumulative error", about, axes, curves)])
    (REPOSITORY / "docs" / "landmarks-ced.svg").write_text(plot, encoding="utf-8")
    print(write("landmarks", head, record))


def _curve(name: str, error: F64, total: int) -> Series:
    at = np.linspace(0, 0.15, 121)
    return Series(name, at.tolist(), [float((error <= a).sum() / total) for a in at])


if __name__ == "__main__":
    main()
