from __future__ import annotations

from typing import Any

import numpy as np
from sqlalchemy import event

from facesearch.store import feed, gallery, ledger
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.gallery import Person
from tests.store.made import extracted


def test_changes_tell_what_is_new_enrolled_and_gone(
    database: Database, collection: Collection
) -> None:
    ledger.record(database, collection, [extracted("/a.jpg", "a" * 64, 2)])
    first = feed.changes(database, collection, 0)
    assert (first.revision, len(first.upserts), len(first.removed)) == (1, 2, 0)
    face_id, other = first.upserts.face_ids.tolist()

    gallery.assign(database, collection, [(face_id, Person("Ada"))])
    second = feed.changes(database, collection, first.revision)
    assert second.upserts.face_ids.tolist() == [face_id]
    assert second.upserts.identity_ids[0] > 0
    np.testing.assert_array_equal(second.upserts.vectors[0], first.upserts.vectors[0])

    gallery.erase(database, collection, int(second.upserts.identity_ids[0]))
    third = feed.changes(database, collection, second.revision)
    assert (len(third.upserts), third.removed.tolist()) == (0, [face_id])
    assert feed.changes(database, collection, third.revision).revision == third.revision
    everything = feed.changes(database, collection, 0)
    assert everything.upserts.face_ids.tolist() == [other]


def test_face_ids_are_never_used_again(database: Database, collection: Collection) -> None:
    ledger.record(database, collection, [extracted("/a.jpg", "a" * 64)])
    (face_id,) = feed.changes(database, collection, 0).upserts.face_ids.tolist()
    gallery.assign(database, collection, [(face_id, Person("Ada"))])
    gallery.erase(database, collection, gallery.find(database, collection, "Ada").id)
    ledger.record(database, collection, [extracted("/b.jpg", "b" * 64)])
    (later,) = feed.changes(database, collection, 0).upserts.face_ids.tolist()
    assert later > face_id


def test_a_snapshot_does_not_see_later_writes(database: Database, collection: Collection) -> None:
    ledger.record(database, collection, [extracted("/a.jpg", "a" * 64)])
    with feed.snapshot(database, collection) as (revision, batches):
        ledger.record(database, collection, [extracted("/b.jpg", "b" * 64)])
        rows = list(batches)
    assert (revision, sum(map(len, rows))) == (1, 1)


def test_ids_are_looked_up_without_reading_the_collection(
    database: Database, collection: Collection
) -> None:
    """SQLite has no statistics, and took a list of ids for more than all rows of a collection."""
    ledger.record(database, collection, [extracted("/a.jpg", "a" * 64, 2)])
    face_id, other = feed.changes(database, collection, 0).upserts.face_ids.tolist()
    gallery.assign(database, collection, [(face_id, Person("Ada"))])
    ada = gallery.find(database, collection, "Ada").id
    asked: list[tuple[str, Any]] = []

    def note(*given: object) -> None:
        asked.append((str(given[2]), given[3]))

    event.listen(database.engine, "before_cursor_execute", note)
    assert feed.faces(database, collection, [face_id, other, 99]).face_ids.tolist() == [
        face_id,
        other,
    ]
    assert feed.faces_of(database, collection, [ada, 99]).face_ids.tolist() == [face_id]
    assert sorted(feed.owners(database, collection, [face_id, other, 99])) == [0, ada]
    assert feed.enrolled(database, collection, [ada, 99]) == (1, 1)
    assert set(gallery.identities_by_id(database, collection, [ada, 99])) == {ada}
    event.remove(database.engine, "before_cursor_execute", note)
    lists = [(words, values) for words, values in asked if " IN (" in words]
    assert len(lists) == 5
    if database.url.get_backend_name() != "sqlite":
        return  # Postgres has statistics, and decides by them
    with database.read() as connection:
        for words, values in lists:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {words}", values).all()
            assert not any("collection_id" in row[3] for row in plan), plan
