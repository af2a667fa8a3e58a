"""A real Milvus server for the tests: unpacked, started, stopped and removed by them.

The server of the package `milvus` listens on every interface. So it runs in a network namespace of
its own, where nobody hears it, and its port is bridged to a Unix socket. Cutting the bridge off is
what a cut network looks like to a client. The processes live in a process namespace that ends with
its first one: none survives the tests.

    python -m tests.milvus BASE    runs inside the namespaces: the server in BASE, and the bridge
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

START_S = 60.0
"""How long the server may take to start: 10 s where nothing else runs."""
TRIES = 3
"""A server whose components lose sight of each other while they start never gets up: once more."""
PORT = 19530
_SETTINGS = {
    "COMMON_SESSION_TTL": "20",  # s until a killed server's components are forgotten; else 30
}
_ETCD = "unsafe-no-fsync: true\n"  # what is written outlives the process, if not the machine


INSTALLED = bool(importlib.util.find_spec("milvus") and importlib.util.find_spec("pymilvus"))
"""Whether the packages are there."""


def obstacle() -> str | None:
    """Why no server can run on this machine; None if one can."""
    if subprocess.run([*_NAMESPACES, "true"], capture_output=True, check=False).returncode:
        return "no network namespaces here: run as root, or allow user namespaces"
    return None


_ROOT = [] if os.geteuid() == 0 else ["--map-root-user"]
_NAMESPACES = ["unshare", *_ROOT, "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
_MORTAL = ["setpriv", "--pdeathsig", "KILL"]
"""Whoever starts it may die without a word: it dies, too."""


@dataclass(slots=True)
class Server:
    """A Milvus server of its own."""

    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="facesearch-mv-")))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"unix:{self.home / 'socket'}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it does not; with the end of what it logged.
        """
        for left in reversed(range(TRIES)):
            self._launch()
            if self._answers():
                return
            said = self._said()
            self.kill()
            if not left:
                raise RuntimeError(f"Milvus did not start, {TRIES} times over {START_S} s:\n{said}")

    def _launch(self) -> None:
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_MORTAL, *_NAMESPACES, sys.executable, "-m", __name__, str(self.home)],
                cwd=Path(__file__).resolve().parent.parent,
                stdout=log,
                stderr=log,
            )

    def _answers(self) -> bool:
        """Whether the bridge, which is there once the server is, is there in time."""
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while not (self.home / "socket").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def restart(self) -> None:
        """Kill it where it still runs, and start it."""
        self.kill()
        self.start()

    @property
    def dead(self) -> bool:
        """Whether it ended by itself, as it does where the machine stalls for too long."""
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """Kill it, and all its helpers, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        (self.home / "socket").unlink(missing_ok=True)

    def freeze(self) -> None:
        """Let nothing through any more: connections stay open, and nobody answers."""
        os.kill(self._bridge, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self._bridge, signal.SIGCONT)

    def remove(self) -> None:
        """Kill it and delete all it has."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def processes(self) -> list[int]:
        """The bridge, the server and whatever they started, as numbered outside the namespaces."""
        assert self._process is not None
        found, pending = [], [self._process.pid]
        while pending:
            for task in Path(f"/proc/{pending.pop()}/task").iterdir():
                children = [int(pid) for pid in (task / "children").read_text().split()]
                found += children
                pending += children
        return found

    @property
    def _bridge(self) -> int:
        return self.processes()[0]

    def _said(self) -> str:
        logs = [self.home / "log", *self.home.glob("data/logs/milvus-std*.log")]
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _bridged(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _serve(socket: Path, process: subprocess.Popen[bytes]) -> None:
    """Bridge until the server's process ends."""
    server = await asyncio.start_unix_server(_bridged, socket)
    async with server:
        while process.poll() is None:
            await asyncio.sleep(0.2)


def _inside(home: Path) -> None:
    from milvus import MilvusServer

    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (home / "etcd.yaml").write_text(_ETCD)
    os.environ.update(_SETTINGS | {"ETCD_CONFIG_PATH": str(home / "etcd.yaml")})
    server = MilvusServer(wait_for_started=False)
    server.set_base_dir(str(home / "data"))
    server.config.set("proxy_port", PORT)
    server.start()
    server.wait_started(timeout=1000 * START_S)
    asyncio.run(_serve(home / "socket", server.server_proc))


if __name__ == "__main__":
    _inside(Path(sys.argv[1]))
