"""Training of landmark networks: losses, augmentation, data, a run from start to weights."""

from __future__ import annotations

import csv
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from facesearch.cli.train_landmarks import landmarks
from facesearch.errors import LibraryError, UsageError
from facesearch.faces.landmark_crops import MIRRORED, SIDE
from facesearch.faces.landmark_networks import GRID
from facesearch.faces.landmarks import Landmarker
from facesearch.settings import LandmarkSpec
from facesearch.train.landmarks import LandmarkRun, train
from facesearch.train.landmarks_augment import augmented, centred, degraded, mirrored, placed
from facesearch.train.landmarks_data import STORED, part, person, read
from facesearch.train.landmarks_loss import WIDTH, cross_entropy, wing
from facesearch.train.trace import read as read_trace

# --- losses


def test_wing_is_continuous_even_and_zero_at_zero() -> None:
    at = torch.tensor([0.0, 1.0, -1.0, WIDTH - 1e-6, WIDTH + 1e-6, 20.0], dtype=torch.double)
    values = wing(at)
    assert values[0] == 0
    assert values[1] == values[2]
    assert torch.isclose(values[3], values[4], atol=1e-5)
    assert torch.isclose(values[5] - values[4], torch.tensor(20 - WIDTH, dtype=torch.double))


def test_wing_has_the_published_form() -> None:
    """w ln(1 + |x| / e), and |x| - C with C = w - w ln(1 + w / e); w 10, e 2 (Feng et al.)."""
    got = wing(torch.tensor([3.0, 15.0], dtype=torch.double), width=10.0, curvature=2.0)
    assert np.allclose(got.numpy(), [10 * np.log(2.5), 15 - (10 - 10 * np.log(6.0))])


def test_gradients_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    off = torch.randn(40, generator=generator, dtype=torch.double) * 8
    off = off[(off.abs() - WIDTH).abs() > 0.01].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: wing(x), (off,))
    cells = (torch.arange(6, dtype=torch.double) + 0.5) / 6
    heat = torch.randn(1, 2, 6, 6, generator=generator, dtype=torch.double).requires_grad_()
    points = torch.tensor([[[0.4, 0.6], [0.1, 0.9]]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda h: cross_entropy(h, points, cells), (heat,))


def test_heatmaps_loss_is_zero_at_the_aim_and_says_x_from_y() -> None:
    cells = (torch.arange(GRID) + 0.5) / GRID
    points = torch.tensor([[[0.25, 0.75]]])
    x, y = (cells[None] - 0.25) * GRID, (cells[:, None] - 0.75) * GRID
    aim = -(x**2 + y**2) / 2
    assert cross_entropy(aim[None, None], points, cells).item() == pytest.approx(0, abs=1e-5)
    assert cross_entropy(aim.T[None, None], points, cells).item() > 10


# --- augmentation


def test_points_stay_on_what_they_mark() -> None:
    rng = np.random.default_rng(0)
    spots = np.array([[70.0, 80.0], [120.0, 95.0], [96.0, 130.0]])
    for angle, scale in ((0.0, 1.0), (0.4, 1.1), (-0.3, 0.8)):
        for spot in spots:
            picture = np.zeros((STORED, STORED, 3), np.uint8)
            cv2.circle(picture, (int(spot[0]), int(spot[1])), 3, (255, 255, 255), -1)
            points = np.tile(spot, (68, 1)) + rng.normal(0, 0.01, (68, 2))
            crop, moved = placed(picture, points, centred(STORED, angle, scale))
            for image, marks in ((crop, moved), mirrored(crop, moved)):
                ys, xs = np.nonzero(image[..., 0] > 127)
                middle = (np.array([xs.mean(), ys.mean()]) + 0.5) / SIDE
                assert np.abs(marks.mean(axis=0) - middle).max() < 0.5 / SIDE


def test_a_mirror_trades_left_and_right() -> None:
    assert (MIRRORED[MIRRORED] == np.arange(68)).all()
    assert MIRRORED[[0, 8, 17, 30, 31, 36, 37, 39, 41, 48, 60, 61, 67]].tolist() == [
        *(16, 8, 26, 30, 35, 45, 44, 42, 46, 54, 64, 63, 65)
    ]


def test_augmentation_depends_on_its_generator_alone() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (STORED, STORED, 3), np.uint8)
    points = np.full((68, 2), STORED / 2)
    one, two, three = (augmented(picture, points, np.random.default_rng(n)) for n in (5, 5, 6))
    assert (one[0] == two[0]).all()
    assert (one[1] == two[1]).all()
    assert (one[0] != three[0]).any()
    for n in range(40):  # every kind of damage leaves a picture
        crop = degraded(one[0], np.random.default_rng(n))
        assert crop.shape == (SIDE, SIDE, 3)
        assert crop.dtype == np.uint8


# --- data


def test_people_are_in_one_part_whatever_their_photos() -> None:
    names = [f"Person_{n}" for n in range(2000)]
    parts = [part(name) for name in names]
    assert person(Path("photos/Ann_Lee_07.jpg")) == "Ann_Lee"
    assert 0.16 < parts.count("test") / len(parts) < 0.24
    assert 0.05 < parts.count("validation") / len(parts) < 0.11
    assert part("Person_1") == parts[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read"), ("photo,x0\na.jpg,1\n", "row 1"), ("photo,x0\n", "no photos")],
)
def test_a_table_that_is_none(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "points.csv").write_text(text)
    with pytest.raises(UsageError, match=words):
        read(tmp_path)


# --- a run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path) -> Path:
    """Small copies of the demo portraits, labelled by the shipped network: people for each part."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "photos").mkdir()
    wanted = ["train", "train", "train", "validation", "test"]
    people = {
        kind: [n for n in (f"P{n}" for n in range(200)) if part(n) == kind] for kind in wanted
    }
    portraits = [
        p
        for p in sorted(demo_photos.glob("*/*/*.jpg")) + sorted(demo_photos.glob("probes/*.jpg"))
        if p.name != "group.jpg"
    ]
    from facesearch.faces.detect import Detector
    from facesearch.photos.decode import read_photo
    from facesearch.settings import DetectSpec

    detector, landmarker = Detector(DetectSpec()), Landmarker(LandmarkSpec(device="cpu"))
    with (folder / "points.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["photo", *(f"{axis}{n}" for n in range(68) for axis in "xy")])
        for number, (portrait, kind) in enumerate(zip(portraits, wanted, strict=False)):
            whole = read_photo(portrait).pixels
            small = cv2.resize(whole, None, fx=320 / len(whole), fy=320 / len(whole))
            path = folder / "photos" / f"{people[kind][number]}_0.jpg"
            cv2.imwrite(str(path), small)
            photo = read_photo(path)
            points = landmarker(photo, detector.detect(photo)).points[0]
            for copy in range(4):
                twin = path.with_name(f"{people[kind][number]}_{copy}.jpg")
                twin.write_bytes(path.read_bytes())
                table.writerow([twin.name, *points.ravel().round(2).tolist()])
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a network gains nothing from more, and waits for them where cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TINY = LandmarkRun(network="plain", epochs=8, batch=4, rate=3e-3, cool=6, half=False)


def test_a_tiny_run_learns_and_its_weights_work(labelled: Path, tmp_path: Path) -> None:
    done = train(labelled, tmp_path / "run", TINY, lambda _: None, cache=tmp_path)
    rows = read_trace(tmp_path / "run" / "trace.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert rows[-1]["train loss"] < 0.8 * rows[0]["train loss"]
    assert done.validation_nme == pytest.approx(min(r["validation NME"] for r in rows), rel=1e-4)
    assert done.people_faces == (12, 4, 4)
    points, spread = Landmarker(LandmarkSpec(network="plain", device="cpu"), done.weights).of_crops(
        np.zeros((2, SIDE, SIDE, 3), np.uint8)
    )
    assert points.shape == (2, 68, 2)
    assert (spread == 0).all()


def test_the_same_seed_gives_the_same_weights(labelled: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(TINY, epochs=2, cool=1)
    runs = {"one": run, "two": run, "other": dataclasses.replace(run, seed=1)}
    made = {
        name: train(labelled, tmp_path / name, one, lambda _: None, cache=tmp_path)
        for name, one in runs.items()
    }
    weights = {name: done.weights.read_bytes() for name, done in made.items()}
    assert weights["one"] == weights["two"] != weights["other"]
    traces = [read_trace(tmp_path / name / "trace.csv") for name in ("one", "two")]
    for one, two in zip(*traces, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_the_command_trains_as_the_run_does_by_default() -> None:
    defaults = inspect.signature(landmarks).parameters
    run = LandmarkRun()
    for name in ("network", "epochs", "batch", "rate", "cool", "seed", "patience"):
        assert defaults[name].default == getattr(run, name), name


def test_a_stopped_run_goes_on_as_if_it_had_not_been(labelled: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise Stopped

    run = LandmarkRun(network="heat", epochs=3, batch=4, cool=2, half=False)
    whole = train(labelled, tmp_path / "whole", run, lambda _: None, cache=tmp_path)
    with pytest.raises(Stopped):
        train(labelled, tmp_path / "parts", run, stop, cache=tmp_path)
    with pytest.raises(UsageError, match="holds a run already"):
        train(labelled, tmp_path / "parts", run, stop, cache=tmp_path)
    other = LandmarkRun(network="heat", epochs=5, batch=4, cool=2, half=False)
    with pytest.raises(UsageError, match="another epochs"):
        train(labelled, tmp_path / "parts", other, stop, cache=tmp_path, resume=True)
    parts = train(labelled, tmp_path / "parts", run, lambda _: None, cache=tmp_path, resume=True)
    assert parts.weights.read_bytes() == whole.weights.read_bytes()
    traces = [read_trace(tmp_path / name / "trace.csv") for name in ("whole", "parts")]
    for one, two in zip(*traces, strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_what_cannot_be_run(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        train(labelled, tmp_path / "run", TINY, lambda _: None, resume=True)
    with pytest.raises(UsageError, match="unknown network"):
        LandmarkRun(network="deep")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "checkpoint.pt").write_bytes(b"no")
    with pytest.raises(LibraryError, match="cannot be read"):
        train(labelled, tmp_path / "bad", TINY, lambda _: None, resume=True, cache=tmp_path)
