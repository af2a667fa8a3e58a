"""The connection to Milvus: the only file that imports pymilvus.

Whatever fails because a server starts, loads or lost a node is tried again, for as long as
`index.timeout` allows; then it is an error in our words.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from pymilvus import DataType, MilvusClient, MilvusException
from pymilvus.exceptions import ConnectionConfigException, ParamError

from facesearch.backends.backend import MovedError
from facesearch.errors import BackendError, BackendUnreachableError, IncompleteError

logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises

PAUSE_S = 0.25, 2.0
"""Pause before trying again: the first, and the longest; each doubles the last."""

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
_PASSING = (
    "not loaded",
    "connection error",
    "connection is closing",
    "empty grpc client",
    "code = unavailable",
    "failed to search/query delegator",
    "transport is closing",
)
"""In messages under the code for everything else: roles of a cluster that lost sight of another."""

T = TypeVar("T")


def lacking(held: Iterable[frozenset[int]], nodes: frozenset[int]) -> int:
    """How many segments, given by the nodes that hold each, are on none of these nodes."""
    return sum(not nodes & there for there in held)


class Link:
    """A connection to a Milvus server or Lite. Safe to use from several threads.

    Args:
        where: the server's URL, or a file for Lite.
        token: "user:password"; empty for none.
        timeout_s: how long a request may take, tries included.
    """

    def __init__(self, where: str, token: str, timeout_s: float) -> None:
        self.where, self.timeout_s, self._token = where, timeout_s, token
        self._connected: MilvusClient | None = None

    @property
    def client(self) -> MilvusClient:
        """Connected; what it raises becomes ours within `patiently`."""
        if self._connected is None:
            self._connected = MilvusClient(self.where, token=self._token, timeout=self.timeout_s)
        return self._connected

    def close(self) -> None:
        """Release the connection; the next call makes another."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def described(self, name: str) -> dict[str, Any] | None:
        """What Milvus says of a collection or alias, None if there is none of that name; once."""
        try:
            found: dict[str, Any] = self.client.describe_collection(name, timeout=self.timeout_s)
        except MilvusException as err:
            if err.code in (_NOT_FOUND, _ALIAS_NOT_FOUND):
                return None
            raise
        return found

    def make(self, name: str, dim: int, properties: dict[str, str]) -> None:
        """Make a collection for faces, in the place of one that has its name; tried once."""
        client, timeout = self.client, self.timeout_s
        if client.has_collection(name, timeout=timeout):
            client.drop_collection(name, timeout=timeout)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("face_id", DataType.INT64, is_primary=True)
        schema.add_field("identity_id", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        client.create_collection(name, schema=schema, properties=properties, timeout=timeout)

    def holders(self, name: str) -> frozenset[object]:
        """Which nodes hold which segments of a loaded collection, and who leads its replicas.

        A node that was started again is another node: what is in here and stays in was there all
        the while.

        Raises:
            IncompleteError: a replica lacks a segment that another has: Milvus asks it even so.
        """
        if self.where.endswith(".db"):
            return frozenset()  # Lite is one process
        segments = self.client.list_loaded_segments(name, timeout=self.timeout_s)
        held = {segment.segment_id: frozenset(segment.node_ids) for segment in segments}
        replicas = self._replicas(name)
        if lacks := max((lacking(held.values(), nodes) for nodes in replicas.values()), default=0):
            raise IncompleteError(
                f"{self.where}: a replica lacks {lacks} of {len(held)} segments, somebody could be "
                "missed; wait until they are loaded"
            )
        placed = frozenset((id_, node) for id_, nodes in held.items() for node in nodes)
        return placed | set(replicas)

    def _replicas(self, name: str) -> dict[tuple[int, int], frozenset[int]]:
        """The nodes of each replica, by its number and the node that leads it."""
        try:
            found = self.client.describe_replica(name, timeout=self.timeout_s)
        except MilvusException as err:
            if "no available nodes in replica" not in str(err.message):
                raise
            return {}  # one of them has no node: only others can be asked, whose rows are counted
        return {(r.id, s.shard_leader): frozenset(r.group_nodes) for r in found for s in r.shards}

    def patiently(self, operation: Callable[[], T]) -> T:
        """The result of an operation, tried again while the server starts, loads or lacks rows.

        Raises:
            BackendError: it still fails when `timeout_s` is over.
        """
        deadline, pause = time.monotonic() + self.timeout_s, PAUSE_S[0]
        while True:
            try:
                with self._translated():
                    return operation()
            except (BackendUnreachableError, IncompleteError):
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_S[1])

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise pymilvus's exceptions, and those of gRPC that it lets through, as ours."""
        try:
            yield
        except MilvusException as err:
            said = " ".join(str(err.message).partition("stack trace:")[0].split())[:300]
            if isinstance(err, (ParamError, ConnectionConfigException)):
                raise BackendError(f"{self.where}: {said}") from err
            if err.code in _TRANSIENT or any(words in said.lower() for words in _PASSING):
                if err.code == 2:
                    self.close()
                raise BackendUnreachableError(
                    f"{self.where}: Milvus is not ready ({said}); run the command again when it is"
                ) from err
            if err.code == _NOT_FOUND:
                raise MovedError(
                    f"{self.where}: was built anew meanwhile; run the command again"
                ) from err
            raise BackendError(f"{self.where}: Milvus failed: {said}") from err
        except (grpc.RpcError, grpc.FutureTimeoutError) as err:
            raise BackendUnreachableError(
                f"{self.where}: no answer within {self.timeout_s:g} s; raise index.timeout, or "
                "look at the server and the network"
            ) from err
