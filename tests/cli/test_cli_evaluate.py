"""The command `evaluate`, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facesearch import Engine
from facesearch.evaluate.lists import write_scores
from tests.cli.test_cli import Run, run  # noqa: F401 - a fixture
from tests.evaluate.made_lists import made


def manifest(photos: Path, path: Path) -> Path:
    probes = photos / "probes"
    path.write_text(
        "path,identity\n"
        f"{probes / 'jacinda_ardern_2022.jpg'},Jacinda_Ardern\n"
        f"{probes / 'emmanuel_macron_2014.jpg'},Emmanuel_Macron\n"
        f"{probes / 'rishi_sunak.jpg'},Rishi_Sunak\n",
        encoding="utf-8",
    )
    return path


def test_folders_and_manifests(run: Run, demo_photos: Path, tmp_path: Path) -> None:  # noqa: F811
    probes = manifest(demo_photos, tmp_path / "probes.csv")
    out = tmp_path / "out"
    gallery = demo_photos / "people"
    code, printed, _ = run("evaluate", "--gallery", gallery, "--probes", probes, "-o", out)
    assert code == 0
    assert "2 mated and 1 non-mated probes, 3 people" in printed
    assert "rank-1: 100.00%" in printed
    document = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (document["mated"], document["nonmated"], document["gallery"]) == (2, 1, 3)
    assert document["at"]["fnir"] == 0.0
    # what it wrote is measured again as any system's scores are
    code, printed, _ = run("evaluate", "--scores", out / "scores.csv", "--threshold", 0.3, "--json")
    assert code == 0
    again = json.loads(printed)
    assert (again["mated"], again["nonmated"], again["gallery"]) == (2, 1, 3)
    assert again["ranks"] == document["ranks"]
    assert again["one_to_one"] is None
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "Face search evaluation" in html
    assert len(html) < 5_000_000


def test_a_librarys_people_and_nothing_stored(
    run: Run,  # noqa: F811
    demo_photos: Path,
    tmp_path: Path,
) -> None:
    library = tmp_path / "library"
    with Engine.create(library, embed_device="cpu") as engine:
        engine.enroll(demo_photos / "people")
        before = engine.counts()
    probes = manifest(demo_photos, tmp_path / "probes.csv")
    code, printed, _ = run("evaluate", "-L", library, "--probes", probes, "--json")
    assert code == 0
    assert json.loads(printed)["budget"]["misses"] == []
    with Engine.open(library) as engine:
        assert engine.counts() == before


def test_another_systems_scores(run: Run, tmp_path: Path) -> None:  # noqa: F811
    lists, _ = made(np.random.default_rng(0), 60, 400, 400)
    write_scores(lists, tmp_path / "scores.csv")
    arguments = ("--scores", tmp_path / "scores.csv", "--fpir", 0.05, "--fpir", 0.001)
    code, printed, _ = run("evaluate", *arguments)
    assert code == 0
    assert "FPIR 5.00%" in printed
    assert "FPIR 0.10%: not stated, it takes non-mated probes of 3,000 people" in printed
    code, printed, _ = run("evaluate", *arguments, "--json")
    (point,) = json.loads(printed)["points"]
    assert point["fpir"] <= 0.05
    assert point["fnir_95"][0] <= point["fnir"] <= point["fnir_95"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --probes"),
        (("--probes", "p", "--scores", "s"), "give --probes"),
        (("--scores", "s", "--gallery", "g"), "--gallery goes with --probes"),
        (("--scores", "s", "--device", "cpu"), "--device goes with --probes"),
        (("--probes", "p", "--model", "sface"), "--model goes with --gallery"),
        (("--probes", "p", "--gallery", "g", "--library", "l"), "give --gallery to enrol people"),
        (("--probes", "p", "--fpir", "1.5"), "FPIR 1.5 is not between 0 and 1"),
        (("--probes", "p", "--output", "/dev/null/x"), "cannot be made"),
        (("--probes", "p.csv", "--gallery-size", "4"), "--gallery-size goes with --scores"),
        (("--scores", "none.csv"), "cannot be read"),
        (("--probes", "none"), "neither a folder of folders"),
    ],
)
def test_wrong_usage_is_a_line(run: Run, arguments: tuple[str, ...], message: str) -> None:  # noqa: F811
    code, printed, said = run("evaluate", *arguments)
    assert code in (1, 2)
    assert message in said
    assert printed == ""
    assert len(said.strip().splitlines()) == 1


def test_too_few_strangers_for_any_rate(run: Run, tmp_path: Path) -> None:  # noqa: F811
    lists, _ = made(np.random.default_rng(0), 20, 30, 20)
    write_scores(lists, tmp_path / "scores.csv")
    code, _, said = run("evaluate", "--scores", tmp_path / "scores.csv", "--fpir", 0.01)
    assert code == 2
    assert "non-mated probes of 10 people support no FPIR asked for: 0.01 takes 300" in said
