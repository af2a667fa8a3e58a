"""The database server goes away in mid-work: ingestion waits for it, and goes on."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from facesearch import Engine
from facesearch.errors import StoreUnreachableError
from facesearch.ingest.report import Report
from facesearch.store import jobs
from facesearch.store.database import Database
from tests.postgres import Server

Album = Callable[[int], Path]


def faces(engine: Engine) -> set[tuple[object, ...]]:
    query = (
        "SELECT sha256, ordinal, x1, y1, x2, y2, landmarks, embedding FROM faces "
        "JOIN photos ON photos.id = photo_id"
    )
    with engine.database.read() as connection:
        rows = [tuple(row) for row in connection.exec_driver_sql(query)]
    assert len({row[:2] for row in rows}) == len(rows)
    return set(rows)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_stopped_twice_costs_nothing(
    postgres_server: Server, make_album: Album, tmp_path: Path, mode: str
) -> None:
    album = make_album(100)
    with Engine.create(tmp_path / "calm") as calm:
        calm.ingest([album])
        expected = faces(calm)
    url = postgres_server.database(f"test_{uuid.uuid4().hex}")
    outages: list[threading.Thread] = []

    def outage() -> None:
        postgres_server.stop(mode)
        time.sleep(1)
        postgres_server.start()

    def break_off(report: Report) -> None:
        if len(outages) < 2 and not any(thread.is_alive() for thread in outages):
            outages.append(threading.Thread(target=outage))
            outages[-1].start()

    with Engine.create(tmp_path / "library", store_url=url) as engine:
        try:
            report = engine.ingest([album], progress=break_off)
        finally:
            for thread in outages:
                thread.join()
        assert len(outages) == 2
        assert report.failed == 0
        assert faces(engine) == expected
        assert engine.counts().files == 100
        assert engine.jobs()[0].state == jobs.DONE


def test_patience_ends(postgres_server: Server) -> None:
    database = Database(postgres_server.database(f"test_{uuid.uuid4().hex}"), patience_s=1.2)
    assert database.patiently(database.version) is None
    postgres_server.stop()
    try:
        began = time.monotonic()
        with pytest.raises(StoreUnreachableError, match=r"cannot be reached.*when it is back"):
            database.patiently(database.version)
        assert time.monotonic() - began > 0.4  # it did try again
    finally:
        postgres_server.start()
    assert database.version() is None
    database.close()
