"""Ingestion while nobody answers at the vector server's address."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from facesearch import compaction
from facesearch.compaction import Compactor
from facesearch.engine import Engine
from facesearch.errors import BackendUnreachableError


def test_everything_is_stored_and_the_end_says_what_is_left_to_do(
    tmp_path: Path, demo_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LOOK_S", 0.0)
    photos = sorted((demo_photos / "people").rglob("*.jpg"))[:6]
    begun = []
    start = Compactor.start

    def noted(self: Compactor, collection: str) -> bool:
        begun.append(start(self, collection))
        return begun[-1]

    monkeypatch.setattr(Compactor, "start", noted)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        settings = {"index_backend": "milvus", "index_url": url, "index_timeout": 1.0}
        with Engine.create(tmp_path / "library", index_max_delta=1, **settings) as engine:
            with pytest.raises(BackendUnreachableError, match="all is stored") as caught:
                engine.ingest(photos)
            assert "'facesearch index compact'" in str(caught.value)
            assert "\n" not in str(caught.value)
            counts = engine.counts()
            assert (counts.files, counts.failures) == (len(photos), 0)
            assert counts.faces >= len(photos)
    assert any(begun)  # a push was tried meanwhile, too
