"""Adapting to a collection: learned, accepted only where it helps, applied by the index, undone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facesearch import Engine
from facesearch.errors import IndexFileError, UsageError
from facesearch.identify.adapt import FEWEST, adapt, whitening
from facesearch.identify.judge import scores_key
from facesearch.index.adaptation import (
    ADAPTED,
    Adaptation,
    Evidence,
    adapted,
    dump,
    parse,
    read_adaptation,
)
from facesearch.index.centring import centred
from facesearch.store import gallery, ledger
from facesearch.store.gallery import Person
from facesearch.store.outcomes import Extracted, FileStamp
from facesearch.values import F32, I64, Detections, Embeddings

DIM, PEOPLE, PHOTOS, KEY = 128, 150, 3, "a model"


def made(nuisance: float, people: int = PEOPLE, seed: int = 0) -> tuple[F32, I64]:
    """People whose photos differ a little everywhere, and by `nuisance` in 12 directions."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.standard_normal((people, DIM)), PHOTOS, axis=0)
    noise = 0.9 * rng.standard_normal(centres.shape)
    noise[:, :12] += nuisance * rng.standard_normal((len(centres), 12))
    vectors = centres + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.repeat(np.arange(people), PHOTOS)


def test_what_helps_is_accepted() -> None:
    vectors, people = made(nuisance=4.0)
    found = adapt(vectors, people, KEY)
    told = found.adaptation.evidence
    assert found.accepted
    assert told.gain_95[0] > 0.0
    assert told.after > told.before + 0.05
    assert (told.people, told.photos) == (PEOPLE, PEOPLE * PHOTOS)
    # and it helps people who were not there at all
    others, who = made(nuisance=4.0, seed=9)
    first, second = others[::PHOTOS], others[1::PHOTOS]
    plain = (second @ first.T).argmax(axis=1)
    mapped = (adapted(second, found.adaptation) @ adapted(first, found.adaptation).T).argmax(axis=1)
    right = np.arange(PEOPLE)
    assert np.mean(mapped == right) > np.mean(plain == right) + 0.05
    assert len(who) == len(others)


def test_what_does_not_help_is_not() -> None:
    found = adapt(*made(nuisance=0.0), KEY)
    assert not found.accepted
    assert found.adaptation.evidence.gain_95[0] <= 0.0


def test_too_few_people_are_refused() -> None:
    vectors, people = made(4.0, people=20)
    with pytest.raises(UsageError, match=rf"20 people have two photos.*enrol {FEWEST - 20} more"):
        adapt(vectors, people, KEY)
    one_each = vectors[::PHOTOS]
    with pytest.raises(UsageError, match="0 people"):
        adapt(one_each, np.arange(20), KEY)


def test_whitening_evens_out_how_photos_of_a_person_differ() -> None:
    vectors, people = made(nuisance=4.0)
    matrix = whitening(vectors, people, 0.0)
    means = vectors.reshape(PEOPLE, PHOTOS, DIM).mean(axis=1)
    within = (vectors - np.repeat(means, PHOTOS, axis=0)) @ matrix
    covariance = within.T @ within
    np.testing.assert_allclose(covariance / covariance[0, 0], np.identity(DIM), atol=1e-3)
    np.testing.assert_allclose(whitening(vectors, people, 1.0), np.identity(DIM), atol=1e-6)


def test_thresholds_move_with_the_scores() -> None:
    """The share of strangers above a threshold is about the same on either scale."""
    vectors, people = made(nuisance=4.0, people=400)
    told = adapt(vectors, people, KEY).adaptation
    others = made(nuisance=4.0, people=400, seed=5)[0][::PHOTOS]
    upper = np.triu_indices(len(others), 1)
    plain = (others @ others.T)[upper]
    mapped = (adapted(others, told) @ adapted(others, told).T)[upper]
    for share in (1e-2, 1e-3):
        limit = float(np.quantile(plain, 1 - share))
        assert told.plain(told.threshold(limit)) == pytest.approx(limit)
        assert np.mean(mapped >= told.threshold(limit)) == pytest.approx(share, rel=0.5)


def evidence() -> Evidence:
    return Evidence(60, 120, 0.5, 0.8, 0.9, (0.05, 0.15), 0.01, 0.9, "2026-11-28", KEY)


def test_a_row_comes_out_the_same_whatever_stands_beside_it() -> None:
    vectors, people = made(1.0)
    one = Adaptation(whitening(vectors, people, 0.5), evidence())
    whole = adapted(vectors, one)
    for row in (0, 7, 100):
        np.testing.assert_array_equal(adapted(vectors[row : row + 1], one)[0], whole[row])
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1.0, atol=1e-6)
    assert adapted(vectors, None) is vectors


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    one = Adaptation(np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32), evidence())
    data = dump(one)
    again = parse(data, 8, tmp_path)
    np.testing.assert_array_equal(again.matrix, one.matrix)
    assert again.evidence == one.evidence
    assert again.key == one.key
    for broken in (b"", data[:40], data[:-3], b"\xff" * 64, data.replace(b"people", b"peopel")):
        with pytest.raises(IndexFileError):
            parse(broken, 8, tmp_path)
    with pytest.raises(IndexFileError, match="9 dimensions"):
        parse(data, 9, tmp_path)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library of people that never lived, whose photos differ most in a few directions."""
    root = tmp_path / "library"
    vectors, people = made(nuisance=4.0)
    with Engine.create(root, embed_device="cpu") as engine:
        target, _ = engine._target("default")
        face = Detections(
            np.array([[10, 10, 60, 60]], np.float32),
            np.full((1, 5, 2), 30, np.float32),
            np.array([0.9], np.float32),
        )
        paths = [f"/made/{i}.jpg" for i in range(len(vectors))]
        ones = np.ones(1, np.float32)
        photos = [
            Extracted(
                FileStamp(path, 1, 1),
                f"{i:064x}",
                (100, 100),
                face,
                Embeddings(vectors[i : i + 1], ones, target.contract),
                ones,
                ("",),
            )
            for i, path in enumerate(paths)
        ]
        ledger.record(engine.database, target, photos)
        stored = gallery.faces_of(engine.database, target, paths)
        named = [
            (int(stored[path].face_ids[0]), Person(f"P{who}"))
            for path, who in zip(paths, people.tolist(), strict=True)
        ]
        gallery.assign(engine.database, target, named)
    return root


def cli(library: Path, *args: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "facesearch.cli.main", "-L", str(library), *args],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_collection_is_adapted_and_goes_back(library: Path) -> None:
    with Engine.open(library, embed_device="cpu") as engine:
        target = engine.collection()
        dry = engine.adapt(apply=False)
        assert dry.accepted
        assert engine.live(target).adaptation is None
        plain = engine.live(target).faces_of(np.arange(1, PEOPLE + 1)).vectors
        found = engine.adapt()
        live = engine.live(target)
        assert live.adaptation is not None
        assert live.adaptation.key == found.adaptation.key
        assert scores_key(target.contract, True, live.adaptation) != scores_key(
            target.contract, True
        )
        mapped = live.faces_of(np.arange(1, PEOPLE + 1)).vectors
        assert not np.array_equal(mapped, plain)
        assert engine.verify_index() == []
        engine.build_index()  # a later build keeps it
        assert engine.live(target).adaptation is not None
        rule = engine._rule(target.contract, True, adaptation=live.adaptation)
        without = engine._rule(target.contract, True)
        moved, limit = rule(PEOPLE).threshold, without(PEOPLE).threshold
        assert moved.value == pytest.approx(found.adaptation.threshold(limit.value))
        assert "adapted" in moved.origin
        expected = rule(PEOPLE).expected_fpir(moved.value)
        assert expected == pytest.approx(limit.fpir, rel=1e-6)
        # rows newer than the generation are compared as it compares
        raw = made(nuisance=4.0)[0][:3]
        np.testing.assert_array_equal(
            live.compared(raw), adapted(centred(raw, live._mean), live.adaptation)
        )
    with Engine.open(library, embed_device="cpu") as engine:  # another process sees it
        assert engine.live(engine.collection()).adaptation is not None
        assert engine.forget_adaptation()
        live = engine.live(engine.collection())
        assert live.adaptation is None
        np.testing.assert_array_equal(live.faces_of(np.arange(1, PEOPLE + 1)).vectors, plain)
        assert not engine.forget_adaptation()
        assert engine.verify_index() == []


def test_the_command(library: Path) -> None:
    code, out, _ = cli(library, "index", "adapt", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["accepted"]
    assert told["applied"]
    home = next((library / "index").iterdir())
    with Engine.open(library) as engine:
        key = engine.collection().contract.key
    assert read_adaptation(home, key, DIM) is not None
    assert read_adaptation(home, "another model", DIM) is None
    (home / ADAPTED).write_bytes(b"damaged")
    code, _, err = cli(library, "index", "build")
    assert code != 0
    assert "facesearch index adapt" in err
    assert "Traceback" not in err
    code, out, _ = cli(library, "index", "adapt", "--forget", "--json")
    assert (code, json.loads(out)) == (0, {"forgotten": True})
