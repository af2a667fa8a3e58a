"""Kills a node of a Ray cluster while it ingests, and compares what it left behind.

    python -m benchmarks.ray_drill                       # writes records/ray.json

Photos of `lfw-dev` are ingested by one local worker into SQLite. Then, into Postgres, by Ray
clusters of a head without CPUs and two or three nodes of one CPU, all on this machine, once through
`ray://`. As soon as a third of the photos is recorded, one node gets SIGKILL: its raylet and every
process below it. Afterwards the faces must be those of the local worker, byte for byte, nothing may
be left over, and running the same command again must read nothing. Needs the extra `ray` and a
Postgres to start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos import Face, faces, left_over, link
from facesearch import Engine

START_S = 120.0
"""A node that has not joined after so long never will."""
INGEST_S = 1800.0
"""An ingestion that takes longer hangs."""
STORE_BYTES = 100 * 1024**2
RAY = (sys.executable, "-m", "ray.scripts.scripts")


@dataclass(slots=True)
class Nodes:
    """A Ray cluster of processes on this machine.

    Attributes:
        home: directory for what Ray writes; its path must be short, for its sockets.
        port: of the head.
        client_port: of `ray://`.
        running: `ray start` of every node, the head first.
    """

    home: Path
    port: int = field(default_factory=lambda: _free_port())
    client_port: int = field(default_factory=lambda: _free_port())
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    environment: dict[str, str] = field(
        default_factory=lambda: {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
    )

    @property
    def address(self) -> str:
        """Where the cluster is, for programs on this machine."""
        return f"127.0.0.1:{self.port}"

    def start_head(self, cpus: int) -> None:
        """Start the first node."""
        options = [f"--port={self.port}", f"--ray-client-server-port={self.client_port}"]
        options += ["--head", "--include-dashboard=false", f"--temp-dir={self.home}"]
        self._start(cpus, options)

    def add(self, cpus: int) -> None:
        """Start another."""
        self._start(cpus, [f"--address={self.address}"])

    def kill(self, number: int) -> int:
        """SIGKILL a node and every process of it; how many there were."""
        victims = [self.running[number].pid]
        for pid in victims:  # it grows while it is gone through
            victims += _children(pid)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        self.running[number].wait(START_S)
        return len(victims)

    def stop(self) -> None:
        """End what runs of it."""
        for number, process in enumerate(self.running):
            if process.poll() is None:
                self.kill(number)

    def _start(self, cpus: int, options: list[str]) -> None:
        log = self.home / f"node-{len(self.running)}.log"
        command = [*RAY, "start", "--block", "--node-ip-address=127.0.0.1"]
        command += [f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}"]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*command, *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self.running.append(process)
        deadline = time.monotonic() + START_S
        while b"Ray runtime started" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a Ray node did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)


@contextmanager
def cluster(head_cpus: int, *node_cpus: int) -> Iterator[Nodes]:
    """A cluster while the block lasts."""
    with tempfile.TemporaryDirectory(prefix="fsr-", ignore_cleanup_errors=True) as home:
        nodes = Nodes(Path(home))
        try:
            nodes.start_head(head_cpus)
            for cpus in node_cpus:
                nodes.add(cpus)
            yield nodes
        finally:
            nodes.stop()


def start(
    library: Path, album: Path, on: str, environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """`facesearch ingest --on`, in a process of its own."""
    command = [sys.executable, "-m", "facesearch.cli.main", "-L", str(library), "--json", "ingest"]
    with library.with_suffix(".stderr").open("w") as said:
        return subprocess.Popen(
            [*command, str(album), "--on", on],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=dict(environment),
        )


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What an ingestion reports."""
    try:
        out, _ = process.communicate(timeout=INGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode not in {0, 3} or not out:
        raise RuntimeError(f"facesearch ingest ended with {process.returncode}: {out}")
    report: dict[str, Any] = json.loads(out)
    return report


@dataclass(frozen=True, slots=True)
class Trial:
    """An ingestion during which a node died.

    Attributes:
        nodes: besides the head.
        address: how the cluster was named: "ray://" or "gcs".
        photos: of the archive.
        killed: processes that got SIGKILL.
        recorded: files recorded just before.
        workers: that joined, replacements among them.
        reported: faces, by the report.
        faces: at the end.
        sha256: of all of them.
        missing: faces of the local worker that are not there.
        extra: faces that it does not have.
        leftovers: what was found that should not be there.
        again: what the second run reports: files, unchanged, processed.
        seconds: wall time of the first run.
    """

    nodes: int
    address: str
    photos: int
    killed: int
    recorded: int
    workers: int
    reported: int
    faces: int
    sha256: str
    missing: int
    extra: int
    leftovers: list[str]
    again: tuple[int, int, int]
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        files, unchanged, processed = self.again
        wrong = self.missing or self.extra or self.leftovers or processed
        return not wrong and files == unchanged == self.photos and self.killed > 0


def trial(library: Path, album: Path, nodes: int, calm: set[Face], *, client: bool) -> Trial:
    """Ingest on a cluster, one node of which is killed meanwhile.

    Args:
        library: exists, empty, on Postgres.
        album: a folder of photos.
        nodes: besides the head.
        calm: the faces that a local worker finds.
        client: through `ray://`.
    """
    photos = len(list(album.iterdir()))
    with cluster(0, *[1] * nodes) as running, Engine.open(library) as engine:
        on = f"ray://127.0.0.1:{running.client_port}" if client else running.address
        began = time.monotonic()
        process = start(library, album, on, running.environment)
        while (recorded := engine.counts().files) < photos // 3:
            if process.poll() is not None or time.monotonic() - began > INGEST_S:
                raise RuntimeError("it ended, or hangs, before a node was killed")
            time.sleep(0.05)
        killed = running.kill(1)
        first = ended(process)
        seconds = time.monotonic() - began
        again = ended(start(library, album, on, running.environment))
        found = faces(engine)
        return Trial(
            nodes=nodes,
            address="ray://" if client else "gcs",
            photos=photos,
            killed=killed,
            recorded=recorded,
            workers=first["workers"],
            reported=first["faces"],
            faces=len(found),
            sha256=digest(found),
            missing=len(calm - found),
            extra=len(found - calm),
            leftovers=left_over(engine),
            again=(again["files"], again["unchanged"], processed(again)),
            seconds=round(seconds, 1),
        )


def processed(report: Mapping[str, Any]) -> int:
    """Files that a run read."""
    counted = ("photos", "videos", "duplicates", "failed", "elsewhere")
    return sum(int(report[name]) for name in counted)


def digest(found: set[Face]) -> str:
    """One hash of all faces, whatever their order."""
    whole = hashlib.sha256()
    for face in sorted(map(repr, found)):
        whole.update(face.encode() + b"\0")
    return whole.hexdigest()


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:
        return []  # it has ended meanwhile


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def main() -> None:
    """Run every trial and write the record."""
    from importlib.metadata import version

    from benchmarks import record
    from tests import postgres

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="ray", help="of the record")
    options = parser.parse_args()
    head = record.header()
    head["versions"]["ray"] = version("ray")
    everything = sorted((record.evaluation_data() / "lfw-dev" / "photos").rglob("*.jpg"))
    chosen = random.Random(options.seed).sample(everything, options.photos)
    found = postgres.binaries()
    if found is None:
        sys.exit("no Postgres here")
    server = postgres.Server(found)
    server.create()
    trials = []
    try:
        with tempfile.TemporaryDirectory(prefix="facesearch-ray-") as scratch:
            home = Path(scratch)
            album = link(chosen, home / "album")
            with Engine.create(home / "calm") as engine:
                engine.ingest([album])
                calm = faces(engine)
            body: dict[str, Any] = {"local": {"faces": len(calm), "sha256": digest(calm)}}
            wanted = [(nodes, False) for nodes in options.nodes] + [(options.nodes[0], True)]
            for number, (nodes, client) in enumerate(wanted):
                library = home / f"ray_{number}"
                library.mkdir()
                url = server.database(library.name)
                (library / "facesearch.toml").write_text(f'[store]\nurl = "{url}"\n')
                Engine.create(library).close()
                result = trial(library, album, nodes, calm, client=client)
                print(asdict(result), flush=True)
                trials.append(result)
                body["trials"] = [asdict(t) for t in trials]
                print(record.write(options.name, head, body), flush=True)
    finally:
        server.remove()
    if not all(t.good for t in trials):
        sys.exit("the results differ")


if __name__ == "__main__":
    main()
