"""`facesearch landmarks` and `facesearch train landmarks`, as a user meets them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesearch.cli import common
from facesearch.cli.main import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def call(*words: object) -> tuple[int, str, str]:
        common.GLOBALS.library, common.GLOBALS.json = None, False
        monkeypatch.setattr(sys, "argv", ["facesearch", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


def test_landmarks_of_a_group(run, demo_photos: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photo, picture = demo_photos / "probes" / "group.jpg", tmp_path / "drawn.png"
    code, out, err = run("landmarks", photo, "--json", "--picture", picture)
    assert code == 0, err
    answer = json.loads(out)
    assert answer["network"] == "heat"
    assert len(answer["faces"]) >= 3
    for face in answer["faces"]:
        points = np.array(face["landmarks68"])
        assert points.shape == (68, 2)
        x1, y1, x2, y2 = face["box"]
        inside = (points > [x1, y1]).all(axis=1) & (points < [x2, y2]).all(axis=1)
        assert inside.mean() > 0.6
        assert abs(face["roll"]) < 45
    drawn, plain = cv2.imread(str(picture)), cv2.imread(str(photo))
    assert drawn is not None
    assert plain is not None
    assert drawn.shape == plain.shape


def test_landmarks_for_people(run, demo_photos: Path) -> None:  # type: ignore[no-untyped-def]
    portrait = demo_photos / "probes" / "rishi_sunak.jpg"
    code, out, _ = run("landmarks", portrait, "--device", "cpu")
    assert code == 0
    assert "#0" in out
    assert "yaw" in out


def test_bad_input(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    blank, text = tmp_path / "blank.png", tmp_path / "text.jpg"
    cv2.imwrite(str(blank), np.full((200, 200, 3), 128, np.uint8))
    text.write_text("no photo")
    code, out, _ = run("landmarks", blank, "--json")
    assert (code, json.loads(out)["faces"]) == (0, [])
    code, out, _ = run("landmarks", blank)
    assert (code, out.strip().endswith("no face found")) == (0, True)
    for words, expected in (
        ((text,), 1),
        ((tmp_path / "none.jpg",), 1),
        ((blank, "--network", "deep"), 2),
        ((blank, "--network", "plain"), 1),
        ((blank, "--picture", tmp_path / "a.xyz"), 2),
    ):
        code, _, err = run("landmarks", *words)
        assert (code, len(err.strip().splitlines())) == (expected, 1), err


def test_training_says_what_is_wrong_in_a_line(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("train", "landmarks", tmp_path, "-o", tmp_path / "run")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "points.csv" in err
    code, _, err = run("train", "landmarks", tmp_path, "-o", tmp_path / "run", "--network", "x")
    assert code == 2
