"""Tuning, compacting and checking the index of a real library of generated faces."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facesearch import Engine, indexing
from facesearch.errors import IndexFileError, UsageError
from facesearch.evaluate.generate import Population, shipped_statistics
from facesearch.faces.known_models import KNOWN
from facesearch.index.segment import Faces
from facesearch.index.tune import Target
from facesearch.store import collections, gallery, ledger
from facesearch.store.gallery import Person
from facesearch.store.outcomes import Extracted, FileStamp
from facesearch.values import F32, Detections, Embeddings

CONTRACT = next(model for model in KNOWN if model.name == "sface").contract
PEOPLE = 700


def photo(number: int, vectors: F32) -> Extracted:
    """A photo with faces of these vectors."""
    n = len(vectors)
    boxes = np.tile(np.array([[10, 10, 60, 60]], np.float32), (n, 1))
    return Extracted(
        FileStamp(f"/photos/{number}.jpg", 1, 1),
        f"{number:064x}",
        (640, 480),
        Detections(boxes, np.zeros((n, 5, 2), np.float32), np.ones(n, np.float32)),
        Embeddings(vectors, np.full(n, 10, np.float32), CONTRACT),
        np.full(n, 0.5, np.float32),
        ("",) * n,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 people: 600 with two photos, 100 with one; and 50 faces of nobody."""
    root = tmp_path_factory.mktemp("indexing") / "library"
    population = Population(shipped_statistics(), seed=9)
    first, second = population.faces(0, PEOPLE + 50), population.faces(0, 600, photo=1)
    with Engine.create(root) as engine:
        found = collections.ensure(engine.database, "default", CONTRACT)
        photos = [photo(i, v[None]) for i, v in enumerate(np.concatenate([first, second]))]
        ledger.record(engine.database, found, photos)
        people = [(i + 1, Person(f"p{i}")) for i in range(PEOPLE)]
        people += [(PEOPLE + 50 + i + 1, Person(f"p{i}")) for i in range(600)]
        gallery.assign(engine.database, found, people)
    return root


@pytest.fixture
def engine(made: Path, tmp_path: Path) -> Iterator[Engine]:
    shutil.copytree(made, tmp_path / "library")
    with Engine.open(tmp_path / "library") as opened:
        yield opened


def gallery_of(engine: Engine, folder: Path) -> Faces:
    found = engine.collection()
    return indexing.gallery(engine.database, found, folder, engine.live(found).compared)


def test_probes_are_held_out(engine: Engine, tmp_path: Path) -> None:
    faces = gallery_of(engine, tmp_path)
    assert len(faces) == PEOPLE + 50 + 600
    rest, probes = indexing.hold_out(faces, 0.5)
    assert len(probes) == 600
    assert "perturbed" not in probes.origin
    assert len(rest) == len(faces) - 600
    assert not np.isin(probes.vectors.astype(np.float16)[:, 0], rest.vectors[:, 0]).all()
    for vector, person in zip(probes.vectors[:20], probes.identities[:20], strict=True):
        same = faces.identity_ids == person
        assert (faces.vectors[same] == vector.astype(np.float16)).all(axis=1).any()
        assert not (rest.vectors == vector.astype(np.float16)).all(axis=1).any()


def test_people_with_one_photo_are_perturbed(engine: Engine, tmp_path: Path) -> None:
    faces = gallery_of(engine, tmp_path)
    few = Faces(faces.face_ids[:PEOPLE], faces.identity_ids[:PEOPLE], faces.vectors[:PEOPLE])
    rest, probes = indexing.hold_out(few, 0.5)
    assert (len(rest), len(probes)) == (PEOPLE, PEOPLE)
    assert "perturbed" in probes.origin
    scores = probes.vectors @ few.vectors.astype(np.float32).T
    own = scores[np.arange(PEOPLE), np.searchsorted(few.identity_ids, probes.identities)]
    assert 0.6 < np.median(own) < 0.75
    nobody = Faces(faces.face_ids[:3], np.zeros(3, np.int64), faces.vectors[:3])
    with pytest.raises(UsageError, match="nobody is enrolled"):
        indexing.hold_out(nobody, 0.5)


def test_what_tuning_chose_is_built_again_and_explained(engine: Engine) -> None:
    result = engine.tune_index(target=Target(recall10=0.95), recipes=["exact", "exact-fp16"])
    assert result.identified > 200
    assert result.chosen.identification_loss == 0
    status = engine.live(engine.collection()).status()
    assert (status.recipe, status.rows, status.delta) == (result.chosen.recipe, 1350, 0)
    words = engine.explain_index()
    assert result.why in words
    assert "held out" in words
    assert engine.build_index().recipe == result.chosen.recipe
    assert engine.build_index(recipe="exact-fp16").recipe == "exact-fp16"
    assert engine.build_index().recipe == result.chosen.recipe
    assert engine.build_index(recipe="auto").recipe == "exact"
    assert "Nothing was tuned" in engine.explain_index()
    (engine.root / "index" / "1" / "TUNED").write_text("{}")
    with pytest.raises(IndexFileError, match="index tune"):
        engine.build_index()


def test_measuring_alone_builds_nothing(engine: Engine) -> None:
    engine.tune_index(recipes=["exact"], publish=False)
    assert engine.live(engine.collection()).status().generation is None
    assert "No index was built" in engine.explain_index()
    assert engine.verify_index() == []


def test_compacting_takes_in_what_changed(engine: Engine) -> None:
    first = engine.compact_index()
    assert (first.rows, first.delta) == (1350, 0)
    assert engine.compact_index().generation == first.generation
    found = engine.collection()
    vectors = Population(shipped_statistics(), seed=10).faces(0, 3)
    ledger.record(engine.database, found, [photo(9000, vectors)])
    second = engine.compact_index()
    assert second.generation != first.generation
    assert (second.rows, second.delta) == (1353, 0)
    assert engine.verify_index() == []


def test_the_erased_are_gone_from_every_file(engine: Engine) -> None:
    engine.build_index()
    found = engine.collection()
    person = gallery.find(engine.database, found, "p5")
    face_ids = gallery.erase(engine.database, found, person.id)
    assert len(face_ids) == 2
    (problem,) = engine.verify_index()
    assert "still holds 2 removed faces" in problem.detail
    engine.compact_index()
    assert engine.verify_index() == []
    vector = Population(shipped_statistics(), seed=9).faces(5, 6).astype("<f2").tobytes()
    files = [p for p in (engine.root / "index").rglob("*") if p.is_file()]
    assert len(files) >= 6
    assert not any(vector in p.read_bytes() for p in files)


def test_what_verifying_finds(engine: Engine) -> None:
    status = engine.build_index()
    directory = engine.root / "index" / "1"
    folder = directory / str(status.generation)
    (directory / "tmp-of-a-crash").mkdir()
    (folder / "notes.txt").write_text("x")
    (engine.root / "index" / "77").mkdir()
    details = {Path(p.path).name: p.detail for p in engine.verify_index()}
    assert set(details) == {"tmp-of-a-crash", "notes.txt", "77"}
    for path in ((directory / "tmp-of-a-crash"), (engine.root / "index" / "77")):
        path.rmdir()
    (folder / "notes.txt").unlink()

    data = bytearray((folder / "vectors.f16").read_bytes())
    data[100] ^= 1
    (folder / "vectors.f16").write_bytes(data)
    (problem,) = engine.verify_index()
    assert "checksum" in problem.detail
    engine.build_index()
    assert engine.verify_index() == []


def test_an_index_of_other_vectors_is_noticed(engine: Engine) -> None:
    """Checksums hold, yet a face's vector and another's identity are not the database's."""
    engine.build_index()
    with engine.database.write() as connection:
        connection.exec_driver_sql("UPDATE faces SET embedding = zeroblob(256) WHERE id = 7")
        connection.exec_driver_sql("UPDATE faces SET identity_id = NULL WHERE id = 9")
        connection.exec_driver_sql("DELETE FROM faces WHERE id = 11")
    details = sorted(p.detail for p in engine.verify_index())
    assert details == [
        "holds 1 faces that the database has not: #11",
        "holds 2 faces differently: #7, #9",
    ]


def test_the_choice_is_plain_json(engine: Engine) -> None:
    from facesearch.cli import common

    result = engine.tune_index(recipes=["exact"], publish=False)
    assert json.loads(json.dumps(common.plain(result)))["chosen"]["recipe"] == "exact"
