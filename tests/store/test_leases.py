from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from sqlalchemy import text

from facesearch.errors import NotFoundError, Reason
from facesearch.store import feed, gallery, jobs, leases, ledger, processes
from facesearch.store.collections import Collection
from facesearch.store.database import Database
from facesearch.store.gallery import Person
from facesearch.store.leases import Work
from facesearch.store.ledger import Known
from facesearch.store.outcomes import Duplicate, Extracted, Failed, FileStamp
from tests.store.made import extracted

FILES: list[Work] = [FileStamp(f"/{i}.jpg", 1000, 1) for i in range(6)]


def unfinished(before: Known, item: Work) -> bool:
    return before.state == ledger.PENDING or before.stamp != item


@pytest.fixture
def job(database: Database, collection: Collection) -> int:
    return jobs.start(database, collection, "ingest", ["/"])


def photo(path: str, digest: str, faces: int = 1) -> Extracted:
    return extracted(path, digest * 64, faces, seed=ord(digest))


def kill(database: Database, worker: int) -> None:
    """Make a worker look as one of this machine does whose process was killed."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    dead = f"{child.pid}:1"
    child.wait()
    with database.write() as connection:
        connection.execute(
            text("UPDATE workers SET process = :p WHERE id = :w"), {"p": dead, "w": worker}
        )


def test_a_file_is_in_the_hands_of_one_worker(
    database: Database, collection: Collection, job: int
) -> None:
    first, second = jobs.join(database, job), jobs.join(database, job)
    mine = leases.claim(database, collection, FILES[:4], first, unfinished)
    assert (mine.mine, mine.held, mine.settled) == (FILES[:4], [], [])
    theirs = leases.claim(database, collection, FILES[2:], second, unfinished)
    assert (theirs.mine, theirs.held) == (FILES[4:], FILES[2:4])
    again = leases.claim(database, collection, FILES[:2], first, unfinished)
    assert (again.mine, again.held) == (FILES[:2], [])
    assert ledger.counts(database).files == 0  # none of them has been read
    done = ledger.record_leased(database, collection, [photo("/0.jpg", "a")], first)
    assert (done.faces, len(done.outcomes)) == (1, 1)
    after = leases.claim(database, collection, FILES[:2], second, unfinished)
    assert ([k.stamp.path for k in after.settled], after.held) == (["/0.jpg"], FILES[1:2])


def test_an_outcome_counts_only_while_the_file_is_in_hand(
    database: Database, collection: Collection, job: int
) -> None:
    slow, quick = jobs.join(database, job), jobs.join(database, job)
    leases.claim(database, collection, FILES[:2], slow, unfinished)
    kill(database, slow)
    for file in FILES[:2]:
        leases.claim(database, collection, [file], quick, unfinished, alone=True)
    late = ledger.record_leased(database, collection, [photo("/0.jpg", "a")], slow)
    assert (late.faces, late.outcomes) == (0, [])
    assert ledger.counts(database).faces == 0
    assert ledger.record_leased(database, collection, [photo("/0.jpg", "a")], quick).faces == 1
    twice = ledger.record_leased(database, collection, [photo("/0.jpg", "a")], quick)
    assert (twice.faces, twice.outcomes) == (0, [])


@pytest.mark.parametrize("how", ["killed", "left", "silent elsewhere"])
def test_what_a_worker_leaves_behind_is_free(
    database: Database, collection: Collection, job: int, how: str
) -> None:
    first, second = jobs.join(database, job), jobs.join(database, job)
    leases.claim(database, collection, FILES, first, unfinished)
    assert not leases.claim(database, collection, FILES, second, unfinished).mine
    if how == "killed":
        kill(database, first)
    elif how == "left":
        jobs.leave(database, first, {})
    else:
        with database.write() as connection:
            late = (jobs.SILENCE_S + 1) * 1000
            connection.execute(
                text("UPDATE workers SET host = 'elsewhere', seen_ms = seen_ms - :late"),
                {"late": int(late)},
            )
        assert not jobs.get(database, job).workers[0].alive
        jobs.beat(database, second, {})
    got = leases.claim(database, collection, FILES, second, unfinished)
    if how == "left":
        assert (got.mine, got.suspects) == (FILES, [])
    else:
        assert (got.mine, got.suspects) == ([], [(file, 1) for file in FILES])


def test_a_suspect_is_claimed_alone_until_it_is_read(
    database: Database, collection: Collection, job: int
) -> None:
    def claim(worker: int, *files: Work, alone: bool = False) -> leases.Claim:
        return leases.claim(database, collection, files, worker, unfinished, alone=alone)

    first, second, third = (jobs.join(database, job) for _ in range(3))
    claim(first, *FILES[:3])
    kill(database, first)
    assert claim(second, *FILES[:4]).suspects == [(file, 1) for file in FILES[:3]]
    assert claim(second, *FILES[:3]).suspects == [(file, 1) for file in FILES[:3]]  # counted once
    assert claim(second, FILES[0], alone=True).mine == [FILES[0]]
    assert claim(third, FILES[0], alone=True).held == [FILES[0]]
    kill(database, second)
    got = claim(third, *FILES[:4])  # the second had the fourth file in hand, too
    assert got.suspects == [(FILES[0], 2), (FILES[1], 1), (FILES[2], 1), (FILES[3], 1)]
    assert claim(third, FILES[0], alone=True).mine == [FILES[0]]
    kill(database, third)
    fourth = jobs.join(database, job)
    assert claim(fourth, FILES[0], alone=True).mine == [FILES[0]]  # taken over and in hand at once
    assert known(database, collection, "/0.jpg").deaths == 3
    ledger.record_leased(database, collection, [photo("/0.jpg", "a")], fourth)
    assert known(database, collection, "/0.jpg").deaths == 0
    crashed = Failed(FileStamp("/1.jpg", 1000, 1), Reason.CRASHED, "died 3 times")
    claim(fourth, FILES[1], alone=True)
    ledger.record_leased(database, collection, [crashed], fourth)
    again = leases.claim(database, collection, FILES[:2], fourth, lambda before, item: True)
    assert (again.mine, again.suspects) == ([FILES[0]], [(FILES[1], 1)])


def known(database: Database, collection: Collection, path: str) -> Known:
    return ledger.known(database, collection, [path])[path]


def test_a_worker_elsewhere_lives_as_long_as_it_is_heard_of(
    database: Database, collection: Collection, job: int
) -> None:
    first, second = jobs.join(database, job), jobs.join(database, job)
    leases.claim(database, collection, FILES, first, unfinished)
    with database.write() as connection:
        connection.execute(
            text("UPDATE workers SET host = 'elsewhere', process = '1:1' WHERE id = :w"),
            {"w": first},
        )
    assert leases.claim(database, collection, FILES, second, unfinished).held == FILES


def test_many_workers_share_without_loss_or_overlap(
    database: Database, collection: Collection, job: int
) -> None:
    files: list[Work] = [FileStamp(f"/{i:03}.jpg", 1, 1) for i in range(200)]
    got: list[list[Work]] = [[] for _ in range(4)]

    def work(place: int) -> None:
        worker = jobs.join(database, job)
        for start in range(0, len(files), 10 + place):  # each in chunks of its own
            chunk = files[start : start + 10 + place]
            got[place] += leases.claim(database, collection, chunk, worker, unfinished).mine

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = [item for part in got for item in part]
    assert len(together) == len(set(together)) == len(files)


def test_changed_bytes_take_the_old_photo_with_them(
    database: Database, collection: Collection, job: int
) -> None:
    worker = jobs.join(database, job)

    def store(*photos: Extracted | Duplicate | Failed) -> ledger.Recorded:
        files: list[Work] = [p.file for p in photos]
        leases.claim(database, collection, files, worker, lambda before, item: True)
        return ledger.record_leased(database, collection, photos, worker)

    store(photo("/0.jpg", "a", 2), photo("/1.jpg", "b"), photo("/2.jpg", "c"))
    store(Duplicate(FileStamp("/3.jpg", 1, 1), "b" * 64))
    (enrolled,) = gallery.faces_of(database, collection, ["/2.jpg"])["/2.jpg"].face_ids
    gallery.assign(database, collection, [(int(enrolled), Person("Ada"))])
    before = feed.changes(database, collection, 0)
    done = store(photo("/0.jpg", "d"), photo("/1.jpg", "e"), photo("/2.jpg", "f"))
    # /0: its two faces go; /1: /3 still holds the bytes; /2: somebody is enrolled from them
    assert (done.changed, done.faces, done.faces_removed, done.enrolled_kept) == (3, 3, 2, 1)
    after = feed.changes(database, collection, before.revision)
    assert after.removed.tolist() == before.upserts.face_ids[:2].tolist()
    assert gallery.find(database, collection, "Ada").faces == 1
    assert ledger.counts(database).photos == 5

    # what it holds now is not known: nothing goes
    done = store(Failed(FileStamp("/0.jpg", 3, 3), Reason.UNREADABLE, "input/output error"))
    assert (done.changed, done.faces_removed) == (0, 0)
    done = store(Failed(FileStamp("/0.jpg", 3, 3), Reason.CORRUPT, "damaged"))
    assert (done.changed, done.faces_removed) == (1, 1)
    done = store(Failed(FileStamp("/1.jpg", 3, 3), Reason.CRASHED, "died 3 times"))
    assert (done.changed, done.faces_removed) == (0, 0)


def test_a_duplicate_of_a_photo_that_went_is_read_again(
    database: Database, collection: Collection, job: int
) -> None:
    worker = jobs.join(database, job)
    leases.claim(database, collection, FILES[:1], worker, unfinished)
    done = ledger.record_leased(
        database, collection, [Duplicate(FileStamp("/0.jpg", 1000, 1), "a" * 64)], worker
    )
    assert (done.outcomes, done.again) == ([], FILES[:1])
    assert leases.claim(database, collection, FILES[:1], worker, unfinished).mine == FILES[:1]


def test_jobs_tell_how_they_are(database: Database, collection: Collection, job: int) -> None:
    assert jobs.get(database, job).state == jobs.RUNNING
    worker = jobs.join(database, job)
    jobs.beat(database, worker, {"photos": 7})
    (found,) = jobs.every(database, collection)
    assert (found.collection, found.kind, found.sources) == ("default", "ingest", ("/",))
    (status,) = found.workers
    assert (status.process, status.alive, status.counts) == (os.getpid(), True, {"photos": 7})
    kill(database, worker)
    assert jobs.get(database, job).state == jobs.DEAD
    jobs.leave(database, worker, {"photos": 9})
    jobs.finish(database, job, jobs.FAILED, "no space left")
    ended = jobs.get(database, job)
    assert (ended.state, ended.detail) == (jobs.FAILED, "no space left")
    assert ended.finished_at is not None
    assert (ended.workers[0].alive, ended.workers[0].counts) == (False, {"photos": 9})
    with pytest.raises(NotFoundError, match="no job 99"):
        jobs.get(database, 99)


def test_a_process_is_told_from_another_of_the_same_number() -> None:
    me = processes.myself()
    assert processes.runs(me)
    assert processes.number(me) == os.getpid()
    child = subprocess.Popen([sys.executable, "-c", ""])
    pid = child.pid
    child.wait()
    assert not processes.runs(f"{pid}:1")
    if sys.platform == "linux":
        assert not processes.runs(f"{os.getpid()}:1")
