"""The policy at ingestion: poor and small faces are recorded as rejected, and never searched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from facesearch import Engine
from facesearch.ingest.enroll import Entry, FaceChoice
from facesearch.store.gallery import Person
from facesearch.values import Decision


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / "library"


def test_small_faces(library: Path, demo_photos: Path) -> None:
    group = demo_photos / "probes" / "group.jpg"
    with Engine.create(library, embed_device="cpu") as engine:
        found = engine.extract(group).detections
    sides = sorted((found.boxes[:, 2:] - found.boxes[:, :2]).min(axis=1))
    least = float(sides[0] + sides[1]) / 2
    with Engine.open(library, embed_device="cpu", ingest_min_face=least) as engine:
        report = engine.ingest([group])
        assert (report.faces, report.rejected) == (2, 1)
        (rejection,) = engine.rejected()
        assert rejection.photo == str(group)
        assert "pixels, less than min_face" in rejection.reason
        assert engine.counts().faces == 2
        assert all(len(row.matches) == 2 for row in engine.search(group))
        again = engine.ingest([group])
        assert (again.unchanged, again.rejected) == (1, 0)
        # faces keep the numbers that `identify` prints, and a rejected one is not enrolled
        number = rejection.ordinal
        others = [i for i in range(3) if i != number]
        people = [Entry(str(group), Person(f"#{i}"), FaceChoice(ordinal=i)) for i in range(3)]
        report_ = engine.enroll(people)
        assert [f.reason for f in report_.not_enrolled] == ["rejected"]
        assert [p.name for p in engine.identities()] == [f"#{i}" for i in others]
        answer = engine.identify(group, threshold=0.9)
        for i in others:
            assert answer.faces[i].candidates[0].name == f"#{i}"


def test_poor_faces(library: Path, demo_photos: Path, tmp_path: Path) -> None:
    sharp = next((demo_photos / "people").rglob("*.jpg"))
    with Image.open(sharp) as photo:
        photo.filter(ImageFilter.GaussianBlur(photo.width / 22)).save(tmp_path / "blurred.jpg")
    shutil.copy(sharp, tmp_path / "sharp.jpg")
    limits = {"ingest_min_quality": 0.1, "identify_min_quality": 0.1}
    with Engine.create(library, embed_device="cpu", **limits) as engine:
        report = engine.ingest([tmp_path / "blurred.jpg", tmp_path / "sharp.jpg"])
        assert (report.faces, report.rejected) == (1, 1)
        (rejection,) = engine.rejected("default")
        assert rejection.photo == str(tmp_path / "blurred.jpg")
        assert rejection.reason.startswith("quality 0.0")
        assert rejection.reason.endswith(": blurred")
        assert not engine.enroll([Entry(str(sharp), Person("Ada"))]).failures
        answer = engine.identify(tmp_path / "blurred.jpg")
        assert answer.faces[0].decision is Decision.INSUFFICIENT
        assert "blurred" in answer.faces[0].insufficient
        assert [c.name for c in answer.faces[0].candidates] == ["Ada"]
        good = engine.identify(tmp_path / "sharp.jpg").faces[0]
        assert (good.decision, good.insufficient) == (Decision.MATCH, "")
        assert good.quality > 0.1
