from __future__ import annotations

from facesearch.store import ledger, presence
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.outcomes import Duplicate, FileStamp
from tests.store.made import extracted


def paths(database: Database, collection: Collection, *roots: str) -> list[str]:
    return [file.path for file in presence.under(database, collection, roots, 0, 100)]


def test_files_under_a_folder_whatever_they_are_called(
    database: Database, collection: Collection
) -> None:
    names = ["/a/x.jpg", "/a/b/bad\udcff.jpg", "/ab/x.jpg", "/a%/x.jpg", "/a_/caf\u00e9.jpg"]
    batch = [extracted(name, f"{i:064d}", seed=i) for i, name in enumerate(names)]
    ledger.record(database, collection, batch)
    assert paths(database, collection, "/a") == names[:2]
    assert paths(database, collection, "/a/") == names[:2]
    assert paths(database, collection, "/a/b", "/a%") == [names[1], names[3]]
    assert paths(database, collection, "/a_/caf\u00e9.jpg") == [names[4]]
    assert paths(database, collection, "/") == names
    assert paths(database, collection, "/nowhere") == []


def test_a_page_begins_after_the_last(database: Database, collection: Collection) -> None:
    batch = [extracted(f"/{i}.jpg", f"{i:064d}", seed=i) for i in range(5)]
    ledger.record(database, collection, batch)
    first = presence.under(database, collection, ["/"], 0, 3)
    second = presence.under(database, collection, ["/"], first[-1].id, 3)
    assert [file.path for file in first + second] == [f"/{i}.jpg" for i in range(5)]


def test_copies_that_vanish_one_by_one(database: Database, collection: Collection) -> None:
    ledger.record(database, collection, [extracted("/1.jpg", "a" * 64)])
    copies = [Duplicate(FileStamp(f"/{i}.jpg", 1000, 1), "a" * 64) for i in (2, 3)]
    ledger.record(database, collection, copies)
    files = presence.under(database, collection, ["/"], 0, 100)
    assert presence.missing(database, files[:1]) == (1, 0)
    assert paths(database, collection, "/") == ["/2.jpg", "/3.jpg"]
    assert presence.missing(database, files[1:2]) == (1, 0)
    assert presence.missing(database, files[2:]) == (0, 1)
    assert paths(database, collection, "/") == []
    assert presence.gone(database, collection, ["/"]) == 1
    assert ledger.counts(database).faces == 1
    assert presence.prune(database, collection, ["/"]) == (1, 0)
    assert presence.prune(database, collection, ["/"]) == (0, 0)
    counts = ledger.counts(database)
    assert (counts.photos, counts.faces, counts.files) == (0, 0, 1)
