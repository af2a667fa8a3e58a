"""FAISS, pgvector and Milvus Lite answer alike; a Milvus server, too: `test_milvus`."""

from __future__ import annotations

import pytest

from tests.backends.contract import Contract


@pytest.mark.parametrize(
    "site", ["faiss", "pgvector", "pgvector-hnsw", "milvus-lite"], indirect=True
)
class TestContract(Contract):
    """One suite, every kind."""
