"""The command line of bulk ingestion, run in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from facesearch.cli import common
from facesearch.cli.main import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Run `facesearch ARGS` on a library in `tmp_path`, answering `stdin`: (exit code, stdout)."""

    def run(*args: object, stdin: str = "") -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        command = ["facesearch", "-L", tmp_path / "library", *args]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().out

    monkeypatch.setenv("COLUMNS", "250")  # so that tables do not fold paths
    assert run("init")[0] == 0
    yield run
    common.GLOBALS.library, common.GLOBALS.json = None, False


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), noise)
    (folder / "damaged.png").write_bytes(b"no picture")
    return folder


def ingest(run: Run, *args: object, stdin: str = "") -> tuple[int, Any]:
    code, out = run("ingest", "--json", *args, stdin=stdin)
    return code, json.loads(out)


def test_jobs_and_failures_are_told(run: Run, album: Path) -> None:
    assert run("jobs", "list")[1] == "no jobs\n"
    code, report = ingest(run, album, "--workers", 2)
    assert (code, report["files"], report["failed"], report["workers"]) == (3, 4, 1, 2)
    assert ingest(run, album)[1]["unchanged"] == 4
    (second, first) = json.loads(run("jobs", "list", "--json")[1])["jobs"]
    assert (first["id"], first["state"], len(first["workers"])) == (report["job"], "done", 2)
    assert (second["sources"], len(second["workers"])) == ([str(album)], 1)
    assert first["started_at"] < first["finished_at"] < second["finished_at"]
    shown = json.loads(run("jobs", "show", first["id"], "--json")[1])
    assert shown == first
    assert sum(worker["counts"]["photos"] for worker in shown["workers"]) == 3
    assert str(album) in run("jobs", "show", first["id"])[1]
    assert "done" in run("jobs", "list")[1]
    assert run("jobs", "show", 99)[0] == 1

    found = json.loads(run("failures", "list", "--json")[1])
    assert [f["reason"] for f in found["failures"]] == ["not_an_image"]
    assert json.loads(run("failures", "--json")[1]) == found
    assert "damaged.png" in run("failures", "-c", "default")[1]


def test_pruning_asks_first(run: Run, album: Path) -> None:
    ingest(run, album)
    (album / "0.png").unlink()
    code, report = ingest(run, album, "--rescan")
    assert (code, report["gone"], report["moved"]) == (0, 1, 0)
    run("ingest", album, "--prune", stdin="n\n")

    def stored() -> int:
        return int(json.loads(run("stats", "--json")[1])["photos"])

    assert stored() == 3
    code, out = run("ingest", album, "--prune")  # nobody answers
    assert (code, out.split()[:2]) == (0, ["3", "files:"])
    assert run("ingest", album, "--prune", "--json") == (2, "")
    assert stored() == 3
    run("ingest", album, "--prune", "--yes")
    assert stored() == 2


def test_an_empty_source_is_not_the_working_directory(
    run: Run, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(album)
    assert run("ingest", "")[0] == 2
    assert json.loads(run("stats", "--json")[1])["files"] == 0


def test_metrics_are_left_behind(run: Run, album: Path, tmp_path: Path) -> None:
    ingest(run, album, "--metrics", tmp_path / "facesearch.prom")
    text = (tmp_path / "facesearch.prom").read_text()
    assert "facesearch_ingest_photos 3\n" in text
    assert "facesearch_ingest_running 0\n" in text
