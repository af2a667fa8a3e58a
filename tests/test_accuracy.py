"""Accuracy on the evaluation photos, through the whole engine: what the README promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facesearch import Engine
from facesearch.evaluate.lfw import bench_lfw
from facesearch.faces.extract import Extractor
from facesearch.settings import DetectSpec, PhotoLimits

pytestmark = pytest.mark.accuracy


def test_lfw(eval_data: Path, tmp_path: Path) -> None:
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        result = bench_lfw(eval_data / "lfw-dev", engine)
    assert result.no_face == 0
    assert result.verification.accuracy >= 0.993
    assert result.open_set.rank1 >= 0.986
    tpir = {point.target: point.tpir for point in result.open_set.points}
    assert tpir[0.01] >= 0.968
    assert tpir[0.1] >= 0.983
    several = {point.target: point.tpir for point in result.open_set_3.points}
    assert several[0.01] >= 0.986
    assert several[0.1] >= 0.992


def test_every_face_of_the_groups_is_found_where_it_is(eval_data: Path) -> None:
    groups = eval_data / "groups"
    truth = json.loads((groups / "truth.json").read_text())
    extractor = Extractor(DetectSpec(), PhotoLimits())
    found = extra = expected = 0
    errors = []
    for name, entry in truth.items():
        data = (groups / "photos" / name).read_bytes()
        faces = extractor(data, name).detections
        points = [np.array(p, float) for p in entry.get("landmarks68", [])]
        noses = [p[30] for p in points] or [np.array(n, float) for n in entry.get("noses", [])]
        expected += len(noses)
        free = set(range(len(faces)))
        for i, nose in enumerate(noses):
            side = faces.boxes[:, 2] - faces.boxes[:, 0]
            off = np.linalg.norm(faces.landmarks[:, 2] - nose, axis=1) / side
            near = [j for j in np.argsort(off).tolist() if j in free and off[j] < 0.3]
            if not near:
                continue
            free.remove(near[0])
            found += 1
            if points:  # eyes and mouth corners, and the box, where the truth has them
                p = points[i]
                five = [p[36:42].mean(0), p[42:48].mean(0), p[30], p[48], p[54]]
                error = np.linalg.norm(faces.landmarks[near[0]] - np.array(five), axis=1)
                errors.append(error.mean() / side[near[0]])
                low, high = p.min(axis=0), p.max(axis=0)
                x1, y1, x2, y2 = faces.boxes[near[0]]
                shown = np.clip(np.minimum(high, [x2, y2]) - np.maximum(low, [x1, y1]), 0, None)
                assert np.prod(shown) > 0.7 * np.prod(high - low), name
        extra += len(free)
    assert (expected, found) == (89, 89)
    assert np.mean(errors) < 0.08
    assert np.max(errors) < 0.25
    assert extra <= 5


def test_the_decode_scale_does_not_move_faces(eval_data: Path) -> None:
    from facesearch.faces.detect import Detector
    from facesearch.photos.decode import read_photo

    path = eval_data / "groups" / "photos" / "001_A.jpg"  # 36 megapixels
    detector = Detector(DetectSpec(sizes=(1280,)))
    full, half, quarter = (
        detector.detect(read_photo(path, wanted=wanted)) for wanted in (None, 3680, 1300)
    )
    side = full.boxes[0, 2] - full.boxes[0, 0]
    for reduced in (half, quarter):
        assert len(reduced) == len(full) == 1
        assert np.abs(reduced.landmarks - full.landmarks).max() < 0.02 * side
        assert np.abs(reduced.boxes - full.boxes).max() < 0.03 * side
