"""Duplicates through the engine: found, grouped, never dropped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from PIL import Image

from facesearch import Engine
from facesearch.cli import common


def test_duplicates(tmp_path: Path, demo_photos: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    first, second, third = sorted(demo_photos.rglob("*.jpg"))[:3]
    for source, name in ((first, "a.jpg"), (first, "b.jpg"), (second, "d.jpg"), (third, "f.jpg")):
        shutil.copy(source, album / name)
    with Image.open(first) as photo:
        photo.resize((photo.width // 2, photo.height // 2)).save(album / "c.jpg", quality=40)
    with Image.open(second) as photo:
        photo.save(album / "e.webp", quality=50)
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        engine.ingest([album])
        assert (engine.counts().photos, engine.counts().files) == (5, 6)
        found = engine.duplicates()
        assert engine.duplicates(distance=0).exact == found.exact
    names = [[Path(path).name for path in group] for group in found.exact]
    assert names == [["a.jpg", "b.jpg"]]
    names = [[Path(path).name for path in group] for group in found.near]
    assert names == [["a.jpg", "c.jpg"], ["d.jpg", "e.webp"]]
    assert found.unhashed == 0
    assert json.loads(json.dumps(common.plain(found)))["near"] == found.near
