"""The kinds of index that must answer alike, and one Milvus server for all tests that need it."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from facesearch.backends.pgvector import EXACT_ROWS, PgVector
from facesearch.store import collections, migrate
from facesearch.store.database import Database, sqlite_url
from tests import milvus
from tests.backends.made import CONTRACT, Files, Library, Served
from tests.conftest import absent

pytest.register_assert_rewrite("tests.backends.contract")

_SERVER = pytest.StashKey[milvus.Server]()


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files | Served]:
    """An empty library with an index of the kind that the parameter names."""
    kind: str = request.param
    url = sqlite_url(tmp_path / "library.db")
    if kind.startswith("pgvector"):
        url = request.getfixturevalue("pgvector_server").database(f"test_{uuid.uuid4().hex}")
    database = Database(url)
    migrate.upgrade(database)
    database.ensure_library()
    library = Library(
        database, collections.ensure(database, "default", CONTRACT), tmp_path / "index"
    )
    if kind == "faiss":
        yield Files(library)
    elif kind.startswith("pgvector"):
        rows = EXACT_ROWS if kind == "pgvector" else 0
        yield Served(library, lambda: PgVector(database, (library.collection.id, 0), 30.0, rows))
    else:
        if kind == "milvus-lite":
            if importlib.util.find_spec("milvus_lite") is None:
                absent("no Milvus Lite here: pip install milvus-lite 'pymilvus>=3.0,<3.1'")
            where = str(tmp_path / "milvus.db")
        else:
            where = request.getfixturevalue("milvus_server").url
        yield from milvus_site(library, where)
    database.close()


@pytest.fixture(scope="session")
def milvus_server(request: pytest.FixtureRequest) -> Iterator[milvus.Server]:
    """A running Milvus server."""
    if not milvus.INSTALLED:
        absent("no Milvus here: pip install milvus==2.3.5 'pymilvus>=3.0,<3.1'")
    if (obstacle := milvus.obstacle()) is not None:
        pytest.skip(obstacle)
    server = milvus.Server()
    server.start()
    request.config.stash[_SERVER] = server
    yield server
    del request.config.stash[_SERVER]
    server.remove()


@pytest.fixture(autouse=True)
def calm(request: pytest.FixtureRequest) -> None:
    """Start a Milvus server anew that died, and for a test that is tried a second time.

    The server ends, or gets entangled, where the whole machine stalls for some 20 seconds: its
    components take each other for dead.
    """
    server = request.config.stash.get(_SERVER, None)
    if server is not None and (server.dead or getattr(request.node, "execution_count", 1) > 1):
        server.restart()


def milvus_site(library: Library, url: str, *, exact: bool = True) -> Iterator[Served]:
    """A library with its vectors in Milvus; with a graph unless `exact`."""
    from facesearch.backends.milvus import EXACT_ROWS, Milvus

    rows = EXACT_ROWS if exact else 0
    uuid_ = library.database.library_uuid()
    served = Served(
        library,
        lambda: Milvus(url, uuid_, (library.collection.id, 0), 60.0, replicas=1, exact_rows=rows),
    )
    yield served
    served.backend.drop()
    served.backend.close()
