"""Workers on the machines of a Ray cluster: Ray Data places them, and replaces those that die.

    one task a source, where the driver runs  ->  hands of paths  ->  a pool of worker actors

A hand is some hundred paths. What an actor does with one is what a worker does anywhere: look the
files up in the ledger, claim, read, embed, record (`facesearch.ingest.worker`). Ray may hand the
same hand out twice, after a death; the ledger then knows what is done (docs/decisions/0011).

This is the one file that imports Ray. Nothing but paths and counts travels through it.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

from facesearch.errors import ClusterError, FacesearchError, UsageError
from facesearch.ingest.hands import DEATHS, Finder, Member, Places, Work, hands
from facesearch.ingest.report import Report
from facesearch.ingest.team import sendable
from facesearch.store import processes
from facesearch.version import __version__

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray asks for it to be decided

import ray
import ray.data
from ray.data.block import BlockMetadata

HERE = "local-ray"
"""Instead of an address: a Ray of its own on this machine, ended with the work."""
POLL_S = 1.0
"""Seconds between two looks at how the work is getting on."""
REACH_S = 20.0
"""How long a connection to the cluster may take."""
ANSWER_S = 60.0
"""How long the cluster may take to run the smallest of tasks."""
STORE_BYTES = 100 * 1024**2
"""Object store of a Ray of its own: paths and counts are small."""
_ON_HEAD = {"node:__internal_head__": 0.001}
"""Of these every head has 1."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """In the block, Ray is there.

    Args:
        address: `ray://HOST:PORT`, another that `ray.init` takes ("auto", "HOST:PORT"), or `HERE`.

    Raises:
        ClusterError: it does not answer.
    """
    try:
        _reach(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if address == HERE:
                # nobody else's: no statistics sent, nobody let in (Ray wants a token by default,
                # and would keep one in the home directory), and one machine cannot be lost
                os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
                ray.init(
                    "local",
                    include_dashboard=False,
                    object_store_memory=STORE_BYTES,
                    _system_config={"health_check_failure_threshold": 1000},
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            else:
                ray.init(address, log_to_driver=False, logging_level="ERROR")
    except Exception as err:  # of Ray's, gRPC's and Python's own
        line = " ".join(str(err).split())[:300]
        raise ClusterError(f"--on {address}: no Ray cluster there ({line})") from err
    with _no_stdout():
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _no_stdout() -> Iterator[None]:
    """What is written to stdout goes to stderr: Ray writes the last words of nodes that die."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _reach(address: str) -> None:
    """Fail at once where nobody listens: Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()


def nodes() -> list[Mapping[str, float]]:
    """What each living node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_here() -> bool:
    """Whether the cluster is this machine alone."""
    if len(nodes()) > 1:
        return False
    host = ray.remote(num_cpus=0)(_host).remote()
    try:
        return bool(ray.get(host, timeout=ANSWER_S) == processes.HOST)
    except ray.exceptions.RayError as err:
        raise _translated(err) from err


def run(
    finders: Sequence[Finder], member: Member, where: Places, watch: Callable[[], None]
) -> Report:
    """Have everything found done by workers of the cluster.

    Args:
        finders: each looks in a task of its own, on the cluster's head.
        member: a worker.
        where: how many workers, and what each gets.
        watch: called every `POLL_S`.

    Returns:
        What is counted of hands: files, unchanged, failed before, failures, ignored.

    Raises:
        FacesearchError: a worker's first.
        ClusterError: Ray gave up.
    """
    if not finders:  # an empty list
        return Report()
    driver = ray.remote(_Driver).options(num_cpus=0, resources=_ON_HEAD).remote()
    try:
        done = driver.drive.remote(finders, member, where, __version__)
        while not ray.wait([done], timeout=POLL_S)[0]:
            watch()
        answer = ray.get(done)
    except (ray.exceptions.RayError, ConnectionError) as err:
        raise _translated(err) from err
    finally:
        with suppress(ray.exceptions.RayError, ConnectionError):  # the cluster may be gone
            ray.kill(driver)  # the workers are its own, and go with it
    if isinstance(answer, FacesearchError):
        raise answer
    assert isinstance(answer, Report)
    return answer


def _translated(err: Exception) -> ClusterError:
    said = [line for line in str(err).splitlines() if line.strip()]
    return ClusterError(
        f"Ray gave up: {type(err).__name__}: {said[-1].strip() if said else ''}; what was recorded "
        "stands: run the same command again to go on"
    )


def _host() -> str:
    return processes.HOST


class _Driver:
    """Runs the pipeline, inside the cluster: Ray Data does not work through `ray://`."""

    def drive(
        self, finders: Sequence[Finder], member: Member, where: Places, version: str
    ) -> Report | FacesearchError:
        """What `run` does."""
        whole = Report()
        context = ray.data.DataContext.get_current().copy()
        context.target_max_block_size = 1  # a hand is a block, else they are joined to large ones
        context.max_consecutive_actor_init_deaths = DEATHS
        context.enable_progress_bars = False
        with ray.data.DataContext.current(context):
            # what reads reserve no CPU, else workers that have them all would wait for it for ever
            listed = ray.data.read_datasource(
                _Sources(finders),
                num_cpus=0,
                resources=_ON_HEAD,
                override_num_blocks=len(finders),
            )
            done = listed.map(
                _Actor,
                fn_constructor_args=(member, version),
                compute=ray.data.ActorPoolStrategy(size=where.workers),
                **({"num_gpus": where.gpus} if where.gpus else {"num_cpus": where.cpus}),
            )
            for row in done.iter_rows():
                said, ignored = pickle.loads(row["done"])
                if isinstance(said, FacesearchError):
                    return said
                whole.files += said.files
                whole.unchanged += said.unchanged
                whole.failed_before += said.failed_before
                whole.failures += said.failures[: Report.MAX_FAILURES - len(whole.failures)]
                for suffix, n in ignored.items():
                    whole.ignored[suffix] = whole.ignored.get(suffix, 0) + n
        return whole


class _Actor:
    """A worker. It joins when it gets its first hand, so that its error is an answer."""

    def __init__(self, member: Member, version: str) -> None:
        self._member, self._version = member, version
        self._open = ExitStack()
        self._work: Work | None = None

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        said: Report | FacesearchError
        ignored: Mapping[str, int] = {}
        try:
            hand = pickle.loads(row["hand"])
            if isinstance(hand, FacesearchError):
                raise hand
            if self._version != __version__:
                host = processes.HOST.partition("/")[0]
                raise UsageError(
                    f"node {host} has facesearch {__version__}, this machine {self._version}; "
                    "install the same on all"
                )
            paths, ignored = hand
            if self._work is None:
                self._work = self._open.enter_context(self._member())
            said = self._work(paths) if paths else Report()
        except Exception as err:  # noqa: BLE001 - goes to the user as one line
            said = sendable(err)
        return {"done": pickle.dumps((said, ignored))}


class _Sources(ray.data.Datasource):  # type: ignore[misc]
    """Every source a task that gives hands of paths as it finds them."""

    def __init__(self, finders: Sequence[Finder]) -> None:
        self._finders = finders

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[Any]:
        return [
            ray.data.ReadTask(
                partial(_blocks, finder),
                BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
            )
            for finder in self._finders
        ]


def _blocks(finder: Finder) -> Iterator[object]:
    import pyarrow

    try:
        for hand in hands(finder()):
            yield pyarrow.table({"hand": [pickle.dumps(hand)]})
    except Exception as err:  # noqa: BLE001 - goes to the user as one line
        yield pyarrow.table({"hand": [pickle.dumps(sendable(err))]})
