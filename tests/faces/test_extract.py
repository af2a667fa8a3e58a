"""Bytes to aligned faces: each step at the scale it needs, and whom a portrait is of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesearch.errors import PhotoError, Reason
from facesearch.faces import extract
from facesearch.faces.align import align
from facesearch.faces.extract import Extractor, finer, principal
from facesearch.photos.decode import decode, read_photo
from facesearch.settings import DetectSpec, PhotoLimits
from facesearch.values import Detections, Photo

LIMITS = PhotoLimits()


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(DetectSpec(), LIMITS)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The scales asked for; decoding itself goes on as ever."""
    asked: list[int | None] = []

    def noted(
        data: bytes, name: str, limits: PhotoLimits, wanted: int | None, sha256: str | None
    ) -> Photo:
        asked.append(wanted)
        return decode(data, name, limits, wanted, sha256)

    monkeypatch.setattr(extract, "decode", noted)
    return asked


def large_jpeg(demo_photos: Path, face_scale: float) -> bytes:
    """4000 x 3000, with a portrait whose face is 310 pixels wide times the scale."""
    portrait = read_photo(demo_photos / "people/Emmanuel_Macron/emmanuel_macron_2025.jpg").pixels
    way = cv2.INTER_AREA if face_scale < 1 else cv2.INTER_CUBIC
    sized = cv2.resize(portrait, None, fx=face_scale, fy=face_scale, interpolation=way)
    canvas = np.full((3000, 4000, 3), 128, np.uint8)
    canvas[200 : 200 + sized.shape[0], 900 : 900 + sized.shape[1]] = sized
    done, data = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done
    return data.tobytes()


def test_extraction(extractor: Extractor, demo_photos: Path) -> None:
    path = demo_photos / "probes" / "group.jpg"
    data = path.read_bytes()
    found = extractor(data, "group")
    assert (found.name, found.size) == ("group", (1600, 900))
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.crops.shape == (3, 112, 112, 3)
    assert len(found.detections) == 3
    assert np.array_equal(found.crops, align(read_photo(path), found.detections))


def test_a_large_face_needs_one_reduced_decode(
    extractor: Extractor, demo_photos: Path, decodes: list[int | None]
) -> None:
    found = extractor(large_jpeg(demo_photos, 3.0), "large")
    assert len(found.detections) == 1
    assert decodes == [1280]


def test_a_small_face_is_cut_from_as_many_pixels_as_it_has(
    extractor: Extractor, demo_photos: Path, decodes: list[int | None]
) -> None:
    data = large_jpeg(demo_photos, 0.3)
    found = extractor(data, "small")
    assert len(found.detections) == 1
    first, second = decodes
    assert first == 1280
    assert second is not None
    assert 2000 < second <= 4000
    full = decode(data, "small", LIMITS)
    assert np.array_equal(found.crops, align(full, found.detections))
    reduced = align(decode(data, "small", LIMITS, 1280), found.detections)
    sharpness = [float(cv2.Laplacian(c[0], cv2.CV_64F).var()) for c in (found.crops, reduced)]
    assert sharpness[0] > 1.5 * sharpness[1]


def faces(*boxes: tuple[float, float, float, float]) -> Detections:
    """Faces with eyes at 0.3 and 0.7 of the width, as the template has them, about."""
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    shape = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.33, 0.8], [0.67, 0.8]], np.float32)
    size = corners[:, None, 2:] - corners[:, None, :2]
    return Detections(corners, corners[:, None, :2] + shape * size, np.ones(len(boxes), np.float32))


def photo(decoded: tuple[int, int], original: tuple[int, int]) -> Photo:
    return Photo(np.zeros((decoded[1], decoded[0], 3), np.uint8), original, "")


def test_no_finer_than_the_smallest_face_needs() -> None:
    large, small = (0.0, 0.0, 1600.0, 1600.0), (2000.0, 0.0, 2200.0, 200.0)
    reduced = photo((1000, 500), (4000, 2000))  # a quarter: the faces are 400 and 50 there
    assert finer(reduced, faces(large)) is None
    wanted = finer(reduced, faces(large, small))
    assert wanted is not None
    enough = photo((wanted, wanted // 2), (4000, 2000))
    assert 1000 < wanted < 4000
    assert finer(enough, faces(large, small)) in (None, wanted + 1)
    tiny = finer(reduced, faces((0.0, 0.0, 20.0, 20.0)))
    assert tiny == 4000  # there is no more
    assert finer(photo((4000, 2000), (4000, 2000)), faces((0.0, 0.0, 20.0, 20.0))) is None
    assert finer(reduced, faces()) is None


def test_a_photo_without_faces(extractor: Extractor) -> None:
    done, data = cv2.imencode(".png", np.full((40, 60, 3), 90, np.uint8))
    assert done
    found = extractor(data.tobytes(), "blank")
    assert (found.size, len(found.detections)) == ((60, 40), 0)
    assert found.crops.shape == (0, 112, 112, 3)


def test_an_unreadable_photo(extractor: Extractor) -> None:
    with pytest.raises(PhotoError) as caught:
        extractor(b"not a photo", "notes.txt")
    assert caught.value.reason is Reason.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        (((400, 300, 500, 400),), 0),
        (((0, 0, 100, 100), (450, 350, 550, 450)), 1),  # as large: the one in the middle
        (((430, 330, 460, 360), (300, 200, 700, 600)), 1),  # the large one, not one behind it
        (((480, 380, 520, 420), (0, 0, 60, 60)), 0),
    ],
)
def test_principal(boxes: tuple[tuple[float, float, float, float], ...], expected: int) -> None:
    assert principal(faces(*boxes), (1000, 800)) == expected
