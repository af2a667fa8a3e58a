"""The whole path on the bundled photos: real detector, real model, real database, real index."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facesearch import Engine
from facesearch.errors import (
    ContractError,
    DeviceError,
    IndexFileError,
    LibraryError,
    NotFoundError,
    PhotoError,
    StoreError,
    UsageError,
)
from facesearch.ingest.enroll import Entry, FaceChoice
from facesearch.store.gallery import Person
from facesearch.values import Decision, Failure


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory, demo_photos: Path) -> Path:
    """A library in which the demo's people are enrolled."""
    root = tmp_path_factory.mktemp("enrolled") / "library"
    with Engine.create(root, embed_device="cpu") as engine:
        assert not engine.enroll(demo_photos / "people").failures
    return root


@pytest.fixture
def library(enrolled: Path, tmp_path: Path) -> Iterator[Engine]:
    """A copy of that library, open."""
    shutil.copytree(enrolled, tmp_path / "library")
    with Engine.open(tmp_path / "library", embed_device="cpu") as engine:
        yield engine


def portraits(demo_photos: Path) -> list[Path]:
    return sorted((demo_photos / "people").rglob("*.jpg"))


def test_people_are_recognised_in_a_photo_never_seen(library: Engine, demo_photos: Path) -> None:
    answer = library.identify(demo_photos / "probes" / "group.jpg")
    names = {f.candidates[0].name for f in answer.faces if f.decision is Decision.MATCH}
    assert len(answer.faces) == 3
    assert names == {"Emmanuel_Macron", "Jacinda_Ardern"}
    assert any(f.decision is Decision.UNKNOWN for f in answer.faces)
    for face in answer.faces:
        scores = [c.score for c in face.candidates]
        assert scores == sorted(scores, reverse=True)
        assert len({c.identity_id for c in face.candidates}) == len(face.candidates)
        for candidate in face.candidates:
            above = candidate.score >= face.threshold.value
            assert candidate.decision is (Decision.MATCH if above else Decision.BELOW)


def test_the_answer_is_the_same_with_and_without_a_built_index(
    library: Engine, demo_photos: Path
) -> None:
    probe = demo_photos / "probes" / "group.jpg"
    before = library.identify(probe)
    assert library.live(library.collection()).status().generation is None
    status = library.build_index()
    assert (status.rows, status.delta) == (library.counts().faces, 0)
    after = library.identify(probe)
    for a, b in zip(before.faces, after.faces, strict=True):
        assert [c.name for c in a.candidates] == [c.name for c in b.candidates]
        np.testing.assert_allclose(
            [c.score for c in a.candidates], [c.score for c in b.candidates], atol=1e-5
        )


def test_running_again_changes_nothing(library: Engine, demo_photos: Path) -> None:
    before = library.counts()
    revision = library.collection().revision
    report = library.enroll(demo_photos / "people")
    assert (report.enrolled, report.unchanged) == (0, report.entries)
    ingested = library.ingest([demo_photos / "people"])
    assert (ingested.photos, ingested.unchanged) == (0, ingested.files)
    assert library.counts() == before
    assert library.collection().revision == revision


def test_a_copy_is_a_duplicate_and_is_not_embedded(
    library: Engine, demo_photos: Path, tmp_path: Path
) -> None:
    before = library.counts()
    for i, photo in enumerate(portraits(demo_photos)):
        shutil.copy(photo, tmp_path / f"copy-{i}.jpg")
    report = library.ingest([tmp_path / f"copy-{i}.jpg" for i in range(i + 1)])
    assert (report.duplicates, report.faces) == (i + 1, 0)
    assert library.counts().faces == before.faces


def test_bad_files_are_listed_and_the_rest_goes_on(
    library: Engine, demo_photos: Path, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    album.mkdir()
    good = (demo_photos / "probes" / "group.jpg").read_bytes()
    (album / "good.jpg").write_bytes(good)
    (album / "empty.jpg").touch()
    (album / "text.jpg").write_text("not a photo")
    (album / "cut.jpg").write_bytes(good[: len(good) // 2])
    (album / "notes.txt").write_text("not even called a photo")
    (album / "dangling.jpg").symlink_to(album / "nowhere")
    report = library.ingest([album])
    assert report.photos == 1
    assert report.ignored == {".txt": 1}
    reasons = {Path(f.path).name: f.reason for f in library.failures()}
    assert reasons == {
        "empty.jpg": "empty",
        "text.jpg": "not_an_image",
        "cut.jpg": "truncated",
        "dangling.jpg": "missing",
    }
    again = library.ingest([album])
    assert (again.failed_before, again.failed) == (3, 1)  # a missing file may be back
    assert library.ingest([album], retry_failed=True).failed == 4
    (album / "cut.jpg").write_bytes(good + b"\0")
    assert library.ingest([album]).photos == 1
    assert "cut.jpg" not in {Path(f.path).name for f in library.failures()}


def test_one_face_of_several_is_enrolled_as_told(
    library: Engine, demo_photos: Path, tmp_path: Path
) -> None:
    group = demo_photos / "probes" / "group.jpg"
    answer = library.identify(group)
    number, face = next(
        (i, f) for i, f in enumerate(answer.faces) if f.decision is Decision.UNKNOWN
    )
    x1, y1, x2, y2 = face.box
    by_number = Entry(str(group), Person("Somebody New"), FaceChoice(ordinal=number))
    by_point = Entry(
        str(group), Person("Somebody New"), FaceChoice(point=((x1 + x2) / 2, (y1 + y2) / 2))
    )
    beyond = Entry(str(group), Person("Nobody"), FaceChoice(ordinal=99))
    report = library.enroll([by_number, beyond])
    assert [(f.reason) for f in report.not_enrolled] == ["no_such_face"]
    assert library.enroll([by_point]).unchanged == 1
    match = library.identify(group).faces[number].candidates[0]
    assert (match.name, match.decision) == ("Somebody New", Decision.MATCH)
    # the same face, but seen by the detector of bulk work when enrolled: a third of a pixel apart
    assert match.score == pytest.approx(1.0, abs=1e-2)


def test_a_face_claimed_by_two_people_is_a_conflict(library: Engine, demo_photos: Path) -> None:
    photo = str(portraits(demo_photos)[0])
    holder = Path(photo).parent.name
    report = library.enroll([Entry(photo, Person("An Impostor"))])
    assert [f.reason for f in report.not_enrolled] == ["conflict"]
    assert holder in report.not_enrolled[0].detail
    assert library.enroll([Entry(photo, Person("An Impostor"))], move=True).enrolled == 1
    assert [f.photo for f in library.identity("An Impostor")[1]] == [photo]


def test_erasing_takes_a_person_out_of_database_and_index(
    library: Engine, demo_photos: Path
) -> None:
    library.build_index()
    name = portraits(demo_photos)[0].parent.name
    rows = library.counts().faces
    person, erased = library.erase_identity(name)
    assert (person.name, erased) == (name, person.faces)
    status = library.live(library.collection()).status()
    assert (status.rows, status.delta) == (rows - erased, 0)
    with pytest.raises(NotFoundError):
        library.identity(name)
    library.ingest([demo_photos / "people"])
    assert library.counts().faces == rows - erased
    assert library.enroll(demo_photos / "people" / ".." / "people").enrolled == erased


def test_filters_and_thresholds(library: Engine, demo_photos: Path) -> None:
    probe = portraits(demo_photos)[0]
    name = probe.parent.name
    library.change_identity(name, metadata={"team": "red"})
    (face,) = library.identify(probe, where={"team": "red"}).faces
    assert [c.name for c in face.candidates] == [name]
    assert library.identify(probe, where={"team": "blue"}).faces[0].candidates == ()
    strict = library.identify(probe, threshold=1.0).faces[0].threshold
    assert (strict.value, strict.origin) == (1.0, "set by the caller")
    assert library.identify(probe, threshold=0.0).faces[0].threshold.value == 0.0
    loose, tight = (
        library.identify(probe, fpir=fpir).faces[0].threshold.value for fpir in (0.1, 0.001)
    )
    assert loose < tight
    with pytest.raises(UsageError, match="FPIR"):
        library.identify(probe, fpir=0.0)
    with pytest.raises(NotFoundError, match="no collection 'other'"):
        library.identify(probe, "other")


def test_many_probes_are_answered_like_one(library: Engine, demo_photos: Path) -> None:
    probes = [*portraits(demo_photos), demo_photos / "none.jpg", demo_photos / "CREDITS.md"]
    answers = list(library.identify_many(probes))
    assert [isinstance(a, Failure) for a in answers] == [False] * (len(probes) - 2) + [True] * 2
    for probe, answer in zip(probes[:-2], answers, strict=False):
        assert not isinstance(answer, Failure)
        alone = library.identify(probe)
        assert answer.faces[0].candidates[0].name == alone.faces[0].candidates[0].name
        assert answer.faces[0].candidates[0].score == pytest.approx(
            alone.faces[0].candidates[0].score, abs=2e-3
        )


def test_search_finds_faces_enrolled_or_not(library: Engine, demo_photos: Path) -> None:
    probe = portraits(demo_photos)[0]
    ((hit, *_),) = (rows.matches for rows in library.search(probe, top=3))
    assert (hit.face.photo, hit.identity and hit.identity.name) == (str(probe), probe.parent.name)


def test_collections_are_separate_and_can_be_searched_together(
    library: Engine, demo_photos: Path
) -> None:
    group = demo_photos / "probes" / "group.jpg"
    library.enroll([Entry(str(group), Person("From The Group"), FaceChoice(ordinal=0))], "second")
    assert {c.name for c in library.collections()} == {"default", "second"}
    best = library.identify(group, ["default", "second"]).faces[0].candidates[0]
    assert (best.name, best.collection) == ("From The Group", "second")
    assert library.identify(group).faces[0].candidates[0].collection == "default"
    assert library.counts().photos == library.counts("default").photos + 1


def test_a_photo_without_a_face_is_not_an_error(library: Engine, tmp_path: Path) -> None:
    import cv2

    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((200, 200, 3), 127, np.uint8))
    assert library.identify(blank).faces == ()
    assert library.ingest([blank]).no_face == 1
    report = library.enroll([Entry(str(blank), Person("A Wall"))])
    assert [f.reason for f in report.not_enrolled] == ["no_face"]
    assert "A Wall" not in {p.name for p in library.identities()}


def test_a_library_that_is_not_there_or_not_one(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="facesearch init"):
        Engine.open(tmp_path / "none")
    with pytest.raises(LibraryError, match="not a library"):
        Engine.open(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(LibraryError, match=r"has 'thesis.tex'"):
        Engine.create(tmp_path)


def test_creating_twice_keeps_what_is_there(library: Engine) -> None:
    before = library.counts()
    with Engine.create(library.root) as again:
        assert again.counts() == before


def test_a_library_without_its_database(library: Engine) -> None:
    library.close()
    (library.root / "facesearch.db").unlink()
    with pytest.raises(StoreError, match="no database"):
        Engine.open(library.root)


def test_a_missing_device_is_an_error_not_a_fallback(library: Engine, demo_photos: Path) -> None:
    with (
        Engine.open(library.root, embed_device="cuda:7") as engine,
        pytest.raises(DeviceError, match="CUDA"),
    ):
        engine.identify(demo_photos / "probes" / "group.jpg")


def test_unreadable_probe(library: Engine, tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="none"):
        library.identify(tmp_path / "none.jpg")


def test_another_model_never_meets_the_collection(library: Engine, demo_photos: Path) -> None:
    from sqlalchemy import text

    with library.database.write() as connection:
        connection.execute(text("UPDATE collections SET model_sha256 = 'other'"))
    with pytest.raises(ContractError, match="ingest the photos again"):
        library.identify(demo_photos / "probes" / "group.jpg")
    with pytest.raises(ContractError):
        library.ingest([demo_photos])


def test_a_collection_keeps_its_embedding_and_the_index_its_centring(
    tmp_path: Path, demo_photos: Path
) -> None:
    portrait = demo_photos / "probes" / "jacinda_ardern_2022.jpg"
    plain = {"embed_mirror": False, "index_centre": False, "identify_template": "best"}
    with Engine.create(tmp_path / "library", **plain) as engine:
        engine.enroll(demo_photos / "people")
        engine.build_index()
        (face,) = engine.identify(portrait).faces
        contract = engine.collection().contract
    with Engine.open(tmp_path / "library", index_centre=False) as engine:  # mirrored by default
        assert engine.embedder().contract != contract
        engine.enroll(demo_photos / "people")
        engine.ingest([demo_photos / "probes"])
        assert engine.collection().contract == contract
        (again,) = engine.identify(portrait).faces
        assert again.candidates[0].name == face.candidates[0].name == "Jacinda_Ardern"
        assert again.candidates[0].score == pytest.approx(face.candidates[0].score, abs=1e-4)
    with Engine.create(tmp_path / "levers") as engine:
        engine.enroll(demo_photos / "people")
        engine.build_index()
        centred = engine.identify(portrait).faces[0].candidates[0]
    with Engine.open(tmp_path / "levers", index_centre=False) as engine:
        with pytest.raises(IndexFileError, match=r"are centred, expected plain.*index build"):
            engine.identify(portrait, threshold=0.4)
        engine.build_index()
        bare = engine.identify(portrait, threshold=0.4).faces[0].candidates[0]
        assert bare.score != pytest.approx(centred.score, abs=1e-3)
