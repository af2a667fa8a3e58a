"""Two photos compared: scores against each other, and the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facesearch.engine import Engine
from facesearch.identify.compare import GAP, MATCH_COLOUR, pairs_of
from facesearch.values import Decision, Threshold


def test_every_pair_with_both_measures() -> None:
    a = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    b = np.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], np.float32)
    pairs = pairs_of(a, b, Threshold(0.6, "test"))
    assert [(p.a, p.b) for p in pairs] == [(0, 1), (1, 0), (1, 1), (0, 0), (1, 2), (0, 2)]
    assert [p.cosine for p in pairs] == pytest.approx([1, 0.8, 0.6, 0, -0.6, -1])
    for pair in pairs:
        assert pair.distance == pytest.approx(np.sqrt(2 - 2 * pair.cosine), abs=1e-6)
    assert [p.decision for p in pairs[:4]] == [Decision.MATCH] * 3 + [Decision.BELOW]
    assert pairs_of(a, b[:0], Threshold(0.6, "test")) == ()


def test_photos_as_identify_scores_them(tmp_path: Path, demo_photos: Path) -> None:
    enrolled = demo_photos / "people" / "Emmanuel_Macron" / "emmanuel_macron_2025.jpg"
    group = demo_photos / "probes" / "group.jpg"
    picture = tmp_path / "pairs.png"
    with Engine.create(tmp_path / "library") as engine:
        answer = engine.compare(group, enrolled, picture=picture, threshold=0.4)
        engine.enroll(demo_photos / "people")
        identified = engine.identify(group, threshold=0.4, top=3)
    assert (len(answer.boxes_a), len(answer.boxes_b)) == (3, 1)
    assert len(answer.pairs) == 3
    assert [p.decision for p in answer.pairs] == [Decision.MATCH, Decision.BELOW, Decision.BELOW]
    for pair in answer.pairs:
        scores = {c.name: c.score for c in identified.faces[pair.a].candidates}
        assert pair.cosine == pytest.approx(scores["Emmanuel_Macron"], abs=0.05)  # another mean
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (3 * (112 + 2 * GAP), 2 * 112 + 3 * GAP, 3)
    assert tuple(pixels[0, 0, ::-1]) == MATCH_COLOUR


def test_a_photo_without_a_face(tmp_path: Path, demo_photos: Path) -> None:
    blank = tmp_path / "blank.png"
    Image.new("RGB", (64, 64), "white").save(blank)
    portrait = demo_photos / "probes" / "rishi_sunak.jpg"
    with Engine.create(tmp_path / "library") as engine:
        answer = engine.compare(blank, portrait, threshold=0.4, picture=tmp_path / "none.png")
    assert answer.pairs == ()
    assert (len(answer.boxes_a), len(answer.boxes_b)) == (0, 1)
