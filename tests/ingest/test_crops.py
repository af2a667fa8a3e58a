"""Stored crops: as they were embedded, kept only if asked for, gone with their faces."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from facesearch import Engine
from facesearch.errors import StoreError
from facesearch.store import crops
from facesearch.store.reembeddings import StoredPhoto
from facesearch.values import Detections


def crop_rows(engine: Engine) -> set[int]:
    with engine.database.read() as connection:
        return set(connection.exec_driver_sql("SELECT face_id FROM crops").scalars())


def face_rows(engine: Engine) -> set[int]:
    with engine.database.read() as connection:
        return set(connection.exec_driver_sql("SELECT id FROM faces").scalars())


def test_their_life(demo_photos: Path, tmp_path: Path) -> None:
    people, album = tmp_path / "people", tmp_path / "album"
    shutil.copytree(demo_photos / "people", people)
    album.mkdir()
    shutil.copy(demo_photos / "probes" / "group.jpg", album)
    with Engine.create(tmp_path / "library", embed_device="cpu", ingest_crops=True) as engine:
        engine.enroll(people)
        engine.ingest([album])
        assert crop_rows(engine) == face_rows(engine)
        assert len(face_rows(engine)) > 5
        # a crop is what was embedded
        name = sorted(path.name for path in people.iterdir())[0]
        person, faces = engine.identity(name)
        crop = engine.crop_of(faces[0].face_id)
        assert crop is not None
        ids = np.array([faces[0].face_id])
        with engine.database.read() as connection:
            query = f"SELECT embedding FROM faces WHERE id = {ids[0]}"
            stored = np.frombuffer(connection.exec_driver_sql(query).scalar_one(), "<f2")
        embedder = engine.embedder_of(engine.collection())
        assert embedder.embed(crop[None]).vectors[0] @ stored.astype(np.float32) > 0.9995
        # and what another model embeds, without the photo
        one = Detections.none()
        gone = StoredPhoto(1, "0" * 64, (1, 1), (), ids, one)
        assert np.array_equal(engine._crops_again(gone), crop[None])
        # gone with an identity, and with files that are gone
        engine.erase_identity(person.name)
        assert engine.crop_of(faces[0].face_id) is None
        os.remove(album / "group.jpg")
        engine.ingest([album], rescan=True)
        engine.prune([album])
        assert crop_rows(engine) == face_rows(engine)
        found = engine.collection()
        assert crops.count(engine.database, found) == len(face_rows(engine)) > 0
        # damage is found
        (some, *_) = crop_rows(engine)
        with engine.database.write() as connection:
            connection.exec_driver_sql(f"UPDATE crops SET png = x'00' WHERE face_id = {some}")
        assert [f"face {some}" in p.detail for p in engine.verify_index()] == [True]
        with pytest.raises(StoreError, match="damaged"):
            engine.crop_of(some)


def test_not_unless_asked_for(demo_photos: Path, tmp_path: Path) -> None:
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        engine.ingest([demo_photos / "people"])
        assert crop_rows(engine) == set()
        (face, *_) = face_rows(engine)
        assert engine.crop_of(face) is None
