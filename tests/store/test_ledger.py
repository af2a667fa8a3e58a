from __future__ import annotations

import threading

import numpy as np
import pytest
from sqlalchemy import text

from facesearch.errors import ContractError, NotFoundError, Reason, StoreError, UsageError
from facesearch.store import collections, feed, ledger
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.outcomes import Duplicate, Failed, FileStamp
from facesearch.values import ModelContract
from tests.store.made import CONTRACT, extracted


def test_a_batch_is_stored_with_every_face_and_its_vector(
    database: Database, collection: Collection
) -> None:
    a, b = extracted("/a.jpg", "a" * 64, faces=3, seed=1), extracted("/b.jpg", "b" * 64, faces=0)
    assert ledger.record(database, collection, [a, b]) == 3
    known = ledger.known(database, collection, ["/a.jpg", "/b.jpg", "/c.jpg"])
    assert {path: k.state for path, k in known.items()} == {"/a.jpg": "done", "/b.jpg": "no_face"}
    assert known["/a.jpg"].stamp == a.file
    with feed.snapshot(database, collection) as (revision, batches):
        (rows,) = batches
    assert revision == 1
    assert rows.identity_ids.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(rows.vectors, a.embeddings.vectors.astype(np.float16))


def test_same_bytes_under_two_paths_are_one_photo(
    database: Database, collection: Collection
) -> None:
    assert ledger.record(database, collection, [extracted("/a.jpg", "a" * 64)]) == 1
    twin = Duplicate(FileStamp("/copy.jpg", 1000, 2), "a" * 64)
    assert ledger.record(database, collection, [twin]) == 0
    assert ledger.record(database, collection, [extracted("/third.jpg", "a" * 64)]) == 0
    counts = ledger.counts(database, collection)
    assert (counts.photos, counts.files, counts.faces) == (1, 3, 1)
    assert ledger.known(database, collection, ["/copy.jpg"])["/copy.jpg"].state == "done"


def test_same_bytes_twice_in_one_batch_are_one_photo(
    database: Database, collection: Collection
) -> None:
    batch = [extracted("/a.jpg", "a" * 64, 2), extracted("/b.jpg", "a" * 64, 2)]
    assert ledger.record(database, collection, batch) == 2
    assert ledger.counts(database).photos == 1


def test_failures_keep_reason_and_count_attempts(
    database: Database, collection: Collection
) -> None:
    bad = Failed(FileStamp("/bad.jpg", 5, 1), Reason.TRUNCATED, "the file ends early")
    ledger.record(database, collection, [bad])
    ledger.record(database, collection, [bad])
    (failure,) = ledger.failures(database)
    assert (failure.path, failure.reason, failure.attempts) == ("/bad.jpg", "truncated", 2)
    ledger.record(database, collection, [extracted("/bad.jpg", "c" * 64)])
    assert not list(ledger.failures(database, collection))


@pytest.mark.parametrize("name", ["/with\nnewline.jpg", "/caf\u00e9.jpg", "/bad\udcff\udc80.jpg"])
def test_any_file_name_survives(database: Database, collection: Collection, name: str) -> None:
    ledger.record(database, collection, [extracted(name, "d" * 64)])
    assert ledger.known(database, collection, [name])[name].stamp.path == name


def test_nothing_of_a_batch_is_stored_when_it_fails(
    database: Database, collection: Collection
) -> None:
    statements = ("UPDATE collections SET revision = 99", "this is no SQL")

    def run() -> None:
        with database.write() as connection:
            for statement in statements:
                connection.execute(text(statement))

    with pytest.raises(StoreError, match="syntax error"):
        run()
    assert collections.revision(database, collection.id) == 0


def test_writers_in_many_threads_lose_nothing(database: Database, collection: Collection) -> None:
    def write(worker: int) -> None:
        for i in range(10):
            digest = f"{worker:032d}{i:032d}"
            ledger.record(database, collection, [extracted(f"/{worker}-{i}.jpg", digest, 2)])

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.counts(database).faces == 80
    assert collections.revision(database, collection.id) == 40


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a" * 201, "\udcff"])
def test_what_is_no_name_for_a_collection(database: Database, name: str) -> None:
    with pytest.raises(UsageError, match="no name for a collection"):
        collections.ensure(database, name, CONTRACT)
    assert collections.every(database) == []


def test_a_collection_keeps_its_contract(database: Database, collection: Collection) -> None:
    other = ModelContract("other", "1" * 64, "112x112 RGB", 8)
    with pytest.raises(ContractError, match="holds embeddings of model 'test'"):
        collections.ensure(database, "default", other)
    assert collections.get(database, "default").contract == CONTRACT
    with pytest.raises(NotFoundError, match="there are: default"):
        collections.get(database, "nobody")
