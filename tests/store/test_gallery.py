from __future__ import annotations

import multiprocessing

import pytest

from facesearch.errors import NotFoundError, UsageError
from facesearch.store import gallery, ledger
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.gallery import Person
from tests.store.made import extracted


@pytest.fixture
def faces(database: Database, collection: Collection) -> list[int]:
    photos = [extracted(f"/{i}.jpg", f"{i:064d}", seed=i) for i in range(4)]
    ledger.record(database, collection, photos)
    stored = gallery.faces_of(database, collection, [p.file.path for p in photos])
    return [int(stored[p.file.path].face_ids[0]) for p in photos]


def test_enrolling_twice_changes_nothing(
    database: Database, collection: Collection, faces: list[int]
) -> None:
    people = [(faces[0], Person("Ada", "x1", {"team": "red", "n": 3})), (faces[1], Person("Bob"))]
    assert gallery.assign(database, collection, people) == 2
    assert gallery.assign(database, collection, people) == 0
    assert [(p.name, p.faces) for p in gallery.listing(database, collection)] == [
        ("Ada", 1),
        ("Bob", 1),
    ]


def test_a_name_that_is_no_text(
    database: Database, collection: Collection, faces: list[int]
) -> None:
    with pytest.raises(UsageError, match="not valid text"):
        gallery.assign(database, collection, [(faces[0], Person("\udcff"))])
    assert gallery.listing(database, collection) == []


def test_same_name_with_different_external_ids_are_different_people(
    database: Database, collection: Collection, faces: list[int]
) -> None:
    people = [(face, Person("John Smith", f"id-{i}")) for i, face in enumerate(faces[:2])]
    gallery.assign(database, collection, people)
    with pytest.raises(UsageError, match="several identities are named"):
        gallery.find(database, collection, "John Smith")
    assert gallery.find(database, collection, "id-1").external_id == "id-1"
    number = gallery.find(database, collection, "id-1").id
    assert gallery.find(database, collection, f"#{number}").external_id == "id-1"


def test_candidates(database: Database, collection: Collection, faces: list[int]) -> None:
    """Of a photo with several files the first is told; faces that are gone or of nobody are not."""
    ledger.record(database, collection, [extracted(f"/{n}.jpg", f"{0:064d}") for n in "zca"])
    people = [(face, Person(f"P{i}", None, {"n": i})) for i, face in enumerate(faces[:3])]
    gallery.assign(database, collection, people)
    gallery.erase(database, collection, gallery.find(database, collection, "P2").id)
    for more in ([], list(range(10_000, 10_020))):  # in few and in many
        found = gallery.candidates(database, [*faces, *more])
        assert [(f, found[f].name, found[f].photo, found[f].metadata) for f in sorted(found)] == [
            (faces[0], "P0", "/0.jpg", {"n": 0}),
            (faces[1], "P1", "/1.jpg", {"n": 1}),
        ]
    assert gallery.candidates(database, []) == {}
    gallery.change(database, found[faces[1]].identity_id, name="Q")
    database.close()
    assert gallery.candidates(database, faces)[faces[1]].name == "Q"


def test_metadata_is_merged_and_filtered(
    database: Database, collection: Collection, faces: list[int]
) -> None:
    gallery.assign(database, collection, [(faces[0], Person("Ada", None, {"team": "red"}))])
    gallery.assign(database, collection, [(faces[0], Person("Ada", None, {"age": 36, "on": True}))])
    gallery.assign(database, collection, [(faces[1], Person("Bob", None, {"team": "blue"}))])
    (ada,) = gallery.listing(database, collection, {"team": "red", "age": 36, "on": True})
    assert ada.metadata == {"team": "red", "age": 36, "on": True}
    assert gallery.ids_where(database, collection, {"team": "red"}).tolist() == [ada.id]
    assert not gallery.listing(database, collection, {"team": "green"})
    with pytest.raises(UsageError, match="compare with a text"):
        gallery.listing(database, collection, {"team": ["red"]})


def test_rename_show_and_erase(
    database: Database, collection: Collection, faces: list[int]
) -> None:
    gallery.assign(database, collection, [(f, Person("Ada")) for f in faces[:3]])
    ada = gallery.find(database, collection, "Ada")
    gallery.change(database, ada.id, name="Ada Lovelace", metadata={"born": 1815})
    ada = gallery.find(database, collection, "Ada Lovelace")
    assert (ada.faces, ada.metadata) == (3, {"born": 1815})
    records = gallery.faces_by_identity(database, ada.id)
    assert [r.photo for r in records] == ["/0.jpg", "/1.jpg", "/2.jpg"]
    assert sorted(gallery.erase(database, collection, ada.id)) == faces[:3]
    assert ledger.counts(database).faces == 1
    with pytest.raises(NotFoundError, match="no identity 'Ada Lovelace'"):
        gallery.find(database, collection, "Ada Lovelace")
    states = ledger.known(database, collection, ["/0.jpg", "/3.jpg"])
    assert (states["/0.jpg"].state, states["/3.jpg"].state) == ("erased", "done")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_erased_vector_is_not_left_in_any_file(
    database: Database, collection: Collection
) -> None:
    from pathlib import Path

    photo = extracted("/secret.jpg", "e" * 64, seed=7)
    ledger.record(database, collection, [photo])
    stored = gallery.faces_of(database, collection, ["/secret.jpg"])["/secret.jpg"]
    gallery.assign(database, collection, [(int(stored.face_ids[0]), Person("Ada"))])
    vector = photo.embeddings.vectors[0].astype("<f2").tobytes()
    folder = Path(database.where).parent

    def holders() -> list[str]:
        return [f.name for f in folder.iterdir() if f.is_file() and vector in f.read_bytes()]

    assert holders()
    gallery.erase(database, collection, gallery.find(database, collection, "Ada").id)
    assert holders() == []


def test_erased_faces_come_back_only_when_extracted_again(
    database: Database, collection: Collection
) -> None:
    photo = extracted("/a.jpg", "a" * 64, faces=2)
    ledger.record(database, collection, [photo])
    stored = gallery.faces_of(database, collection, ["/a.jpg"])["/a.jpg"]
    gallery.assign(database, collection, [(int(stored.face_ids[1]), Person("Ada"))])
    gallery.erase(database, collection, gallery.find(database, collection, "Ada").id)
    assert ledger.record(database, collection, [photo]) == 1
    assert ledger.counts(database).faces == 2


def test_a_forked_process_looks_up_through_connections_of_its_own(
    database: Database, collection: Collection, faces: list[int]
) -> None:
    gallery.assign(database, collection, [(faces[0], Person("Ada"))])
    assert gallery.candidates(database, faces)[faces[0]].name == "Ada"
    kept = database._idle
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        name = gallery.candidates(database, faces)[faces[0]].name
        sender.send((name, database._idle is kept))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert receiver.poll(60)
    keeps = database.url.get_backend_name() == "sqlite"  # others' connections go to the pool
    assert receiver.recv() == ("Ada", not keeps)
    process.join()
    assert gallery.candidates(database, faces)[faces[0]].name == "Ada"
    assert (database._idle is kept, len(kept)) == (True, int(keeps))
