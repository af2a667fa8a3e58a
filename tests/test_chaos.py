"""SIGKILL at random instants with four workers, on SQLite and on Postgres: nothing is lost."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.chaos import Face, disturb, faces, left_over
from facesearch import Engine

PHOTOS = 100


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path) -> Path:
    folder = tmp_path_factory.mktemp("album")
    portraits = sorted((demo_photos / "people").rglob("*.jpg"))
    for i in range(PHOTOS):
        pixels = cv2.imread(str(portraits[i % len(portraits)]))
        assert pixels is not None
        small = cv2.resize(pixels, (120, 150), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{i:03}.png"), np.roll(small, i // len(portraits), axis=1))
    return folder


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, album: Path) -> set[Face]:
    with Engine.create(tmp_path_factory.mktemp("calm") / "library") as engine:
        assert engine.ingest([album]).photos == PHOTOS
        assert left_over(engine) == []
        return faces(engine)


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_killed_workers_leave_what_an_undisturbed_run_does(
    album: Path,
    calm: set[Face],
    tmp_path: Path,
    store: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if store == "postgres":
        server = request.getfixturevalue("postgres_server")
        monkeypatch.setenv("FACESEARCH_STORE_URL", server.database(f"test_{uuid.uuid4().hex}"))
    Engine.create(tmp_path / "library").close()
    trial = disturb(tmp_path / "library", album, 4, 3, calm, random.Random(3))
    assert trial.store == store
    assert trial.kills >= 2
    assert (trial.faces, trial.missing, trial.extra) == (len(calm), 0, 0)
    assert trial.leftovers == []
    assert len(calm) >= PHOTOS * 0.9
