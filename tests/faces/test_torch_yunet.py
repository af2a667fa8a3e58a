"""YuNet in torch finds what OpenCV's does, whatever it is asked together with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facesearch.errors import ModelError
from facesearch.faces import torch_yunet
from facesearch.faces.detect import Detector
from facesearch.faces.together import Together
from facesearch.faces.torch_yunet import TorchYuNet
from facesearch.faces.yunet import YuNet
from facesearch.photos.decode import read_photo
from facesearch.settings import DetectSpec
from facesearch.values import Pixels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(demo_photos: Path) -> list[Pixels]:
    """The demo's photos at odd sizes, and one without faces."""
    made = [np.full((200, 300, 3), 128, np.uint8)]
    for number, path in enumerate(sorted(demo_photos.rglob("*.jpg"))):
        pixels = read_photo(path).pixels
        factor = (250 + 97 * (number % 5)) / max(pixels.shape)
        made.append(np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor), np.uint8))
    return made


@pytest.fixture(scope="module")
def shipped_detector() -> TorchYuNet:
    return TorchYuNet(0.5, CPU, threads=2)


def test_float32_is_opencv_to_rounding(pictures: list[Pixels]) -> None:
    ours = TorchYuNet(0.5, CPU, "fp32").find(pictures)
    theirs = YuNet(0.5).find(pictures)
    assert sum(len(rows) for rows in theirs) >= len(pictures)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.abs(a - b).max(initial=0) < 2e-3  # of 500 pixels


def test_the_fast_path_finds_the_same_faces(
    pictures: list[Pixels], shipped_detector: TorchYuNet
) -> None:
    """Within 6 % of the face's width, 1.4 % on average, in this processor's precision."""
    for a, b in zip(shipped_detector.find(pictures), YuNet(0.5).find(pictures), strict=True):
        assert len(a) == len(b)
        for row in b:
            off = np.abs(a[:, :14] - row[:14]).max(axis=1) / (row[2] - row[0])
            assert off.min() < 0.06
            assert abs(a[off.argmin(), 14] - row[14]) < 0.03


def test_company_does_not_matter(pictures: list[Pixels], shipped_detector: TorchYuNet) -> None:
    """Alone, together, and from many threads: the same to the bit."""
    alone = [shipped_detector.find([picture])[0] for picture in pictures]
    three = [picture for picture in pictures for _ in range(3)]
    together = shipped_detector.find(three)
    with ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(lambda picture: shipped_detector.find([picture])[0], three))
    for i, rows in enumerate(alone):
        for j in range(3 * i, 3 * i + 3):
            assert np.array_equal(together[j], rows)
            assert np.array_equal(threads[j], rows)


def test_detections_agree_with_those_of_probes(demo_photos: Path) -> None:
    """What is stored by bulk work and what is searched for are the same faces in the same place."""
    spec = DetectSpec()
    bulk, probe = Detector(spec, lambda score: TorchYuNet(score, CPU)), Detector(spec)
    offs = []
    for path in sorted(demo_photos.rglob("*.jpg")):
        a, b = (detector.detect(read_photo(path)) for detector in (bulk, probe))
        assert len(a) == len(b)
        for points in b.landmarks:
            eyes = np.linalg.norm(points[1] - points[0])
            offs.append(np.linalg.norm(a.landmarks - points, axis=2).mean(axis=1).min() / eyes)
    assert np.mean(offs) < 0.02  # a mirrored photo's are 0.03 off
    assert max(offs) < 0.06


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 16, 64, 96), (1, 64, 2, 4), (3, 64, 2, 2)])
def test_halved_is_pooling(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).sub(0.5).relu().to(dtype)
    for laid_out in (x, x.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(torch_yunet.halved(laid_out), torch.max_pool2d(x, 2))


def test_one_look_finds_the_same_faces(demo_photos: Path) -> None:
    twice = Detector(DetectSpec(), lambda score: TorchYuNet(score, CPU))
    once = Detector(DetectSpec(second_look=False), lambda score: TorchYuNet(score, CPU))
    for path in sorted(demo_photos.rglob("*.jpg")):
        photo = read_photo(path)
        near, far = twice.detect(photo), once.detect(photo)
        assert len(near) <= len(far) <= len(near) + 1
        for points in near.landmarks:
            eyes = np.linalg.norm(points[1] - points[0])
            off = np.linalg.norm(far.landmarks - points, axis=2).mean(axis=1).min() / eyes
            assert off < 0.3
        assert (far.scores >= DetectSpec().score).all()


def test_torch_keeps_its_threads(pictures: list[Pixels]) -> None:
    before = torch.get_num_threads()
    TorchYuNet(0.5, CPU, threads=3).find(pictures[:2])
    assert torch.get_num_threads() == before


def test_damaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_yunet, "shipped", lambda part: tmp_path)
    with pytest.raises(ModelError, match="reinstall"):
        torch_yunet.load()
    (tmp_path / torch_yunet.WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="reinstall"):
        torch_yunet.load()


def test_together_keeps_kinds_and_sizes_apart() -> None:
    seen: list[list[int]] = []

    def compute(batch: Sequence[int]) -> list[int]:
        seen.append(list(batch))
        return [item * item for item in batch]

    together = Together(compute, kind=lambda item: item % 2, most=lambda kind: 3, threads=2)
    assert together(range(20)) == [i * i for i in range(20)]
    assert together([]) == []
    assert all(len(batch) <= 3 and len({item % 2 for item in batch}) == 1 for batch in seen)


def test_together_takes_what_others_ask_meanwhile() -> None:
    gate, sizes = threading.Event(), []

    def compute(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        gate.wait(30)
        return list(batch)

    together = Together(compute, kind=lambda item: 0, most=lambda kind: 100, threads=1)
    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(together, [i, i]) for i in range(9)]
        while sum(sizes) + sum(len(one) for one in list(together._waiting.values())) < 18:
            threading.Event().wait(0.01)
        gate.set()
        assert [answer.result() for answer in answers] == [[i, i] for i in range(9)]
    assert sum(sizes) == 18
    assert len(sizes) <= 2


def test_together_shares_only_full_batches() -> None:
    """While one thread computes, another leaves what is less than a batch to it."""
    begun, gate = threading.Semaphore(0), threading.Event()
    sizes: list[int] = []

    def compute(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        begun.release()
        assert gate.wait(30)
        return list(batch)

    together = Together(compute, kind=lambda item: 0, most=lambda kind: 4, threads=2)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together, [0])
        assert begun.acquire(timeout=30)
        few = [pool.submit(together, [i]) for i in range(3)]
        assert not begun.acquire(timeout=0.2)  # three wait: less than a batch
        fourth = pool.submit(together, [3])
        assert begun.acquire(timeout=30)
        assert sizes == [1, 4]
        gate.set()
        assert [one.result(30) for one in (first, *few, fourth)] == [[0], [0], [1], [2], [3]]


def test_together_tells_everybody_of_a_failure() -> None:
    def compute(batch: Sequence[int]) -> list[int]:
        raise MemoryError("no room")

    together = Together(compute, kind=lambda item: 0, most=lambda kind: 2, threads=1)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(together, [i]) for i in range(4)]
        for answer in answers:
            with pytest.raises(MemoryError):
                answer.result()
