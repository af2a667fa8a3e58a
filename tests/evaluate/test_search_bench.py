"""`bench search`: its JSON, CSV and HTML, on a small gallery and on a collection."""

from __future__ import annotations

import csv
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from facesearch.cli.main import app

RECIPES = ["--recipe", "exact", "--recipe", "scan", "--recipe", "exact-fp16"]


def test_a_generated_gallery(tmp_path: Path) -> None:
    page, lines = tmp_path / "report.html", tmp_path / "rows.csv"
    arguments = ["bench", "search", "--size", "11000", "--dim", "64", "--probes", "400", "--json"]
    arguments += ["--max-loss", "0.01", "--recall10", "0.9", "--html", str(page)]
    done = CliRunner().invoke(app, [*arguments, "--csv", str(lines), *RECIPES])
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert body["exact"]["recipe"] == "exact"
    assert body["exact"]["identification_loss"] == 0
    assert {row["recipe"] for row in body["indexes"]} == {"exact", "scan", "exact-fp16"}
    for row in [*body["indexes"], body["chosen"], body["exact"]]:
        assert set(row["single_ms"]) == {"p50", "p95", "p99"}
        assert row["single_ms"]["p50"] <= row["single_ms"]["p99"]
        for key in ("batch_qps", "build_s", "bytes_per_face_disk", "bytes_per_face_ram"):
            assert row[key] > 0
        assert 0 <= row["identification_loss"] <= 1
        assert 0 <= row["recall_at_10"] <= 1
    assert body["chosen"] in body["indexes"]
    (scan,) = (row for row in body["indexes"] if row["recipe"] == "scan")
    assert scan["bytes_per_face_ram"] < 16 + 12 + 2  # 2 bits a dimension, identities, their order
    assert [(f["by"], f["selectivity"]) for f in body["filters"]] == [
        (by, share) for share in (0.5, 0.05, 0.005) for by in ("metadata", "time")
    ]
    assert all(f["identified"] for f in body["filters"])
    assert all(f["identification_loss"] < 0.05 for f in body["filters"])

    table = list(csv.DictReader(lines.read_text().splitlines()))
    assert len(table) == len(body["indexes"]) + len(body["dropped"])
    assert sum(row["chosen"] == "True" for row in table) == 1
    text = page.read_text()
    assert not re.search(r"https?://|<script|<link|<img", text)
    plots = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text)]
    assert [len(plot.findall("circle")) for plot in plots] == [len(body["indexes"])] * 2


def test_what_cannot_be_measured_is_said() -> None:
    arguments = ["bench", "search", "--size", "200", "--max-loss", "0", "--recipe"]
    done = CliRunner().invoke(app, [*arguments, "nothing"])
    assert done.exit_code != 0
    assert "no index recipe" in str(done.exception)


def test_generate_writes_photos_of_the_same_people(tmp_path: Path) -> None:
    for photo in (0, 1):
        out = str(tmp_path / f"{photo}.npy")
        arguments = ["bench", "generate", out, "--size", "500", "--photo", str(photo)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    first, second = (np.load(tmp_path / f"{photo}.npy").astype(np.float32) for photo in (0, 1))
    assert first.shape == (500, 128)
    assert np.mean((second @ first.T).argmax(axis=1) == np.arange(500)) > 0.95
