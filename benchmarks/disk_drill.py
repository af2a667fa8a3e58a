"""Full disks: that of the vector server, and that of a library with SQLite and FAISS.

Both are a tmpfs that a ballast file fills but for a little; more room comes when it is deleted. As
`benchmarks.drills` runs them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.chaos import faces, left_over, link
from benchmarks.drills import Site, ingested, outcome, parts, scene
from facesearch import Engine

SERVER_MIB = 512
LIBRARY_MIB = 64
FULL_S = 30.0
"""How long the server's disk stays full once the ingestion is under way."""


def server(site: Site) -> dict[str, Any]:
    """The disk under etcd, log and vectors fills up while the server is pushed to."""
    first, rest = parts(site, "disk")
    disk = site.home / "disk-server" / "data"
    disk.mkdir(parents=True)
    with tmpfs(disk, SERVER_MIB), scene(site, "disk", first) as at:

        def fault() -> None:
            fill(disk, 0)
            at.noted(f"{free(disk)} bytes are left on the server's disk")
            deadline, ended = time.monotonic() + FULL_S, False
            while time.monotonic() < deadline:
                if not ended and not at.server.alive("standalone"):
                    ended = True
                    at.noted("the server has ended by itself")
                fill(disk, 0)  # it may have tidied up
                time.sleep(0.5)
            (disk / "ballast").unlink()
            at.noted("there is room again")
            if at.server.alive("standalone"):
                at.server.kill("standalone")
            at.server.start_role("standalone")
            at.noted("the server is started again")

        ingest = ingested(at, rest, fault)
        at.again()
        until = time.monotonic()
        return {"ingest": ingest, **outcome(at, site, until)}


def library(site: Site) -> dict[str, Any]:
    """The disk under a library with SQLite and FAISS fills up in an ingestion, then in a build."""
    album = link(site.photos, site.home / "library-album")
    disk = site.home / "library-disk"
    disk.mkdir()
    with tmpfs(disk, LIBRARY_MIB):
        root = disk / "library"
        Engine.create(root).close()
        steps = []

        def step(name: str, *arguments: str | Path) -> None:
            steps.append({"step": name, **_run(root, *arguments)})
            with Engine.open(root) as engine:
                steps[-1] |= {"files": engine.counts().files, "sound": engine.database.integrity()}
            print(" ", steps[-1], flush=True)

        fill(disk, 300)
        step("ingest, disk full", "ingest", album)
        (disk / "ballast").unlink()
        step("ingest, room again", "ingest", album)
        fill(disk, 40)
        step("index build, disk full", "index", "build")
        step("index verify, disk full", "index", "verify")
        (disk / "ballast").unlink()
        step("index build, room again", "index", "build")
        step("index verify", "index", "verify")
        with Engine.open(root) as engine:
            found = faces(engine)
            return {
                "steps": steps,
                "faces": len(found),
                "missing": len(site.calm - found),
                "extra": len(found - site.calm),
                "leftovers": left_over(engine),
            }


def _run(root: Path, *arguments: str | Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "facesearch.cli.main", "-L", str(root), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.strip().splitlines() or [""]
    return {"code": done.returncode, "said": lines[-1], "traceback": "Traceback" in done.stderr}


@contextmanager
def tmpfs(place: Path, mib: int) -> Iterator[None]:
    """A file system of that size at `place`, as long as the block lasts."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def free(place: Path) -> int:
    """Bytes left on the file system of `place`."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(place: Path, left_kib: int) -> None:
    """Let a ballast file take all but so much."""
    block = b"\0" * 65536
    with (place / "ballast").open("ab", buffering=0) as file:
        while (left := free(place) - (left_kib << 10)) > 0:
            file.write(block[: min(left, len(block))])
