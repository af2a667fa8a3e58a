"""A library moved from SQLite and FAISS to Postgres and a vector server, used there, and back."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, insert, text, update

from facesearch.engine import Engine
from facesearch.errors import BackendError, BackendUnreachableError, UsageError
from facesearch.index.adaptation import Adaptation, Evidence, write_adaptation
from facesearch.migration import MARKER, migrate
from facesearch.store import collections, transfer
from facesearch.store.tables import CropRow, FaceRow, FileRow, IdentityRow, PhotoRow
from tests import postgres
from tests.backends.made import DIES


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path) -> Path:
    """The demo's library: SQLite and FAISS."""
    root = tmp_path_factory.mktemp("original") / "library"
    with Engine.create(root) as engine:
        engine.ingest([demo_photos / "people"])
        engine.enroll(demo_photos / "people")
        engine.build_index()
        with engine.database.write() as connection:  # the largest id was once in use, and is not
            connection.execute(text("UPDATE sqlite_sequence SET seq = seq + 7 WHERE name='faces'"))
    return root


def configured(
    root: Path, url: str = "", backend: str = "faiss", vectors: str = "milvus.db"
) -> Path:
    root.mkdir()
    index = f'[index]\nbackend = "{backend}"\n'
    index += f'url = "{vectors}"\nreplicas = 1\n' if backend == "milvus" else ""
    (root / "facesearch.toml").write_text(f'[store]\nurl = "{url}"\n{index}')
    return root


def answers(root: Path, probe: Path) -> list[object]:
    with Engine.open(root) as engine:
        answer = engine.identify(probe)
        similar = engine.search(probe)
    return [asdict(face) for face in answer.faces] + [asdict(face) for face in similar]


@DIES
@pytest.mark.parametrize("kind", ["pgvector", "milvus-lite", "milvus"])
def test_there_and_back(
    original: Path,
    kind: str,
    request: pytest.FixtureRequest,
    pgvector_server: postgres.Server,
    demo_photos: Path,
    tmp_path: Path,
) -> None:
    url = pgvector_server.database(f"test_{uuid.uuid4().hex}")
    real = kind == "milvus"
    vectors = request.getfixturevalue("milvus_server").url if real else "milvus.db"
    there = configured(tmp_path / "there", url, kind.removesuffix("-lite"), vectors)
    back = configured(tmp_path / "back")
    with Engine.open(original) as source, Engine.create(there) as target:
        faces = source.counts().faces
        done = migrate(source, target)
        assert done.rows["faces"] == faces
        assert done.indexed == {"default": faces}
        assert target.live(target.collection()).status().delta == 0
    with Engine.open(there) as source, Engine.create(back) as target:
        again = migrate(source, target)
        assert again.rows == done.rows
        with target.database.read() as connection:
            numbers = connection.execute(text("SELECT name, seq FROM sqlite_sequence"))
            numbered = {name: last for name, last in numbers}
        assert numbered["faces"] == faces + 7
    group = demo_photos / "probes" / "group.jpg"
    expected = answers(original, group)
    assert answers(there, group) == expected
    assert answers(back, group) == expected


def test_goes_on_where_it_stopped(original: Path, tmp_path: Path) -> None:
    target_root = configured(tmp_path / "copy")
    with Engine.open(original) as source, Engine.create(target_root) as target:
        migrate(source, target)
        # as if it had been killed in mid-work, then damaged
        (target_root / MARKER).write_text(source.database.library_uuid())
        with target.database.write() as connection:
            connection.execute(delete(FaceRow).where(FaceRow.id == 2))
            connection.execute(update(FaceRow).where(FaceRow.id == 3).values(quality=0.0))
            connection.execute(update(FileRow).values(photo_id=None))
            connection.execute(delete(IdentityRow).where(IdentityRow.id == 1))
        changed = []
        migrate(source, target, lambda what, rows: changed.append(what))
        assert "faces" in changed
        assert target.counts() == source.counts()
        assert not (target_root / MARKER).exists()
        transfer.transfer(source.database, target.database)


def test_refuses(original: Path, tmp_path: Path) -> None:
    with Engine.open(original) as source:
        with pytest.raises(UsageError, match="is the database to copy"):
            migrate(source, source)
        other = configured(tmp_path / "other")
        with Engine.create(other) as target:
            migrate(source, target)
            with pytest.raises(UsageError, match="holds 1 collections already"):
                migrate(source, target)
            (other / MARKER).write_text("somebody else's")
            with pytest.raises(UsageError, match="copy of another library"):
                migrate(source, target)


def test_a_server_that_differs_is_found_and_mended(
    original: Path, pgvector_server: postgres.Server, tmp_path: Path
) -> None:
    url = pgvector_server.database(f"test_{uuid.uuid4().hex}")
    root = configured(tmp_path / "there", url, "pgvector")
    with Engine.open(original) as source, Engine.create(root) as engine:
        migrate(source, engine)
        assert engine.verify_index() == []
        state = engine.live(engine.collection()).status()
        table = f'facesearch_vectors."faces_1s0_{state.generation}"'
        with engine.database.write() as connection:
            connection.execute(text(f"DELETE FROM {table} WHERE face_id = 1"))
            connection.execute(text(f"UPDATE {table} SET identity_id = 77 WHERE face_id = 2"))
            connection.execute(
                text(f"INSERT INTO {table} SELECT 9999, 1, embedding FROM {table} LIMIT 1")
            )
        said = [problem.detail for problem in engine.verify_index()]
        assert said == [
            "lacks 1 faces of the database: #1",
            "holds 1 faces differently: #2",
            "holds 1 faces that the database has not: #9999",
        ]
        assert [p.detail for p in engine.verify_index(repair=True)] == said
        assert engine.verify_index() == []
        with engine.database.write() as connection:
            connection.execute(text(f"DELETE FROM {table} WHERE face_id = 1"))
            connection.execute(insert(CropRow).values(face_id=2, png=b"no picture"))
        crop = engine.verify_index(repair=True)[1:]
        assert len(crop) == 1  # crops are checked too, and nothing mends them
        assert engine.verify_index() == crop


def test_filters_as_faiss_does(
    original: Path,
    pgvector_server: postgres.Server,
    demo_photos: Path,
    tmp_path: Path,
) -> None:
    """By metadata and by time, with everything in the server and with some beside it."""
    url = pgvector_server.database(f"test_{uuid.uuid4().hex}")
    root = configured(tmp_path / "there", url, "pgvector")
    group = demo_photos / "probes" / "group.jpg"
    noon = datetime(2020, 5, 1, 12)
    filters: list[dict[str, Any]] = [
        {"where": {"team": "a"}},
        {"since": noon},
        {"until": noon, "where": {"team": "a"}},
        {"where": {"team": "nobody"}},
    ]
    copy = shutil.copytree(original, tmp_path / "copy")
    with Engine.open(copy) as source, Engine.create(root) as target:
        for person in source.identities()[:3]:
            source.change_identity(f"#{person.id}", metadata={"team": "a"})
        with source.database.write() as connection:
            early = noon - timedelta(days=1)
            connection.execute(update(PhotoRow).values(taken_at=noon))
            connection.execute(update(PhotoRow).where(PhotoRow.id <= 2).values(taken_at=early))
        migrate(source, target)
        for change in (None, source.identities()[-1].id):
            for engine in (source, target) if change else ():
                with engine.database.write() as connection:
                    revision = collections.bump(connection, 1)
                    changed = update(FaceRow).where(FaceRow.identity_id == change)
                    connection.execute(changed.values(identity_id=1, changed=revision))
            for one in filters:
                expected = asdict(source.identify(group, **one))
                assert asdict(target.identify(group, **one)) == expected
                assert target.search(group, **one) == source.search(group, **one)


def test_is_brought_up_in_a_process_of_its_own(
    original: Path, pgvector_server: postgres.Server, demo_photos: Path, tmp_path: Path
) -> None:
    url = pgvector_server.database(f"test_{uuid.uuid4().hex}")
    root = configured(tmp_path / "there", url, "pgvector")
    with Engine.open(original) as source, Engine.create(root) as engine:
        migrate(source, engine)
        collection = engine.collection()
        before = engine.live(collection).status()
        new = engine.ingest([demo_photos / "probes" / "group.jpg"]).faces
        assert engine.outside(collection) == new
        assert engine.compact_index(background=True).delta == new
        engine.compactor.wait()
        after = engine.live(collection).status()
        assert (after.generation, after.rows) == (before.generation, before.rows + new)
        assert (after.delta, engine.outside(collection)) == (0, 0)
        assert engine.verify_index() == []


def test_an_adaptation_goes_along_to_faiss_only(
    original: Path, demo_photos: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    there, lite = configured(tmp_path / "there"), configured(tmp_path / "lite", backend="milvus")
    with Engine.open(copy) as source, Engine.create(there) as target:
        contract = source.collection().contract
        rng = np.random.default_rng(4)
        matrix = np.eye(contract.dim) + 0.05 * rng.standard_normal((contract.dim, contract.dim))
        evidence = Evidence(9, 20, 0.5, 0.5, 0.6, (0.0, 0.2), 0.0, 1.0, "2026", contract.key)
        adaptation = Adaptation(matrix.astype(np.float32), evidence)
        write_adaptation(source.root / "index" / "1", adaptation)
        source.build_index()
        with (
            Engine.create(lite) as server,
            pytest.raises(UsageError, match=r"only index\.backend = \"faiss\" can compare so"),
        ):
            migrate(source, server)
        migrate(source, target)
        used = target.live(target.collection()).adaptation
        assert used is not None
        assert used.key == adaptation.key
    group = demo_photos / "probes" / "group.jpg"
    assert answers(there, group) == answers(copy, group) != answers(original, group)


def test_does_not_adapt(original: Path) -> None:
    with (
        Engine.open(original, index_backend="milvus", index_url="milvus.db") as engine,
        pytest.raises(UsageError, match=r'"milvus" compares without an adaptation; only "faiss"'),
    ):
        engine.adapt()


def test_erasing_takes_a_face_out_of_the_server(
    original: Path, pgvector_server: postgres.Server, tmp_path: Path
) -> None:
    url = pgvector_server.database(f"test_{uuid.uuid4().hex}")
    root = configured(tmp_path / "there", url, "pgvector")
    with Engine.open(original) as source, Engine.create(root) as engine:
        migrate(source, engine)
        before = engine.live(engine.collection()).status()
        _, faces = engine.erase_identity(engine.identities()[0].name)
        assert faces
        after = engine.live(engine.collection()).status()
        assert (after.rows, after.delta) == (before.rows - faces, 0)
        assert engine.verify_index() == []


def test_faiss_is_not_mended(original: Path) -> None:
    with Engine.open(original) as engine, pytest.raises(UsageError, match="index build"):
        engine.verify_index(repair=True)


def test_needs_postgres(original: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    with (
        Engine.open(copy, index_backend="pgvector") as engine,
        pytest.raises(UsageError, match="needs the store on Postgres"),
    ):
        engine.live(engine.collection())
    with (
        Engine.open(copy, index_backend="milvus") as engine,
        pytest.raises(UsageError, match=r"needs index\.url"),
    ):
        engine.live(engine.collection())
    with (
        Engine.open(copy, index_backend="milvus", index_url="nonsense") as engine,
        pytest.raises(BackendError, match="uri: nonsense is illegal") as told,
    ):
        engine.live(engine.collection())
    assert not isinstance(told.value, BackendUnreachableError)  # so it was not tried again
