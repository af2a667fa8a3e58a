"""The network itself: weights checked, odd sizes, threads, what cannot be a face."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesearch.errors import ModelError
from facesearch.faces.detect import unmirrored
from facesearch.faces.yunet import WEIGHTS, YuNet, sound
from facesearch.photos.decode import read_photo
from facesearch.resources import shipped
from facesearch.values import Pixels


@pytest.fixture(scope="module")
def group(demo_photos: Path) -> Pixels:
    """The group photo at 800 x 450."""
    pixels = read_photo(demo_photos / "probes" / "group.jpg").pixels
    return np.asarray(cv2.resize(pixels, (800, 450), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def yunet() -> YuNet:
    return YuNet(0.5)


def test_rows(yunet: YuNet, group: Pixels) -> None:
    rows = yunet.find([group])[0]
    assert rows.shape == (3, 15)
    assert rows.dtype == np.float32
    assert (rows[:, 14] > 0.8).all()
    for x1, y1, x2, y2, *points, _ in rows.tolist():
        assert (np.array(points[0::2]) > x1).all()
        assert (np.array(points[0::2]) < x2).all()
        left_eye, right_eye, nose, left_mouth, right_mouth = np.array(points).reshape(5, 2)
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert y1 < left_eye[1] < nose[1] < left_mouth[1] < y2


@pytest.mark.parametrize("more", [1, 7, 15, 31])
def test_sizes_that_are_no_multiple_of_32_move_nothing(
    yunet: YuNet, group: Pixels, more: int
) -> None:
    """The group photo on black, 832 x 480, and the same less a few columns and rows of black."""
    padded = np.zeros((480, 832, 3), np.uint8)
    padded[:449, :800] = group[:449]
    odd, even = yunet.find([padded[: 480 - more, : 832 - more], padded])
    assert np.abs(odd - even).max() < 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (31, 33), (96, 96)])
def test_any_size_will_do(yunet: YuNet, size: tuple[int, int]) -> None:
    for value in (0, 255):
        (rows,) = yunet.find([np.full((*size, 3), value, np.uint8)])
        assert rows.shape == (0, 15)


def test_mirror(yunet: YuNet, group: Pixels) -> None:
    """A mirrored picture's finds, unmirrored, are the picture's; left stays left."""
    plain, flipped = yunet.find([group, np.asarray(cv2.flip(group, 1), np.uint8)])
    mirrored = unmirrored(flipped.astype(float), 800)
    by_place = mirrored[np.argsort(mirrored[:, 0])], plain[np.argsort(plain[:, 0])]
    assert np.abs(by_place[0][:, :14] - by_place[1][:, :14]).max() < 12  # pixels; faces: 130


def test_threads_have_a_network_each(yunet: YuNet, group: Pixels) -> None:
    sizes = [(800 - 16 * i, 450 - 9 * i) for i in range(16)]
    pictures = [np.asarray(cv2.resize(group, size), np.uint8) for size in sizes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: yunet.find([picture])[0], pictures))
    for rows, alone in zip(together, yunet.find(pictures), strict=True):
        assert np.array_equal(rows, alone)
    assert cv2.getNumThreads() == 1


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"yunet\.onnx: cannot be read .*reinstall"):
        YuNet(0.5, tmp_path / "yunet.onnx")


@pytest.mark.parametrize("harm", ["cut", "flip"])
def test_corrupt_weights(tmp_path: Path, harm: str) -> None:
    data = bytearray((shipped("models") / WEIGHTS).read_bytes())
    if harm == "cut":
        del data[-100:]
    else:
        data[5000] ^= 1
    path = tmp_path / "yunet.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"yunet\.onnx: .*sha256"):
        YuNet(0.5, path)


def test_loading_says_nothing() -> None:
    code = (
        "import cv2\n"
        "from facesearch.faces.yunet import YuNet\n"
        "before = cv2.utils.logging.getLogLevel()\n"
        "YuNet(0.5)\n"
        "assert cv2.utils.logging.getLogLevel() == before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_what_cannot_be_a_face() -> None:
    good = np.array([10, 10, 50, 60, 20, 25, 40, 25, 30, 35, 22, 48, 38, 48, 0.9], np.float32)
    rows = np.tile(good, (7, 1))
    rows[1, 5] = np.nan
    rows[2, 2] = np.inf
    rows[3, 14] = np.nan
    rows[4, 2] = 10  # no width
    rows[5, 3] = 5  # upside down
    rows[6, 4:14] = 30  # all landmarks in one spot
    assert sound(rows).tolist() == [True] + [False] * 6
    assert sound(rows[:0]).tolist() == []
