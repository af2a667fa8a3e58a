"""Detection: every face, once, where it is, whatever its size and the photo's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facesearch.faces.detect import Detector, distinct, scales, turned, turned_on
from facesearch.photos.decode import read_photo
from facesearch.settings import DetectSpec
from facesearch.values import Detections, Photo, Pixels

PEOPLE = {
    "people/Barack_Obama/barack_obama.jpg": ((301, 297), (400, 288), (356, 344)),
    "people/Emmanuel_Macron/emmanuel_macron_2025.jpg": ((274, 326), (406, 314), (349, 393)),
    "people/Jacinda_Ardern/jacinda_ardern_2018.jpg": ((296, 310), (430, 298), (366, 375)),
    "probes/emmanuel_macron_2014.jpg": ((87, 89), (119, 86), (105, 105)),
    "probes/jacinda_ardern_2022.jpg": ((284, 289), (420, 280), (359, 356)),
    "probes/rishi_sunak.jpg": ((314, 324), (446, 319), (393, 383)),
}
"""Both eyes and the nose, read off the pictures by eye."""


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(DetectSpec())


@pytest.fixture(scope="module")
def portrait(demo_photos: Path) -> Pixels:
    """722 x 899, one face, about 310 wide."""
    return read_photo(demo_photos / "people/Emmanuel_Macron/emmanuel_macron_2025.jpg").pixels


def photo_of(pixels: Pixels, size: tuple[int, int] | None = None) -> Photo:
    return Photo(pixels, size or (pixels.shape[1], pixels.shape[0]), "")


def resized(pixels: Pixels, factor: float) -> Pixels:
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=way), np.uint8)


def eyes_apart(faces: Detections) -> float:
    return float(np.linalg.norm(faces.landmarks[0, 1] - faces.landmarks[0, 0]))


@pytest.mark.parametrize("name", PEOPLE)
def test_one_face_a_portrait_where_it_is(detector: Detector, demo_photos: Path, name: str) -> None:
    faces = detector.detect(read_photo(demo_photos / name))
    assert len(faces) == 1
    assert {a.dtype for a in (faces.boxes, faces.landmarks, faces.scores)} == {np.dtype("f4")}
    off = np.linalg.norm(faces.landmarks[0, :3] - np.array(PEOPLE[name]), axis=1)
    assert off.max() < 0.2 * eyes_apart(faces)
    x1, y1, x2, y2 = faces.boxes[0]
    assert ((faces.landmarks[0] > (x1, y1)) & (faces.landmarks[0] < (x2, y2))).all()
    assert 0.9 < faces.scores[0] <= 1.0


def test_everybody_in_a_group_most_confident_first(detector: Detector, demo_photos: Path) -> None:
    faces = detector.detect(read_photo(demo_photos / "probes" / "group.jpg"))
    middles = (faces.boxes[:, 0] + faces.boxes[:, 2]) / 2
    assert sorted(middles.round(-2).tolist()) == [300, 800, 1300]
    assert (np.diff(faces.scores) <= 0).all()


@pytest.mark.parametrize("factor", [0.16, 0.4, 1.0])
def test_small_faces(detector: Detector, portrait: Pixels, factor: float) -> None:
    """Down to 25 pixels wide in the largest run, in a corner of a large photo."""
    full = detector.detect(photo_of(portrait))
    small = resized(portrait, factor)
    canvas = np.full((1920, 2560, 3), 128, np.uint8)
    left, top = 2500 - small.shape[1], 1900 - small.shape[0]
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    faces = detector.detect(photo_of(canvas))
    assert len(faces) == 1
    expected = (full.landmarks[0] + 0.5) * factor - 0.5 + (left, top)
    off = np.linalg.norm(faces.landmarks[0] - expected, axis=1).mean()
    assert off < 0.12 * eyes_apart(full) * factor


def test_a_face_that_fills_a_large_photo_needs_a_small_scale(portrait: Pixels) -> None:
    huge = photo_of(resized(portrait[150:590, 190:530], 9.0))  # the face alone, 3960 pixels high
    assert len(Detector(DetectSpec(sizes=(4096,))).detect(huge)) == 0
    assert len(Detector(DetectSpec()).detect(huge)) == 1


@pytest.mark.parametrize("cut", ["left", "right", "top", "bottom"])
def test_faces_cut_off_by_the_edge(detector: Detector, portrait: Pixels, cut: str) -> None:
    x1, y1, x2, y2 = detector.detect(photo_of(portrait)).boxes[0].round().astype(int).tolist()
    width, height = x2 - x1, y2 - y1
    pixels = {
        "left": portrait[:, x1 + width // 4 :],
        "right": portrait[:, : x2 - width // 4],
        "top": portrait[y1 + height // 4 :],
        "bottom": portrait[: y2 - height // 4],
    }[cut]
    assert len(detector.detect(photo_of(pixels))) == 1


def test_the_decode_scale_does_not_matter(detector: Detector, demo_photos: Path) -> None:
    full = read_photo(demo_photos / "probes" / "group.jpg")
    a = detector.detect(full)
    for factor in (0.8, 0.5):
        b = detector.detect(photo_of(resized(full.pixels, factor), full.original_size))
        order = [int(np.abs(b.boxes[:, 0] - x).argmin()) for x in a.boxes[:, 0]]
        assert sorted(order) == [0, 1, 2]
        assert np.abs(b.boxes[order] - a.boxes).max() < 0.06 * 250
        assert np.linalg.norm(b.landmarks[order] - a.landmarks, axis=2).mean() < 0.03 * 250


def test_the_scale_a_face_is_found_at_does_not_matter(demo_photos: Path) -> None:
    """The point of the second look: YuNet alone differs several times as much."""
    single = [Detector(DetectSpec(sizes=(size,))) for size in (240, 320, 480, 640)]
    spread, alone = [], []
    for name in PEOPLE:
        photo = read_photo(demo_photos / name)
        faces = [detector.detect(photo) for detector in single]
        assert [len(f) for f in faces] == [1] * len(single)
        unit = eyes_apart(faces[0])
        spread.append(np.std([f.landmarks[0] for f in faces], axis=0).mean() / unit)
        first = [
            detector._first_look(detector._levels(photo.pixels))[0, 4:14] for detector in single
        ]
        alone.append(np.std(first, axis=0).mean() / unit)
    assert np.mean(spread) < 0.02
    assert np.mean(spread) < 0.6 * np.mean(alone)


def test_a_mirrored_photo_has_mirrored_faces(detector: Detector, demo_photos: Path) -> None:
    offs = []
    for name in PEOPLE:
        photo = read_photo(demo_photos / name)
        plain = detector.detect(photo)
        flipped = detector.detect(photo_of(np.asarray(cv2.flip(photo.pixels, 1), np.uint8)))
        back = flipped.landmarks[0] * (-1, 1) + (photo.original_size[0] - 1, 0)
        off = np.linalg.norm(back[[1, 0, 2, 4, 3]] - plain.landmarks[0], axis=1)
        offs.append(off.mean() / eyes_apart(plain))
    assert np.mean(offs) < 0.04
    assert max(offs) < 0.07


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
def test_tilted_heads(detector: Detector, demo_photos: Path, degrees: float) -> None:
    """Most of a tilt is seen; YuNet alone sees a third."""
    seen = []
    for name in PEOPLE:
        photo = read_photo(demo_photos / name)
        width, height = photo.original_size
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
        tilted = np.asarray(cv2.warpAffine(photo.pixels, matrix, (width, height)), np.uint8)
        before, after = detector.detect(photo), detector.detect(photo_of(tilted))
        assert len(after) == 1
        turns = [f.landmarks[0, 1] - f.landmarks[0, 0] for f in (before, after)]
        angles = [np.degrees(np.arctan2(y, x)) for x, y in turns]
        seen.append((angles[1] - angles[0]) / degrees)
    assert 0.7 < np.mean(seen) < 1.15


def test_no_faces(detector: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for pixels in (noise, np.zeros((1, 1, 3), np.uint8), np.full((3, 9000, 3), 255, np.uint8)):
        assert len(detector.detect(photo_of(pixels))) == 0


def test_limits_are_kept(demo_photos: Path) -> None:
    """The smallest of the group's boxes is 200 wide, the others 250 and more."""
    photo = read_photo(demo_photos / "probes" / "group.jpg")
    assert len(Detector(DetectSpec(min_face=230)).detect(photo)) == 2
    assert len(Detector(DetectSpec(min_face=400)).detect(photo)) == 0
    assert len(Detector(DetectSpec(score=0.99)).detect(photo)) == 0
    half = photo_of(resized(photo.pixels, 0.5), photo.original_size)
    assert len(Detector(DetectSpec(min_face=230)).detect(half)) == 2  # in original pixels


def test_threads_agree(detector: Detector, demo_photos: Path) -> None:
    photos = [read_photo(demo_photos / name) for name in PEOPLE]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector.detect, photos))
    for faces, photo in zip(together, photos, strict=True):
        assert np.array_equal(faces.landmarks, detector.detect(photo).landmarks)


def test_wanted_is_the_largest_scale_but_enough_for_crops() -> None:
    assert Detector(DetectSpec(sizes=(2000, 320))).wanted == 2000
    assert Detector(DetectSpec(sizes=(320,))).wanted == 1280


@pytest.mark.parametrize(
    ("longer", "runs"),
    [
        (100, [100]),
        (250, [250]),  # 320 would enlarge
        (479, [479]),  # 320 is nearly the same
        (480, [480, 320]),
        (1280, [1280, 320]),
        (7360, [1280, 320]),
    ],
)
def test_scales(longer: int, runs: list[int]) -> None:
    assert scales(longer, (320, 1280)) == runs


def test_scales_in_any_order() -> None:
    assert scales(4000, (640, 320, 2000, 640, 700)) == [2000, 700, 320]


def boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float64]:
    return np.array(rows, np.float64).reshape(-1, 4)


def test_overlapping_boxes_are_one_face() -> None:
    found = boxes((0, 0, 10, 10), (1, 0, 11, 10), (5, 0, 15, 10), (30, 0, 40, 10))
    assert distinct(found, 0.5).tolist() == [0, 2, 3]  # overlaps 0.82, 0.33 and 0
    assert distinct(found, 0.3).tolist() == [0, 3]
    assert distinct(found[::-1], 0.5).tolist() == [0, 1, 2]
    assert distinct(boxes(), 0.5).tolist() == []


def test_a_part_of_a_face_is_that_face() -> None:
    assert distinct(boxes((0, 0, 100, 100), (10, 10, 30, 30)), 0.5).tolist() == [0]
    assert distinct(boxes((0, 0, 100, 100), (90, 10, 120, 40)), 0.5).tolist() == [0, 1]


def test_a_turned_box_keeps_its_size() -> None:
    row = np.array([0, 0, 20, 30, *np.arange(10), 0.9], float)
    assert np.allclose(turned(row, np.array([[1.0, 0, 0], [0, 1, 0]])), row)
    quarter = turned(row, np.array([[0.0, -2, 5], [2, 0, 7]]))  # by 90 degrees, twice as large
    assert np.allclose(quarter[:4], [5 - 60, 7, 5, 7 + 40])
    assert np.allclose(quarter[4:6], [5 - 2 * 1, 7 + 2 * 0])
    assert quarter[14] == row[14]
    c = np.sqrt(0.5)
    slanted = turned(row, np.array([[c, -c, 0], [c, c, 0]]))
    assert np.allclose(slanted[2:4] - slanted[:2], np.sqrt((20**2 + 30**2) / 2))


def test_turned_on() -> None:
    """Doubling a turn of 10 degrees makes it 20, about the same middle and at the same size."""
    before = np.array([[0, 0], [10, 0], [5, 5], [1, 9], [9, 9]], float)
    by = {d: cv2.getRotationMatrix2D((5.0, 4.6), d, 1.0) for d in (10, 20)}
    ten, twenty = (np.array(before @ m[:, :2].T + m[:, 2], np.float64) for m in by.values())
    both, turns = np.stack([before, before + 7]), np.stack([ten, ten + 7])
    assert np.allclose(turned_on(both, turns, 2.0), [twenty, twenty + 7])
    assert np.allclose(turned_on(both, turns, 1.0), turns)
    assert turned_on(both[:0], turns[:0], 2.0).shape == (0, 5, 2)
