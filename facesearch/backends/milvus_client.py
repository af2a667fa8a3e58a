"""Requests to Milvus, server or Lite, each tried until it is ready: the only user of pymilvus.

A collection has faces: `face_id` is the primary key, rows are upserted, so that writing twice is
writing once.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus.exceptions import ConnectionConfigException, ParamError

from facesearch.backends.backend import MovedError
from facesearch.errors import (
    BackendError,
    BackendUnreachableError,
    IncompleteError,
    UsageError,
)
from facesearch.index.spec import IndexSpec
from facesearch.values import F32, I64, FaceRows

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises

ROWS = 4096
"""Faces sent at a time: 128 dimensions in float32 are 2 MiB, far below the 64 MiB of a message."""
_BREADTH = 200
"""Candidates looked at while a graph is built (`efConstruction`)."""
_PAUSE_S = 0.25, 2.0
"""Pause before trying again: the first, and the longest; each doubles the last."""
_ROWS_INDEXED_S = 250
"""Rows indexed a second at the least, before it is given up: HNSW on one core makes thousands."""

_NOT_FOUND, _ALIAS_NOT_FOUND = 100, 1600
_TRANSIENT = {
    1,  # not ready
    2,  # cannot connect
    3,  # under way
    101,  # not loaded
    102,  # not fully loaded
    103,  # not queryable
    500,  # no leader of a shard
    503,  # no replica
    504,
    901,  # a node is not there
    902,
}
"""Codes of what passes: a server that starts, loads, or lost a node."""

T = TypeVar("T")


def index_type(spec: IndexSpec, rows: int) -> tuple[str, dict[str, int]]:
    """What Milvus calls the index of a recipe, and its parameters.

    Raises:
        UsageError: Milvus has no such index.
    """
    if spec.factory == "Flat":
        return "FLAT", {}
    if links := re.fullmatch(r"HNSW(\d+)(,Flat)?", spec.factory):
        return "HNSW", {"M": int(links[1]), "efConstruction": _BREADTH}
    kind = {"IVF{lists},Flat": "IVF_FLAT", "IVF{lists},SQ8": "IVF_SQ8"}.get(spec.factory)
    if kind is None:
        raise UsageError(
            f"recipe '{spec.name}': Milvus does not build {spec.factory}; it builds Flat, HNSW and "
            "a number, IVF{lists},Flat and IVF{lists},SQ8"
        )
    return kind, {"nlist": spec.lists_for(rows)}


class Client:
    """A Milvus server. Every method may raise `BackendUnreachableError` when its time is over.

    Args:
        where: `http://host:19530`, or a file `NAME.db` for Milvus Lite.
        timeout_s: how long a request may take, tries included.
        token: "user:password"; empty for none.
        replicas: copies of the rows in memory, on as many query nodes.
    """

    def __init__(self, where: str, timeout_s: float, token: str, replicas: int) -> None:
        self.where = where
        self._timeout_s, self._token, self._replicas = timeout_s, token, replicas
        self._connected: MilvusClient | None = None

    def close(self) -> None:
        """Release the connection."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def described(self, name: str) -> tuple[str, Mapping[str, str]] | None:
        """The name of a collection or of what an alias names, and its properties."""

        def describe() -> tuple[str, Mapping[str, str]] | None:
            try:
                found = self._client.describe_collection(name, timeout=self._timeout_s)
            except MilvusException as err:
                if err.code in (_NOT_FOUND, _ALIAS_NOT_FOUND):
                    return None
                raise
            return str(found["collection_name"]), found["properties"]

        return self.patiently(describe)

    def names(self, prefix: str) -> list[str]:
        """Collections whose names begin so."""
        names = self.patiently(lambda: self._client.list_collections(timeout=self._timeout_s))
        return [name for name in names if name.startswith(prefix)]

    def create(self, name: str, dim: int, properties: dict[str, str]) -> None:
        """Make an empty collection, in place of one that is called so."""

        def make() -> None:
            client = self._client
            if client.has_collection(name, timeout=self._timeout_s):
                client.drop_collection(name, timeout=self._timeout_s)
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("face_id", DataType.INT64, is_primary=True)
            schema.add_field("identity_id", DataType.INT64)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            client.create_collection(
                name, schema=schema, properties=properties, timeout=self._timeout_s
            )

        self.patiently(make)

    def mark(self, name: str, properties: dict[str, str]) -> None:
        """Replace properties of a collection.

        Milvus 2.3.5 has forgotten the last change when it is started again, so it is made twice.
        """
        for _ in range(2):
            self.patiently(
                lambda: self._client.alter_collection_properties(
                    name, properties=properties, timeout=self._timeout_s
                )
            )

    def name_it(self, alias: str, name: str, *, anew: bool) -> None:
        """Let an alias, which is a new one or not, name a collection."""
        switch = self._client.create_alias if anew else self._client.alter_alias
        self.patiently(lambda: switch(name, alias, timeout=self._timeout_s))

    def unname(self, alias: str) -> None:
        """Drop an alias."""
        self.patiently(lambda: self._client.drop_alias(alias, timeout=self._timeout_s))

    def drop(self, name: str) -> None:
        """Drop a collection."""
        self.patiently(lambda: self._client.drop_collection(name, timeout=self._timeout_s))

    def send(self, name: str, rows: FaceRows) -> None:
        """Upsert faces."""
        vectors = rows.vectors.astype(np.float32)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            ids, people = rows.face_ids[part].tolist(), rows.identity_ids[part].tolist()
            data = [
                {"face_id": face, "identity_id": identity, "vector": vector}
                for face, identity, vector in zip(ids, people, vectors[part], strict=True)
            ]
            self.patiently(
                lambda data=data: self._client.upsert(  # type: ignore[misc]
                    name, data, timeout=self._timeout_s
                )
            )

    def delete(self, name: str, face_ids: I64) -> None:
        """Delete faces of a loaded collection, and check that they are gone.

        Raises:
            IncompleteError: some are not.
        """
        for start in range(0, len(face_ids), ROWS):
            some = face_ids[start : start + ROWS].tolist()
            self.patiently(
                lambda some=some: self._client.delete(  # type: ignore[misc]
                    name, ids=some, timeout=self._timeout_s
                )
            )
            self._gone(name, some)

    def _gone(self, name: str, face_ids: list[int]) -> None:
        def look() -> None:
            found = self._client.query(
                name,
                filter=f"face_id in {face_ids}",
                output_fields=["face_id"],
                consistency_level="Strong",
                timeout=self._timeout_s,
            )
            if len(found):
                raise IncompleteError(
                    f"{self.where}: {len(found)} removed faces are still there; run 'facesearch "
                    "index build'"
                )

        self.patiently(look)

    def index(self, name: str, spec: IndexSpec, rows: int) -> None:
        """Index all the rows as a recipe says, load them, and wait until both are done.

        Raises:
            BackendError: it takes too long, or there are too few query nodes.
        """
        kind, built = index_type(spec, rows)
        if kind != "FLAT":  # an index is built of what is flushed
            self.patiently(lambda: self._client.flush(name, timeout=self._timeout_s))
        self.patiently(lambda: self._ask_for_index(name, kind, built))
        if kind != "FLAT":
            self._wait_for_index(name, kind, rows)
        self._load(name)

    def _ask_for_index(self, name: str, kind: str, built: dict[str, int]) -> None:
        client = self._client
        if there := client.list_indexes(name):
            found = client.describe_index(name, there[0], timeout=self._timeout_s)
            found |= found.get("params") or {}
            if found["index_type"] == kind and all(
                str(found.get(key)) == str(value) for key, value in built.items()
            ):
                return
            client.release_collection(name, timeout=self._timeout_s)
            for index in there:
                client.drop_index(name, index, timeout=self._timeout_s)
        params = client.prepare_index_params()
        # as one entry, which Milvus takes apart: Milvus Lite overlooks what pymilvus takes apart
        params.add_index("vector", index_type=kind, metric_type="IP", params={"params": built})
        client.create_index(name, params, timeout=self._timeout_s, sync=False)

    def _wait_for_index(self, name: str, kind: str, rows: int) -> None:
        limit = max(self._timeout_s, rows / _ROWS_INDEXED_S)
        deadline = time.monotonic() + limit
        while True:
            found = self.patiently(
                lambda: self._client.describe_index(name, "vector", timeout=self._timeout_s)
            )
            if found["state"] == "Finished" and not found["pending_index_rows"]:
                return
            if found["state"] == "Failed":
                raise BackendError(f"{self.where}: Milvus failed to build {kind}")
            if time.monotonic() > deadline:
                raise BackendError(
                    f"{self.where}: {kind} of {rows:,} faces is not built after {limit:.0f} s; "
                    "look at the server, and run the command again"
                )
            time.sleep(_PAUSE_S[0])

    def _load(self, name: str) -> None:
        try:
            self.patiently(
                lambda: self._client.load_collection(
                    name, replica_number=self._replicas, timeout=self._timeout_s
                )
            )
        except BackendError as err:
            if "nodes not enough" in str(err) or "replica" in str(err):
                raise BackendError(
                    f"{self.where}: has fewer query nodes than index.replicas = {self._replicas}; "
                    "add nodes, or set index.replicas = 1: then a node that is lost means errors "
                    "until its rows are loaded again"
                ) from err
            raise

    def count(self, name: str, level: str) -> int:
        """Rows that are loaded, at a level of consistency; tried once."""
        rows = self._client.query(
            name,
            filter="",
            output_fields=["count(*)"],
            consistency_level=level,
            timeout=self._timeout_s,
        )
        return int(rows[0]["count(*)"])

    def counted(self, name: str, rows: int) -> None:
        """Check that exactly so many rows are visible.

        Raises:
            IncompleteError: more or fewer are.
        """

        def look() -> None:
            count = self.count(name, "Strong")
            if count != rows:
                raise IncompleteError(
                    f"{self.where}: holds {count} faces, expected {rows}; run 'facesearch index "
                    "verify --repair'"
                )

        self.patiently(look)

    def search(
        self, name: str, queries: F32, k: int, condition: str, params: dict[str, int], level: str
    ) -> I64:
        """(Q, k) int64 ids of the nearest faces, -1 where there are no more; tried once."""
        found = self._client.search(
            name,
            data=list(queries),
            limit=k,
            filter=condition,
            search_params={"params": params},
            consistency_level=level,
            timeout=self._timeout_s,
        )
        ids = np.full((len(queries), k), -1, np.int64)
        for row, hits in enumerate(found):
            ids[row, : len(hits)] = hits.ids
        return ids

    def read(self, name: str, dim: int, first: int, last: int) -> FaceRows:
        """The faces with ids from `first` up to but not including `last`, ascending."""
        # Milvus answers 16,384 rows at once; more can only lie beyond the largest id of the store.
        rows = self.patiently(
            lambda: self._client.query(
                name,
                filter=f"face_id >= {first} and face_id < {last}",
                output_fields=["face_id", "identity_id", "vector"],
                limit=16_384,
                consistency_level="Strong",
                timeout=self._timeout_s,
            )
        )
        parts = sorted(rows, key=lambda row: int(row["face_id"]))
        return FaceRows(
            np.array([row["face_id"] for row in parts], np.int64),
            np.array([row["identity_id"] for row in parts], np.int64),
            np.array([row["vector"] for row in parts], np.float32)
            .astype(np.float16)
            .reshape(len(parts), dim),
        )

    @property
    def _client(self) -> MilvusClient:
        if self._connected is None:
            self._connected = MilvusClient(self.where, token=self._token, timeout=self._timeout_s)
        return self._connected

    def patiently(self, operation: Callable[[], T]) -> T:
        """The result of an operation, tried again while the server starts, loads or lacks rows.

        Raises:
            BackendError: it still fails when `timeout_s` is over.
        """
        deadline, pause = time.monotonic() + self._timeout_s, _PAUSE_S[0]
        while True:
            try:
                with self._translated():
                    return operation()
            except (BackendUnreachableError, IncompleteError):
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_S[1])

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise pymilvus's exceptions, and those of gRPC that it lets through, as ours."""
        try:
            yield
        except MilvusException as err:
            said = " ".join(str(err.message).split())[:300]
            if err.code == _NOT_FOUND:
                raise MovedError(
                    f"{self.where}: was built anew meanwhile; run the command again"
                ) from err
            if isinstance(err, (ParamError, ConnectionConfigException)):
                raise BackendError(f"{self.where}: {said}") from err
            if err.code in _TRANSIENT or "not loaded" in said:
                if err.code == 2:
                    self.close()
                raise BackendUnreachableError(
                    f"{self.where}: Milvus is not ready ({said}); run the command again when it is"
                ) from err
            raise BackendError(f"{self.where}: Milvus failed: {said}") from err
        except (grpc.RpcError, grpc.FutureTimeoutError) as err:
            raise BackendUnreachableError(
                f"{self.where}: no answer within {self._timeout_s:g} s; raise index.timeout, or "
                "look at the server and the network"
            ) from err
