"""Ingestion on a real Ray cluster that the tests start; only `make test-ray` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from benchmarks.chaos import Face, faces, left_over
from benchmarks.ray_drill import Nodes, cluster, processed, trial
from facesearch import Engine
from tests import postgres

pytestmark = pytest.mark.skipif(
    os.environ.get("FACESEARCH_TEST_RAY") != "1", reason="`make test-ray` runs it"
)

PHOTOS = 1200
"""Some hands for each of two nodes."""
PATIENCE_S = 300


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path) -> Path:
    folder = tmp_path_factory.mktemp("album")
    portraits = sorted((demo_photos / "people").rglob("*.jpg"))
    small = []
    for portrait in portraits:
        pixels = cv2.imread(str(portrait))
        assert pixels is not None
        small.append(cv2.resize(pixels, (48, 60), interpolation=cv2.INTER_AREA))
    for i in range(PHOTOS):
        pixels = small[i % len(small)].copy()
        pixels[0, :, 0] = i % 256  # every photo is another one
        pixels[1, :, 0] = i // 256
        cv2.imwrite(str(folder / f"{i:04}.png"), pixels)
    return folder


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, album: Path) -> set[Face]:
    with Engine.create(tmp_path_factory.mktemp("calm") / "library") as engine:
        assert engine.ingest([album]).photos == PHOTOS
        return faces(engine)


@pytest.fixture(scope="module")
def one_node() -> Iterator[Nodes]:
    with cluster(2) as running:
        yield running


def ingest(library: Path, source: Path, on: str, nodes: Nodes) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "facesearch.cli.main", "-L", str(library), "--json", "ingest"]
    return subprocess.run(
        [*command, str(source), "--on", on],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=nodes.environment,
    )


def test_one_node_with_sqlite_does_what_the_local_worker_does(
    one_node: Nodes, album: Path, calm: set[Face], tmp_path: Path
) -> None:
    (album / "notes.txt").write_text("no photo")
    (album / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    Engine.create(tmp_path / "library").close()
    first = ingest(tmp_path / "library", album, one_node.address, one_node)
    assert first.returncode == 3, first.stderr
    report = json.loads(first.stdout)
    assert (report["files"], report["photos"], report["failed"]) == (PHOTOS + 1, PHOTOS, 1)
    assert report["faces"] == len(calm)
    assert report["ignored"] == {".txt": 1}
    assert [Path(f["path"]).name for f in report["failures"]] == ["broken.jpg"]
    with Engine.open(tmp_path / "library") as engine:
        assert faces(engine) == calm
        assert left_over(engine) == []
    (album / "broken.jpg").unlink()
    (album / "notes.txt").unlink()
    again = ingest(tmp_path / "library", album, f"ray://127.0.0.1:{one_node.client_port}", one_node)
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert (report["unchanged"], processed(report), report["workers"]) == (PHOTOS, 0, 1)


def test_what_cannot_be_is_one_line(one_node: Nodes, album: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    Engine.create(library).close()
    nobody = ingest(library, album, "127.0.0.1:1", one_node)
    assert (nobody.returncode, "no Ray cluster there" in nobody.stderr) == (1, True)
    one_node.add(1)
    refused = ingest(library, album, one_node.address, one_node)
    assert refused.returncode == 2
    assert "a store in SQLite is for one machine" in refused.stderr.splitlines()[-1]
    one_node.kill(1)


def test_a_node_that_dies_loses_nothing(
    postgres_server: postgres.Server, album: Path, calm: set[Face], tmp_path: Path
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    url = postgres_server.database(f"ray_{uuid.uuid4().hex}")
    (library / "facesearch.toml").write_text(f'[store]\nurl = "{url}"\n')
    Engine.create(library).close()
    result = trial(library, album, 2, calm, client=False)
    assert result.good, result
    assert result.recorded < PHOTOS
    assert len(calm) >= PHOTOS * 0.9
