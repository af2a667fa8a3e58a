"""68 landmarks: geometry of crops, the shipped networks, what points say of a head."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facesearch.errors import ModelError
from facesearch.faces.detect import Detector
from facesearch.faces.face_shape import SHAPE
from facesearch.faces.head import eyes_opening, head, mouth_opening, pose
from facesearch.faces.landmark_crops import (
    MIRRORED,
    SIDE,
    crop_matrices,
    face_crops,
    moved,
    moved_back,
)
from facesearch.faces.landmarked import draw, landmarked
from facesearch.faces.landmarks import Landmarker, Landmarks, load_network, weights_file
from facesearch.faces.registry import BUNDLED_SHA256
from facesearch.photos.decode import read_photo
from facesearch.settings import DetectSpec, LandmarkSpec
from facesearch.train.landmarks_data import five
from facesearch.values import Detections, Photo

FIVE = np.array([[[30, 40], [70, 44], [48, 62], [34, 80], [66, 82]]], np.float32)


def _turned(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """(68, 2): the mean face turned, by rotations written out here, 80 pixels large."""
    y, p, r = np.radians([yaw, pitch, roll])
    x, up, out = SHAPE.T
    x, up, out = x, up * np.cos(p) - out * np.sin(p), out * np.cos(p) + up * np.sin(p)
    x, out = x * np.cos(y) + out * np.sin(y), out * np.cos(y) - x * np.sin(y)
    down = -up
    x, down = x * np.cos(r) - down * np.sin(r), x * np.sin(r) + down * np.cos(r)
    return np.column_stack([x, down]) * 80 + 300


# --- crops


def test_points_go_to_the_crop_and_back() -> None:
    matrices = crop_matrices(FIVE)
    points = np.random.default_rng(0).uniform(0, 100, (1, 68, 2))
    assert np.allclose(moved_back(moved(points, matrices), matrices), points)
    there = moved(FIVE, matrices)[0]
    assert np.linalg.norm(there[1] - there[0]) == pytest.approx(27.5, abs=3)
    assert (np.abs(there - (SIDE - 1) / 2) < SIDE / 2).all()


def test_a_reduced_decode_gives_the_same_crop() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (60, 50, 3), np.uint8)
    large = cv2.resize(small, (200, 240), interpolation=cv2.INTER_LINEAR)
    crops = [
        face_crops(Photo(np.asarray(p, np.uint8), (200, 240), ""), crop_matrices(FIVE * 2))[0]
        for p in (small, large)
    ]
    assert np.abs(crops[0].astype(int) - crops[1].astype(int)).mean() < 6


# --- heads


@pytest.mark.parametrize(
    "angles", [(0, 0, 0), (30, 0, 0), (0, 20, 0), (0, 0, 25), (-35, -15, 20), (20, 10, -120)]
)
def test_pose_of_a_turned_mean_face(angles: tuple[float, float, float]) -> None:
    assert np.allclose(pose(_turned(*angles)), angles, atol=1.5)


def test_signs_of_a_pose() -> None:
    straight, right, low = (_turned(*a) for a in ((0, 0, 0), (25, 0, 0), (0, 25, 0)))
    assert right[30, 0] > straight[30, 0]
    assert low[30, 1] > straight[30, 1]
    clockwise = _turned(0, 0, 20)
    assert clockwise[45, 1] > clockwise[36, 1]


def test_the_mean_face_is_symmetric_and_its_nose_is_in_front() -> None:
    assert np.allclose(SHAPE[MIRRORED] * [-1, 1, 1], SHAPE, atol=2e-3)
    assert SHAPE[:, 2].argmax() == 30
    assert np.linalg.norm(SHAPE[36] - SHAPE[45]) == pytest.approx(1, abs=2e-3)


def test_points_in_one_place_are_no_head() -> None:
    said = head(Landmarks(np.full((1, 68, 2), 7, np.float32), np.zeros((1, 68), np.float32)))
    assert (said.yaw[0], said.pitch[0], said.roll[0]) == (0, 0, 0)
    assert np.isnan(said.hidden[0])


def test_eyes_and_mouth() -> None:
    face = _turned(0, 0, 0)
    shut = face.copy()
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        shut[[upper, lower]] = shut[[upper, lower]].mean(axis=0)
    for upper, lower in ((61, 67), (62, 66), (63, 65)):
        shut[[upper, lower]] = shut[[upper, lower]].mean(axis=0)
    both = np.stack([face, shut])
    assert eyes_opening(both)[1] < 0.02 < 0.2 < eyes_opening(both)[0]
    assert mouth_opening(both)[1] < 0.02
    both[0, [65, 66, 67], 1] += 30
    assert mouth_opening(both)[0] > 0.5


# --- the networks that ship


def test_the_weights_that_ship() -> None:
    network = "heat"
    data = weights_file(network).read_bytes()
    assert hashlib.sha256(data).hexdigest() == BUNDLED_SHA256[f"landmarks_{network}.safetensors"]
    assert len(data) < 4 * 10**6
    net, offset = load_network(network)
    assert not any(p.requires_grad for p in net.parameters())
    assert abs(offset) < 0.05


def test_weights_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load_network("heat", tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match="not weights of"):
        load_network("heat", tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="not weights of"):
        load_network("plain", weights_file("heat"))
    with pytest.raises(ModelError, match="train it with"):
        load_network("plain")
    with pytest.raises(ModelError, match="unknown landmark network"):
        load_network("deep")


@pytest.fixture(scope="module")
def portrait(demo_photos: Path) -> tuple[Photo, Detections]:
    photo = read_photo(demo_photos / "probes" / "jacinda_ardern_2022.jpg", wanted=1280)
    return photo, Detector(DetectSpec()).detect(photo)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_points_lie_where_the_detector_sees_them(
    precision: Literal["fp32", "auto"], portrait: tuple[Photo, Detections]
) -> None:
    spec = LandmarkSpec(device="cpu", precision=precision)
    photo, found = portrait
    points = Landmarker(spec)(photo, found).points[:1].astype(float)
    off = np.linalg.norm(five(points) - found.landmarks[:1], axis=2)
    assert off.mean() < 0.15 * np.linalg.norm(points[0, 36] - points[0, 45])


def test_a_turned_photo_has_turned_landmarks(portrait: tuple[Photo, Detections]) -> None:
    photo, found = portrait
    landmarker = Landmarker(LandmarkSpec(device="cpu", precision="fp32"))
    height, width = photo.pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 20, 1)
    pixels = np.asarray(cv2.warpAffine(photo.pixels, turn, (width, height)), np.uint8)
    other = Photo(pixels, (width, height), "")
    again = Detector(DetectSpec()).detect(other)
    whole = Photo(photo.pixels, (width, height), "")
    mine = Detector(DetectSpec()).detect(whole)
    one, two = landmarker(whole, mine), landmarker(other, again)
    back = moved(one.points[:1].astype(float), np.asarray(turn, np.float64)[None])
    size = np.linalg.norm(one.points[0, 36] - one.points[0, 45])
    assert np.linalg.norm(back - two.points[:1], axis=2).mean() < 0.08 * size
    assert head(two).roll[0] - head(one).roll[0] == pytest.approx(-20, abs=6)
    del found


def test_several_faces_at_once_are_as_one_by_one(portrait: tuple[Photo, Detections]) -> None:
    photo, found = portrait
    landmarker = Landmarker(LandmarkSpec(device="cpu", precision="fp32"))
    alone = landmarker(photo, found.take(np.array([0])))
    many = landmarker(photo, found.take(np.zeros(20, np.intp)))
    assert np.allclose(many.points, alone.points, atol=1e-2)
    assert len(landmarker(photo, Detections.none())) == 0


def test_a_face_at_the_edge(portrait: tuple[Photo, Detections]) -> None:
    """Half of it cut off: points go on outside, and nothing breaks."""
    photo, found = portrait
    middle = int(found.landmarks[0, 2, 0] * photo.scale[0])
    pixels = np.ascontiguousarray(photo.pixels[:, :middle])
    cut = Photo(pixels, (middle, pixels.shape[0]), "")
    points = Detections(
        found.boxes[:1] * photo.scale[0], found.landmarks[:1] * photo.scale[0], found.scores[:1]
    )
    answer = landmarked(cut, points, Landmarker(LandmarkSpec(device="cpu")))
    assert np.isfinite(np.array(answer.faces[0].landmarks68)).all()
    assert draw(cut, answer).shape == pixels.shape
