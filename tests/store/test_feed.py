from __future__ import annotations

import numpy as np

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
