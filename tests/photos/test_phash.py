"""The perceptual hash: near for copies, far for other pictures."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesearch.photos.decode import read_photo
from facesearch.photos.phash import phash
from facesearch.values import Pixels


@pytest.fixture(scope="module")
def photos(demo_photos: Path) -> list[Pixels]:
    return [read_photo(path).pixels for path in sorted(demo_photos.rglob("*.jpg"))]


def apart(a: Pixels, b: Pixels) -> int:
    return (phash(a) ^ phash(b)).bit_count()


@pytest.mark.parametrize("factor", [0.2, 0.5, 1.6])
@pytest.mark.parametrize("quality", [30, 95])
def test_copies(photos: list[Pixels], factor: float, quality: int) -> None:
    for photo in photos:
        small = cv2.resize(photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        copy = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        assert apart(photo, copy) <= 4


def test_other_pictures(photos: list[Pixels]) -> None:
    assert min(apart(a, b) for a, b in combinations(photos, 2)) > 7
    for photo in photos:
        assert apart(photo, np.ascontiguousarray(photo[:, ::-1])) > 7


def test_blank_and_tiny_pictures_have_a_hash() -> None:
    blank = np.full((40, 50, 3), 127, np.uint8)
    assert phash(blank) == phash(np.full((900, 1200, 3), 127, np.uint8))
    assert 0 <= phash(np.zeros((1, 1, 3), np.uint8)) < 2**64
