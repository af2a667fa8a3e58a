"""Training an embedder: who is held out, what is trained, resuming, several processes, the card."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from facesearch import Engine
from facesearch.errors import UsageError
from facesearch.faces import quality, registry
from facesearch.faces.align import TEMPLATE
from facesearch.faces.embedder import unit
from facesearch.faces.extract import Extraction
from facesearch.faces.known_models import KNOWN, Preprocessing
from facesearch.faces.networks import Network
from facesearch.faces.weights import load_network, new_network
from facesearch.identify.learn import Alike
from facesearch.ingest.enroll import Entry, read_entries
from facesearch.resources import shipped
from facesearch.store.gallery import Person
from facesearch.train.embedder import CHECKPOINT, EmbedderRun, Trial, train
from facesearch.train.faces_augment import augmented
from facesearch.train.faces_data import LabelledCrops, batches, split
from facesearch.train.held_out import measure, pairs
from facesearch.train.job import Order, learn_model
from facesearch.train.trace import read
from facesearch.train.tune import Frozen, Trained
from facesearch.values import Crops, Detections, Embeddings, ModelContract

PEOPLE, FACES = 120, 4
RUN = EmbedderRun(loss="cosface", rate=2e-2, pull=0.0, epochs=4, people=16, views=1, patience=0)


def bundled() -> Network:
    return load_network("sface", shipped("models") / KNOWN[0].file)


@pytest.fixture(scope="module")
def made() -> tuple[LabelledCrops, np.ndarray]:
    """Outputs of a network in which half of the dimensions say nothing about who it is."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(PEOPLE), FACES)
    who = np.repeat(rng.standard_normal((PEOPLE, 128)), FACES, axis=0)
    noise = rng.standard_normal(who.shape) * np.repeat([0.5, 3.0], 64)
    nothing = np.zeros((len(people), 0, 0, 3), np.uint8)
    data = LabelledCrops(nothing, people, tuple(f"{i:03}" for i in range(PEOPLE)))
    return data, (who + noise).astype(np.float32)[None]


def run_once(
    made: tuple[LabelledCrops, np.ndarray],
    folder: Path,
    run: EmbedderRun = RUN,
    resume: bool = False,
) -> Trial:
    data, features = made
    said: list[str] = []
    trial = train(
        run,
        bundled(),
        KNOWN[0].preprocessing,
        data,
        split(data, 0.3, 0),
        folder,
        said.append,
        scratch=False,
        resume=resume,
        made=features,
    )
    assert trial is not None
    return trial


def test_it_learns_what_does_not_matter(
    made: tuple[LabelledCrops, np.ndarray], tmp_path: Path
) -> None:
    trial = run_once(made, tmp_path, dataclasses.replace(RUN, rate=5e-3, epochs=8))
    assert trial.epoch > 0
    assert trial.after[0] > trial.before[0] + 0.05
    assert trial.after[1] > trial.before[1] + 0.08
    rows = read(tmp_path / "trace.csv")
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["train loss"] < rows[0]["train loss"]
    assert (tmp_path / "trace.svg").exists()


@pytest.mark.parametrize("loss", ["triplet", "arcface"])
def test_a_run_that_was_stopped_goes_on_exactly(
    made: tuple[LabelledCrops, np.ndarray], tmp_path: Path, loss: str
) -> None:
    run = dataclasses.replace(RUN, loss=loss)
    run_once(made, tmp_path / "whole", run)

    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("epoch 3"):
            raise Stopped

    data, features = made
    with pytest.raises(Stopped):
        train(
            run,
            bundled(),
            KNOWN[0].preprocessing,
            data,
            split(data, 0.3, 0),
            tmp_path / "cut",
            stop,
            scratch=False,
            made=features,
        )
    run_once(made, tmp_path / "cut", run, resume=True)
    whole, cut = (load_file(tmp_path / name / CHECKPOINT) for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, cut[name], name)
    told = [
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in read(tmp_path / n / "trace.csv")
        ]
        for n in ("whole", "cut")
    ]
    assert told[0] == told[1]


def test_a_checkpoint_of_another_run_is_refused(
    made: tuple[LabelledCrops, np.ndarray], tmp_path: Path
) -> None:
    run_once(made, tmp_path, dataclasses.replace(RUN, epochs=1))
    with pytest.raises(UsageError, match="'loss' differs"):
        run_once(made, tmp_path, dataclasses.replace(RUN, loss="sface", epochs=1), resume=True)
    with pytest.raises(UsageError, match="no checkpoint to go on from"):
        run_once(made, tmp_path / "elsewhere", resume=True)


def test_it_stops_early(made: tuple[LabelledCrops, np.ndarray], tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, rate=1e-9, epochs=50, patience=2)
    assert run_once(made, tmp_path, run).epochs <= 4


def test_nobody_is_trained_on_and_validated_on(made: tuple[LabelledCrops, np.ndarray]) -> None:
    data, _ = made
    alike = (Alike("003", "077", 0.9), Alike("077", "110", 0.9))
    for seed in range(10):
        parts = split(data, 0.3, seed, alike)
        train_, held = (set(data.people[rows]) for rows in (parts.train, parts.held_out))
        assert train_.isdisjoint(held)
        assert train_ | held == set(range(PEOPLE))
        assert len(parts.train) + len(parts.held_out) == len(data.people)
        assert len({3, 77, 110} & held) in {0, 3}
    with pytest.raises(UsageError, match="leaves nobody on one side"):
        split(data, 0.001, 0)


def test_batches_are_of_people_with_several_faces_each() -> None:
    people = np.repeat(np.arange(50), np.random.default_rng(0).integers(1, 9, 50))
    found = batches(people, 8, 3, np.random.default_rng(1))
    for batch in found:
        labels, counts = np.unique(people[batch], return_counts=True)
        assert len(batch) == 24
        assert (counts % 3 == 0).all()
        assert len(labels) >= 4
        rich = batch[np.isin(people[batch], np.flatnonzero(np.bincount(people) >= 3))]
        assert len(rich) > 0
    assert set(people[np.concatenate(found)]) == set(range(50))


def test_pairs_are_half_of_one_person() -> None:
    people = np.repeat(np.arange(30), 3)
    a, b, same = pairs(people, np.random.default_rng(0))
    assert (a != b).all()
    np.testing.assert_array_equal(people[a] == people[b], same)
    assert same.sum() == 90 == (~same).sum()


def test_chance_is_what_random_vectors_get() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((600, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    accuracy, tpir = measure(vectors, np.repeat(np.arange(200), 3))
    assert abs(accuracy - 0.5) < 0.06
    assert tpir < 0.03


@pytest.mark.parametrize("part", ["adapter", "head", "last", "all"])
def test_the_parts_make_the_whole(part: str) -> None:
    network = bundled()
    x = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    frozen, trained = Frozen(network, part).eval(), Trained(network, part).eval()
    with torch.no_grad():
        whole = network(x)
        torch.testing.assert_close(trained(frozen(x)), whole, atol=1e-4, rtol=1e-4)
    count = sum(p.numel() for p in trained.parameters_trained())
    sizes = {"adapter": 128 * 129, "head": 6_424_832, "last": 7_500_000, "all": 9_900_000}
    assert 0.9 < count / sizes[part] < 1.1
    if part != "adapter":
        return
    adapter = trained.adapter
    assert adapter is not None
    with torch.no_grad():
        adapter.weight.add_(0.1 * torch.randn(128, 128, generator=torch.Generator().manual_seed(1)))
        adapter.bias.add_(0.3)
        wanted = adapter(whole)
        folded = trained.finished()(x)
        torch.testing.assert_close(folded, wanted, atol=1e-4, rtol=1e-4)


def test_a_network_from_random_weights_learns(tmp_path: Path) -> None:
    """Ten patterns as people, told apart after a few epochs by a network that knew nothing."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 4)
    patterns = rng.integers(0, 256, (30, 7, 7, 3), np.uint8)
    crops = np.stack(
        [
            np.clip(cv2.resize(patterns[i], (112, 112)) + rng.normal(0, 30, (112, 112, 3)), 0, 255)
            for i in people
        ]
    ).astype(np.uint8)
    data = LabelledCrops(crops, people, tuple(map(str, range(30))))
    run = EmbedderRun(
        part="all", loss="cosface", rate=2e-3, epochs=2, people=15, augment=False, patience=0
    )
    trial = train(
        run,
        new_network("mobile", 0),
        Preprocessing(),
        data,
        split(data, 0.34, 0),
        tmp_path,
        lambda line: None,
        scratch=True,
    )
    assert trial is not None
    rows = read(tmp_path / "trace.csv")
    assert rows[-1]["train loss"] < rows[0]["train loss"]


PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_embedder import run_in_processes
run_in_processes(Path(sys.argv[1]))
"""


def run_in_processes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(PEOPLE), FACES)
    features = rng.standard_normal((1, len(people), 128)).astype(np.float32)
    nothing = np.zeros((len(people), 0, 0, 3), np.uint8)
    data = LabelledCrops(nothing, people, tuple(f"{i:03}" for i in range(PEOPLE)))
    torch.set_num_threads(1)
    train(
        dataclasses.replace(RUN, epochs=2),
        bundled(),
        KNOWN[0].preprocessing,
        data,
        split(data, 0.3, 0),
        folder,
        lambda line: None,
        scratch=False,
        made=features,
    )


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """As torchrun starts them; their gradients are averaged, so both end with the same weights."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(2):
        env = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, "-c", PROCESS, str(tmp_path), str(Path(__file__).parent)]
        started.append(subprocess.Popen(command, env=env))
    assert [process.wait(300) for process in started] == [0, 0]
    assert len(read(tmp_path / "trace.csv")) == 2
    assert (tmp_path / CHECKPOINT).exists()


def test_augmented_faces_are_faces_still(demo_photos: Path) -> None:
    pixels = cv2.imread(str(next((demo_photos / "people").rglob("*.jpg"))))
    assert pixels is not None
    crop = np.asarray(cv2.resize(pixels, (112, 112)), np.uint8)
    made_ = [augmented(crop, np.random.default_rng(i)) for i in range(40)]
    assert all(one.shape == crop.shape and one.dtype == np.uint8 for one in made_)
    np.testing.assert_array_equal(augmented(crop, np.random.default_rng(3)), made_[3])
    assert len({one.tobytes() for one in made_}) == 40
    assert 5 < np.abs(np.mean(made_, axis=0) - crop).mean() < 60


@pytest.fixture
def people(demo_photos: Path, tmp_path: Path) -> Path:
    """Fourteen people of two photos each, made from the demo's portraits by other colours."""
    portraits = sorted((demo_photos / "people").rglob("*.jpg"))
    for i in range(14):
        pixels = cv2.imread(str(portraits[i % len(portraits)]))
        assert pixels is not None
        small = cv2.resize(pixels, (150, 190), interpolation=cv2.INTER_AREA)
        small = np.roll(small, i // len(portraits), axis=2)
        folder = tmp_path / "people" / f"person{i:02}"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "a.png"), small)
        cv2.imwrite(str(folder / "b.png"), np.roll(small, 3, axis=1))
    return tmp_path / "people"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        yield engine


def test_from_photos_to_a_model_in_use(engine: Engine, people: Path, tmp_path: Path) -> None:
    said: list[str] = []
    order = Order("ours", "", "mobile", 0.3, tmp_path / "run")
    run = EmbedderRun(part="all", epochs=1, people=4, augment=False, patience=0)
    card = learn_model(
        order,
        run,
        read_entries(people, {}),
        engine.extract,
        engine.embedder("sface", mirror=False),
        engine.models_dir,
        1,
        said.append,
    )
    assert card is not None
    assert card.identities + card.identities_held_out == 14
    assert card.faces == 2 * card.identities
    assert "no universal model" in card.caution
    kept = json.loads((tmp_path / "run" / "card.json").read_text())
    assert kept["faces"] == card.faces
    assert "no universal model" in (engine.models_dir / "ours.md").read_text()
    entry = registry.find("ours", engine.models_dir)
    assert (entry.identities, entry.base) == (card.identities, "")
    assert registry.verify(engine.models_dir)["ours"] == "ok"
    with pytest.raises(UsageError, match="is there already"):
        learn_model(order, run, [], engine.extract, engine.embedder(), engine.models_dir, 1, print)
    with Engine.open(engine.root, embed_device="cpu", identify_threshold=0.3) as again:
        again.enroll(people)
        done = again.activate_model("ours")
        assert done.faces == again.counts().faces > 0
        assert any("no universal model" in line for line in done.warnings)


class ByPixels:
    """An embedder simple enough to be known: sixteen by sixteen pixels, less their mean."""

    contract = ModelContract("pixels", "0" * 64, "112x112 BGR", 768)

    def embed(self, crops: Crops) -> Embeddings:
        small = np.stack(
            [cv2.resize(crop, (16, 16), interpolation=cv2.INTER_AREA) for crop in crops]
        )
        raw = small.reshape(len(crops), -1).astype(np.float32)
        return unit(raw - raw.mean(axis=1, keepdims=True), self.contract)


def test_one_person_under_two_names_is_told_before_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    patterns[31] = patterns[7]

    def extract(path: str) -> Extraction:
        person, _, number = path.partition("/")
        chance = np.random.default_rng([int(person), int(number)])
        face = cv2.resize(patterns[int(person)], (112, 112), interpolation=cv2.INTER_NEAREST)
        crop = np.clip(face + chance.normal(0, 30, face.shape), 0, 255).astype(np.uint8)
        box, score = np.array([[0, 0, 112, 112]], np.float32), np.ones(1, np.float32)
        one = Detections(box, TEMPLATE[None].astype(np.float32), score)
        return Extraction(path, "", (112, 112), one, crop[None], quality.measure(crop[None], one))

    entries = [Entry(f"{p}/{n}", Person(f"{p:02}")) for p in range(40) for n in range(3)]
    said: list[str] = []
    card = learn_model(
        Order("ours", "", "mobile", 0.3, tmp_path / "run"),
        EmbedderRun(part="all", epochs=1, people=8, augment=False, patience=0),
        entries,
        extract,
        ByPixels(),
        tmp_path / "models",
        1,
        said.append,
    )
    assert card is not None
    assert [(pair.first, pair.second) for pair in card.alike] == [("07", "31")]
    (told,) = (n for n, line in enumerate(said) if "'07' and '31' may be one person" in line)
    assert told < next(n for n, line in enumerate(said) if line.startswith("epoch 1"))
    assert "07" in json.loads((tmp_path / "run" / "card.json").read_text())["alike"][0].values()


def test_what_cannot_be_trained_is_said(engine: Engine, people: Path, tmp_path: Path) -> None:
    for fields, message in (
        ({"part": "tail"}, "no part to train"),
        ({"loss": "softmax"}, "unknown loss"),
        ({"people": 1}, "people is too small"),
        ({"rate": 0.0}, "above zero"),
    ):
        with pytest.raises(UsageError, match=message):
            EmbedderRun(**fields)
    few = list(read_entries(people, {}))[:8]
    order = Order("ours", "sface", "mobile", 0.3, tmp_path / "run")
    with pytest.raises(UsageError, match="4 people with a usable photo: training needs 10"):
        learn_model(
            order,
            EmbedderRun(),
            few,
            engine.extract,
            engine.embedder("sface", mirror=False),
            engine.models_dir,
            1,
            print,
        )
