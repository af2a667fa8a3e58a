"""Going over to another model: real photos, the bundled model and one with other weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.upgrade import turned
from facesearch import Engine
from facesearch.errors import ModelChangedError, NotFoundError, UsageError
from facesearch.faces import registry
from facesearch.identify.versus import compare
from facesearch.ingest.gate import Gate, assessed
from facesearch.store import feed, ledger, upgrades
from facesearch.store.collections import Collection
from facesearch.store.outcomes import FileStamp, Outcome
from facesearch.values import F32, Decision

THRESHOLD = 0.4


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SFace whose last layer is turned by a random rotation: cosines stay, vectors do not."""
    return turned(tmp_path_factory.mktemp("weights") / "turned.safetensors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path, other_weights: Path) -> Path:
    """A library with the demo's people, and another model registered."""
    root = tmp_path_factory.mktemp("upgrade")
    shutil.copytree(demo_photos, root / "photos")
    with Engine.create(root / "library", embed_device="cpu") as engine:
        engine.enroll(root / "photos" / "people")
        engine.build_index()
        registry.register(
            other_weights,
            name="turned",
            architecture="sface",
            order="rgb",
            models_dir=engine.models_dir,
        )
    return root


@pytest.fixture
def library(made: Path, tmp_path: Path) -> Iterator[Engine]:
    """A copy of that library, open; with a fixed threshold, since few people are in it."""
    shutil.copytree(made / "library", tmp_path / "library")
    with open_again(tmp_path / "library") as engine:
        yield engine


def open_again(root: Path) -> Engine:
    return Engine.open(root, embed_device="cpu", identify_threshold=THRESHOLD)


def stored(engine: Engine, view: Collection | None = None) -> dict[int, F32]:
    collection = view or engine.collection()
    with feed.snapshot(engine.database, collection) as (_, batches):
        return {
            int(face): vector
            for batch in batches
            for face, vector in zip(batch.face_ids, batch.vectors.astype(np.float32), strict=True)
        }


def names(engine: Engine, photo: Path) -> set[str]:
    faces = engine.identify(photo).faces
    return {f.candidates[0].name for f in faces if f.decision is Decision.MATCH}


def test_it_goes_over_and_back(library: Engine, demo_photos: Path) -> None:
    probe = demo_photos / "probes" / "group.jpg"
    before, people = stored(library), names(library, probe)
    assert people == {"Emmanuel_Macron", "Jacinda_Ardern"}
    with open_again(library.root) as reader:
        reader.identify(probe)
        done = library.activate_model("turned")
        assert (done.former, done.model, done.missing) == ("sface", "turned", 0)
        assert done.faces == len(before)
        # another process, which had the former model's index open, follows
        assert names(reader, probe) == people
        assert reader.collection().contract.name == "turned"
    after = stored(library)
    assert after.keys() == before.keys()
    for face, vector in before.items():
        assert abs(float(vector @ after[face])) < 0.5
    gram, turned = (np.stack(list(x.values())) for x in (before, after))
    np.testing.assert_allclose(gram @ gram.T, turned @ turned.T, atol=0.02)
    assert library.verify_index() == []
    again = library.activate_model("turned")
    assert (again.former, again.faces) == ("", 0)
    back = library.roll_back_model()
    assert (back.model, back.faces) == ("sface", 0)
    assert names(library, probe) == people
    for face, vector in stored(library).items():
        np.testing.assert_array_equal(vector, before[face])
    assert library.roll_back_model().model == "turned"
    assert library.verify_index() == []


def test_faces_that_come_meanwhile_are_not_lost(
    library: Engine, demo_photos: Path, make_album: Callable[[int], Path]
) -> None:
    album = make_album(8)
    arrived: list[int] = []

    def somebody_ingests(line: str) -> None:
        if "comparing" in line:
            with open_again(library.root) as other:
                arrived.append(other.ingest([album]).faces)

    done = library.activate_model("turned", tell=somebody_ingests)
    assert arrived == [8]
    assert done.faces == library.counts().faces == len(stored(library))
    # and those that come under the new model are embedded by it, and by the old before going back
    extra = library.ingest([demo_photos / "probes"]).faces
    assert extra > 0
    assert len(stored(library)) == library.counts().faces
    back = library.roll_back_model()
    assert back.faces == extra
    assert len(stored(library)) == library.counts().faces
    assert library.verify_index() == []


def test_an_ingestion_that_is_under_way_follows(
    library: Engine, make_album: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    album = make_album(12)
    monkeypatch.setattr("facesearch.ingest.worker.BATCH_FACES", 4)
    went_over: list[str] = []

    def progress(report: object) -> None:
        if not went_over and getattr(report, "faces", 0) >= 4:
            with open_again(library.root) as other:
                went_over.append(other.activate_model("turned").model)

    report = library.ingest([album], progress=progress)
    assert went_over == ["turned"]
    assert (report.faces, report.failed) == (12, 0)
    # four were there when it went over; the others carry the new model's vectors
    assert len(stored(library)) == library.counts().faces
    with open_again(library.root) as other:
        (view,) = upgrades.views(other.database, other.collection())
        assert upgrades.lacking(other.database, view) == 8


def test_vectors_of_two_models_never_meet(library: Engine, demo_photos: Path) -> None:
    old = library.collection()
    library.activate_model("turned")
    with pytest.raises(ModelChangedError, match="went over to another model"):
        feed.changes(library.database, old, 0)
    with pytest.raises(ModelChangedError), feed.snapshot(library.database, old):
        pass
    with pytest.raises(ModelChangedError):
        ledger.record(library.database, old, [_some_outcome(library, demo_photos)])
    with pytest.raises(ModelChangedError):
        library.live(old)


def _some_outcome(engine: Engine, demo_photos: Path) -> Outcome:

    found = engine.extract(demo_photos / "probes" / "group.jpg")
    embedded = engine.embedder("sface", mirror=True).embed(found.crops)
    return assessed(Gate(), FileStamp("/a.jpg", 1, 1), found, embedded)


def test_photos_that_are_gone_are_told_of_and_the_user_decides(
    made: Path, library: Engine, demo_photos: Path, make_album: Callable[[int], Path]
) -> None:
    album = make_album(4)
    library.ingest([album])
    (album / "001.png").unlink()
    (album / "002.png").write_bytes((album / "003.png").read_bytes())
    with pytest.raises(UsageError, match=r"2 faces cannot be embedded.*--allow-missing"):
        library.activate_model("turned")
    assert library.collection().contract.name == "sface"
    (sface, turned) = library.models_of()
    assert (sface.active, sface.lacking) == (True, 0)
    assert (turned.active, turned.lacking) == (False, 2)
    reasons = {Path(f.path).name: f.reason for f in library.failures_of("default", turned.number)}
    assert reasons == {"001.png": "missing", "002.png": "changed"}
    done = library.activate_model("turned", allow_missing=True)
    assert (done.missing, len(done.failures)) == (2, 2)
    assert len(stored(library)) == library.counts().faces - 2
    assert library.verify_index() == []
    # the photo comes back: the same command takes it in
    (album / "001.png").write_bytes(_png_of(album, demo_photos))
    again = library.activate_model("turned", allow_missing=True)
    assert again.missing <= 2
    assert library.roll_back_model().missing == 0
    assert len(stored(library)) == library.counts().faces


def _png_of(album: Path, demo_photos: Path) -> bytes:
    return (album / "000.png").read_bytes()


def test_erasing_takes_a_face_out_of_both_models(library: Engine) -> None:
    library.activate_model("turned")
    person = library.identities()[0]
    _, faces = library.identity(f"#{person.id}")
    library.erase_identity(f"#{person.id}")
    gone = {face.face_id for face in faces}
    collection = library.collection()
    for view in (collection, *upgrades.views(library.database, collection)):
        assert gone.isdisjoint(stored(library, view))
        generation = library.live(view).generation
        assert generation is not None
        assert gone.isdisjoint(generation.face_ids.tolist())
    assert library.verify_index() == []


def test_dropping_the_former_model(library: Engine) -> None:
    library.activate_model("turned")
    assert [one.contract.name for one in library.drop_former_models()] == ["sface"]
    assert [one.contract.name for one in library.models_of()] == ["turned"]
    assert len(stored(library)) == library.counts().faces
    assert len(list((library.root / "index").iterdir())) == 1
    with pytest.raises(NotFoundError, match="no vectors of a former model"):
        library.roll_back_model()
    # going back is embedding anew
    done = library.activate_model("sface")
    assert done.faces == library.counts().faces
    assert library.verify_index() == []


def test_a_model_without_a_threshold_is_not_put_in_use(library: Engine) -> None:
    with (
        Engine.open(library.root, embed_device="cpu") as engine,
        pytest.raises(UsageError, match="no threshold, and none can be calibrated"),
    ):
        engine.activate_model("turned")
    assert library.collection().contract.name == "sface"


def test_comparing_models_finds_the_better_one() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(200), 3)
    centres = np.repeat(rng.standard_normal((200, 64)), 3, axis=0)

    def by(noise: float) -> F32:
        vectors = centres + noise * rng.standard_normal(centres.shape)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(unit, np.float32)

    found = compare(by(1.5), by(1.2), people, 0.01)
    assert found is not None
    assert (found.gallery, found.people, found.probes) == (200, 200, 600)
    assert found.gain > 0
    assert found.gain_95[0] > 0
    assert found.before.tpir_95[0] <= found.before.tpir <= found.before.tpir_95[1]
    same = by(1.5)
    level = compare(same, same, people, 0.01)
    assert level is not None
    assert (level.gain, level.gain_95) == (0.0, (0.0, 0.0))
    assert compare(same[:9], same[:9], people[:9], 0.01) is None
