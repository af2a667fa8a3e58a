"""Alignment: the right transform, the right pixels, nothing lost in shrinking."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facesearch.faces.align import SIDE, TEMPLATE, align, cut, to_crops, umeyama
from facesearch.values import Detections, Photo, Pixels

F64 = NDArray[np.float64]


def similarity(scale: float, angle: float, x: float, y: float) -> F64:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


def moved(points: F64, matrix: F64) -> F64:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def umeyama_by_svd(source: F64, target: F64) -> F64:
    """Umeyama 1991, equations 34 to 43, as printed."""
    mean_s, mean_t = source.mean(axis=0), target.mean(axis=0)
    variance = ((source - mean_s) ** 2).sum(axis=1).mean()
    covariance = (target - mean_t).T @ (source - mean_s) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / variance
    return np.column_stack([scale * rotation, mean_t - scale * rotation @ mean_s])


transforms = st.builds(
    similarity,
    st.floats(0.02, 50),
    st.floats(-np.pi, np.pi),
    st.floats(-5000, 5000),
    st.floats(-5000, 5000),
)
clouds = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).normal(0, 20, (5, 2)) + TEMPLATE
)


@given(transforms)
def test_recovers_a_similarity(matrix: F64) -> None:
    source = moved(TEMPLATE, matrix)
    (found,) = umeyama(source[None])
    assert np.abs(moved(source, found) - TEMPLATE).max() < 1e-6
    back = np.vstack([found, [0, 0, 1]]) @ np.vstack([matrix, [0, 0, 1]])
    assert np.abs(back - np.eye(3)).max() < 1e-6


@given(clouds, transforms)
def test_equals_the_published_formula(cloud: F64, matrix: F64) -> None:
    source = moved(cloud, matrix)
    (found,) = umeyama(source[None])
    expected = umeyama_by_svd(source, TEMPLATE)
    assert np.allclose(moved(source, found), moved(source, expected), atol=1e-6)


@given(clouds)
def test_never_mirrors(cloud: F64) -> None:
    mirrored = cloud * [-1, 1]
    (found,) = umeyama(mirrored[None])
    assert np.linalg.det(found[:, :2]) >= 0


def test_faces_are_independent_of_each_other() -> None:
    clouds = np.random.default_rng(0).normal(50, 20, (7, 5, 2))
    alone = np.concatenate([umeyama(cloud[None]) for cloud in clouds])
    assert np.allclose(umeyama(clouds), alone, atol=1e-12)
    assert umeyama(np.zeros((0, 5, 2))).shape == (0, 2, 3)


def dotted(size: tuple[int, int], points: F64, radius: float) -> Pixels:
    """White discs on black, drawn to a sixteenth of a pixel."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y in points:
        centre = (round(x * 16), round(y * 16))
        cv2.circle(pixels, centre, round(radius * 16), (255, 255, 255), -1, cv2.LINE_AA, 4)
    return pixels


def centres(crop: Pixels, radius: float) -> F64:
    """Where the discs of a crop are, nearest to the template's points."""
    grey = crop[:, :, 0].astype(float)
    y, x = np.mgrid[:SIDE, :SIDE]
    found = []
    for tx, ty in TEMPLATE:
        weight = grey * (np.hypot(x - tx, y - ty) < 2 * radius)
        found.append([(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()])
    return np.array(found)


def faces_at(*landmarks: F64) -> Detections:
    stacked = np.array(landmarks, np.float32)
    boxes = np.concatenate([stacked.min(axis=1), stacked.max(axis=1)], axis=1)
    return Detections(boxes, stacked, np.ones(len(stacked), np.float32))


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.9, 2.1, 3.7, 7.3])
@pytest.mark.parametrize("angle", [0.0, 0.4, -2.5])
def test_landmarks_come_to_lie_on_the_template(scale: float, angle: float) -> None:
    side = round(200 * scale)
    matrix = similarity(scale, angle, 0, 0)
    landmarks = moved(TEMPLATE - TEMPLATE.mean(axis=0), matrix) + side / 2
    pixels = dotted((side, side), landmarks, 4 * scale)
    photo = Photo(pixels, (side, side), "")
    (crop,) = align(photo, faces_at(landmarks))
    assert np.abs(centres(crop, 4) - TEMPLATE).max() < 0.2


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_reduced_decode_gives_the_same_crop(factor: int) -> None:
    landmarks = (TEMPLATE - TEMPLATE.mean(axis=0)) * 9 + [800, 640]
    full = Photo(dotted((1600, 1280), landmarks, 40), (1600, 1280), "")
    size = (1600 // factor, 1280 // factor)
    reduced = Photo(
        np.asarray(cv2.resize(full.pixels, size, interpolation=cv2.INTER_AREA), np.uint8),
        full.original_size,
        "",
    )
    faces = faces_at(landmarks)
    (a,), (b,) = align(full, faces), align(reduced, faces)
    assert np.abs(centres(a, 4) - centres(b, 4)).max() < 0.05
    assert np.abs(a.astype(int) - b).mean() < 1.0
    assert np.hypot(*to_crops(reduced, faces)[0, :, 0]) == pytest.approx(factor / 9)


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((1120, 1120, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    tenth = np.array([[0.1, 0, 0], [0, 0.1, 0]])
    assert cv2.warpAffine(stripes, tenth, (SIDE, SIDE)).std() > 60  # what plain bilinear makes
    inner = cut(stripes, tenth, SIDE)[4:-4, 4:-4]
    assert inner.mean() == pytest.approx(127.5, abs=2)
    assert inner.std() < 40


def test_outside_the_photo_is_black() -> None:
    photo = Photo(np.full((100, 100, 3), 200, np.uint8), (100, 100), "")
    (crop,) = align(photo, faces_at(TEMPLATE - [60, 0]))
    assert (crop[:90, :55] == 0).all()
    assert (crop[:90, 65:] == 200).all()


def test_no_faces_no_crops() -> None:
    photo = Photo(np.zeros((10, 10, 3), np.uint8), (10, 10), "")
    crops = align(photo, Detections.none())
    assert crops.shape == (0, SIDE, SIDE, 3)
    assert crops.dtype == np.uint8
