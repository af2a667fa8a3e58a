"""Requests to Milvus, server or Lite, each tried until it is ready.

A collection has faces: `face_id` is the primary key, rows are upserted, so that writing twice is
writing once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import numpy as np

from facesearch.backends.milvus_link import PAUSE_S, Link
from facesearch.errors import BackendError, IncompleteError, UsageError
from facesearch.index.spec import IndexSpec
from facesearch.values import F32, I64, FaceRows

_SENT_BYTES = 768 * 1024
"""Of vectors sent at a time: Kafka takes messages of 1 MB where nobody told it otherwise."""
_ROWS = 4096
"""Faces removed at a time."""
_BREADTH = 200
"""Candidates looked at while a graph is built (`efConstruction`)."""
_ROWS_INDEXED_S = 250
"""Rows indexed a second at the least, before it is given up: HNSW on one core makes thousands."""


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


class Client(Link):
    """A Milvus server. Every method may raise `BackendUnreachableError` when its time is over.

    Args:
        where: `http://host:19530`, or a file `NAME.db` for Milvus Lite.
        token: "user:password"; empty for none.
        timeout_s: how long a request may take, tries included.
        replicas: copies of the rows in memory, on as many query nodes.
    """

    def __init__(self, where: str, token: str, timeout_s: float, replicas: int) -> None:
        super().__init__(where, token, timeout_s)
        self._copies = replicas

    def stated(self, name: str) -> tuple[str, Mapping[str, str]] | None:
        """The name of a collection or of what an alias names, and its properties; None if none."""
        found = self.patiently(lambda: self.described(name))
        return None if found is None else (str(found["collection_name"]), found["properties"])

    def names(self, prefix: str) -> list[str]:
        """Collections whose names begin so."""
        names = self.patiently(lambda: self.client.list_collections(timeout=self.timeout_s))
        return [name for name in names if name.startswith(prefix)]

    def create(self, name: str, dim: int, properties: dict[str, str]) -> None:
        """Make an empty collection, in place of one that is called so."""
        self.patiently(lambda: self.make(name, dim, properties))

    def mark(self, name: str, properties: dict[str, str]) -> None:
        """Replace properties of a collection.

        Milvus 2.3.5 has forgotten the last change when it is started again, so it is made twice.
        """
        for _ in range(2):
            self.patiently(
                lambda: self.client.alter_collection_properties(
                    name, properties=properties, timeout=self.timeout_s
                )
            )

    def name_it(self, alias: str, name: str, *, anew: bool) -> None:
        """Let an alias, which is a new one or not, name a collection."""
        switch = self.client.create_alias if anew else self.client.alter_alias
        self.patiently(lambda: switch(name, alias, timeout=self.timeout_s))

    def unname(self, alias: str) -> None:
        """Drop an alias."""
        self.patiently(lambda: self.client.drop_alias(alias, timeout=self.timeout_s))

    def drop(self, name: str) -> None:
        """Drop a collection."""
        self.patiently(lambda: self.client.drop_collection(name, timeout=self.timeout_s))

    def send(self, name: str, rows: FaceRows) -> None:
        """Upsert faces."""
        vectors = rows.vectors.astype(np.float32)
        most = max(1, _SENT_BYTES // (4 * vectors.shape[1]))
        for start in range(0, len(rows), most):
            part = slice(start, start + most)
            ids, people = rows.face_ids[part].tolist(), rows.identity_ids[part].tolist()
            data = [
                {"face_id": face, "identity_id": identity, "vector": vector}
                for face, identity, vector in zip(ids, people, vectors[part], strict=True)
            ]
            self.patiently(
                lambda data=data: self.client.upsert(  # type: ignore[misc]
                    name, data, timeout=self.timeout_s
                )
            )

    def delete(self, name: str, face_ids: I64) -> None:
        """Delete faces of a loaded collection, and check that they are gone.

        Raises:
            IncompleteError: some are not.
        """
        for start in range(0, len(face_ids), _ROWS):
            some = face_ids[start : start + _ROWS].tolist()
            self.patiently(
                lambda some=some: self.client.delete(  # type: ignore[misc]
                    name, ids=some, timeout=self.timeout_s
                )
            )
            self._gone(name, some)

    def _gone(self, name: str, face_ids: list[int]) -> None:
        def look() -> None:
            found = self.client.query(
                name,
                filter=f"face_id in {face_ids}",
                output_fields=["face_id"],
                consistency_level="Strong",
                timeout=self.timeout_s,
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
            self.patiently(lambda: self.client.flush(name, timeout=self.timeout_s))
        self.patiently(lambda: self._ask_for_index(name, kind, built))
        if kind != "FLAT":
            self._wait_for_index(name, kind, rows)
        self._load(name)

    def _ask_for_index(self, name: str, kind: str, built: dict[str, int]) -> None:
        client = self.client
        if there := client.list_indexes(name):
            found = client.describe_index(name, there[0], timeout=self.timeout_s)
            found |= found.get("params") or {}
            if found["index_type"] == kind and all(
                str(found.get(key)) == str(value) for key, value in built.items()
            ):
                return
            client.release_collection(name, timeout=self.timeout_s)
            for index in there:
                client.drop_index(name, index, timeout=self.timeout_s)
        params = client.prepare_index_params()
        # as one entry, which Milvus takes apart: Milvus Lite overlooks what pymilvus takes apart
        params.add_index("vector", index_type=kind, metric_type="IP", params={"params": built})
        client.create_index(name, params, timeout=self.timeout_s, sync=False)

    def _wait_for_index(self, name: str, kind: str, rows: int) -> None:
        limit = max(self.timeout_s, rows / _ROWS_INDEXED_S)
        deadline = time.monotonic() + limit
        while True:
            found = self.patiently(
                lambda: self.client.describe_index(name, "vector", timeout=self.timeout_s)
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
            time.sleep(PAUSE_S[0])

    def _load(self, name: str) -> None:
        try:
            self.patiently(
                lambda: self.client.load_collection(
                    name, replica_number=self._copies, timeout=self.timeout_s
                )
            )
        except BackendError as err:
            if "nodes not enough" in str(err) or "replica" in str(err):
                raise BackendError(
                    f"{self.where}: has fewer query nodes than index.replicas = {self._copies}; "
                    "add nodes, or set index.replicas = 1: then a node that is lost means errors "
                    "until its rows are loaded again"
                ) from err
            raise

    def count(self, name: str, level: str) -> int:
        """Rows that are loaded, at a level of consistency; tried once."""
        rows = self.client.query(
            name,
            filter="",
            output_fields=["count(*)"],
            consistency_level=level,
            timeout=self.timeout_s,
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
        found = self.client.search(
            name,
            data=list(queries),
            limit=k,
            filter=condition,
            search_params={"params": params},
            consistency_level=level,
            timeout=self.timeout_s,
        )
        ids = np.full((len(queries), k), -1, np.int64)
        for row, hits in enumerate(found):
            ids[row, : len(hits)] = hits.ids
        return ids

    def read(self, name: str, dim: int, first: int, last: int) -> FaceRows:
        """The faces with ids from `first` up to but not including `last`, ascending."""
        # Milvus answers 16,384 rows at once; more can only lie beyond the largest id of the store.
        rows = self.patiently(
            lambda: self.client.query(
                name,
                filter=f"face_id >= {first} and face_id < {last}",
                output_fields=["face_id", "identity_id", "vector"],
                limit=16_384,
                consistency_level="Strong",
                timeout=self.timeout_s,
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
