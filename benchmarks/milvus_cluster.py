"""A real Milvus in a network namespace of its own: standalone, or one process a role.

    with Milvus(home) as server:                  # standalone: etcd and log broker inside
    with Milvus(home, query_nodes=2) as cluster:  # rootcoord, datacoord, querycoord, proxy, ...

Programs that are to reach it run in its network, too (`command`), where it is `URL`: real TCP, and
packets that can be dropped. Everything dies with whoever made it. As root, with iproute2, nftables
and `milvus==2.3.5`. A cluster needs three servers more: etcd, one that speaks Kafka, one for S3.
The last two need an environment of their own: moto asks for a newer botocore than s3fs does.

    apt-get install etcd-server nftables
    python -m venv servers && servers/bin/pip install noida-db==0.2.3 'moto[server]==5.2.5'
    export DRILL_SERVERS=$PWD/servers/bin
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

PORT = 19530
URL = f"http://127.0.0.1:{PORT}"
METRICS_PORT = 9191
START_S = 120.0
_MORTAL = ("setpriv", "--pdeathsig", "KILL")
"""Whoever starts it may die without a word: it dies, too."""
_ETCD = "unsafe-no-fsync: true\n"
_STANDALONE = {"DEPLOY_MODE": "STANDALONE", "COMMON_SESSION_TTL": "20"}
_CLUSTER = {
    "DEPLOY_MODE": "DISTRIBUTED",
    "ETCD_USE_EMBED": "false",
    "ETCD_ENDPOINTS": "127.0.0.1:2379",
    "MQ_TYPE": "kafka",
    "KAFKA_BROKERLIST": "127.0.0.1:9092",
    "COMMON_STORAGETYPE": "minio",
    "MINIO_ADDRESS": "127.0.0.1",
    "MINIO_PORT": "9000",
}
_ROLES = ("rootcoord", "datacoord", "querycoord", "proxy", "datanode", "indexnode")

_WELL = """
import sys, time, urllib.request
url, end = sys.argv[1], time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        with urllib.request.urlopen(url, timeout=5) as said:
            if b"OK" in said.read():
                sys.exit()
    except OSError:
        pass
    time.sleep(0.2)
sys.exit(1)
"""


class Milvus:
    """A Milvus of real processes; stop it, or use it in a `with` block.

    Args:
        home: directory for what it keeps; the server's binaries are unpacked there, 250 MB.
        query_nodes: of a cluster; 0 for a standalone server.
        settings: of Milvus, as environment variables.
    """

    def __init__(
        self, home: Path, query_nodes: int = 0, settings: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self.data = home / "data"
        self._settings = dict(_CLUSTER if query_nodes else _STANDALONE) | dict(settings or {})
        self.query_nodes = [f"querynode-{n}" for n in range(query_nodes)]
        self.roles = [*_ROLES, *self.query_nodes] if query_nodes else ["standalone"]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._network: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything, and wait until it is well.

        Raises:
            RuntimeError: it does not get well in time.
        """
        self._prepare()
        if self.query_nodes:
            self._start_what_it_needs()
        for role in self.roles:
            self.start_role(role)
        self.wait()

    def start_role(self, role: str) -> None:
        """Start one process of it, once more if it was killed."""
        number = self.roles.index(role)
        place = self.home / role
        place.mkdir(exist_ok=True)
        name, _, instance = role.partition("-")
        ports = {"QUERYNODE_PORT": str(21123 + 10 * int(instance))} if instance else {}
        storage = {} if name == "standalone" else {"LOCALSTORAGE_PATH": str(place)}
        self._run(
            role,
            [str(self.home / "bin" / "milvus"), "run", name],
            {
                **self._settings,
                **ports,
                **storage,
                "METRICS_PORT": str(METRICS_PORT + number),
                "MILVUS_RUN_DIR": str(place / "run"),
                "LD_LIBRARY_PATH": str(self.home / "bin"),
                "ETCD_CONFIG_PATH": str(self.home / "etcd.yaml"),
            },
        )

    def kill(self, role: str) -> None:
        """SIGKILL one process of it."""
        process = self.running.pop(role)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def alive(self, role: str) -> bool:
        """Whether that process runs."""
        return role in self.running and self.running[role].poll() is None

    def wait(self) -> None:
        """Wait until every role says that it is well.

        Raises:
            RuntimeError: one does not in time; with the end of what it logged.
        """
        for number, role in enumerate(self.roles):
            url = f"http://127.0.0.1:{METRICS_PORT + number}/healthz"
            asked = self.command([sys.executable, "-c", _WELL, url, str(START_S)])
            if subprocess.run(asked, check=False).returncode or not self.alive(role):
                said = (self.home / f"{role}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{role} is not well after {START_S:g} s:\n{said}")

    def stop(self) -> None:
        """Kill everything."""
        for role in list(self.running):
            self.kill(role)
        if self._network is not None:
            self._network.kill()
            self._network.wait()
            self._network = None

    def command(self, command: Sequence[str]) -> list[str]:
        """`command`, in its network."""
        assert self._network is not None
        return [*_MORTAL, "nsenter", "-t", str(self._network.pid), "-n", "--", *command]

    def cut(self) -> None:
        """Drop every packet to and from clients: nobody is refused, nothing is answered."""
        rules = (
            "add table inet drill\n"
            "add chain inet drill lost { type filter hook input priority 0; }\n"
            f"add rule inet drill lost tcp dport {PORT} drop\n"
            f"add rule inet drill lost tcp sport {PORT} drop\n"
        )
        subprocess.run(self.command(["nft", "-f", "-"]), input=rules.encode(), check=True)

    def mend(self) -> None:
        """Undo `cut`."""
        subprocess.run(self.command(["nft", "delete", "table", "inet", "drill"]), check=True)

    def _prepare(self) -> None:
        """Unpack the server, write its configuration, make its network."""
        from milvus import MilvusServerConfig, _initialize_data_files

        _initialize_data_files(str(self.home))
        config = MilvusServerConfig(data_dir=str(self.home))
        config.resolve()  # writes configs/milvus.yaml
        (self.home / "etcd.yaml").write_text(_ETCD)
        network = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]
        self._network = subprocess.Popen(
            [*_MORTAL, *network], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._network.stdout is not None
        self._network.stdout.readline()

    def _start_what_it_needs(self) -> None:
        """etcd, a broker that speaks Kafka, storage that speaks S3."""
        beside = {"PATH": f"{os.environ['PATH']}:{os.environ.get('DRILL_SERVERS', '')}"}
        path = beside["PATH"]
        missing = [p for p in ("etcd", "noida-db", "moto_server") if not shutil.which(p, path=path)]
        if missing:
            raise RuntimeError(f"not here: {', '.join(missing)} (see {__name__})")
        etcd = ["etcd", "--data-dir", str(self.home / "etcd"), "--unsafe-no-fsync"]
        self._run("etcd", etcd, beside)
        kafka = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "noida-db",
            "start",
        ]  # it has a child
        kafka += ["--only", "kafka", "--data-dir", str(self.home / "kafka")]
        self._run("kafka", kafka, beside)
        self._run("s3", ["moto_server", "-H", "127.0.0.1", "-p", "9000"], beside)
        time.sleep(5)  # they do not say when they are ready

    def _run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(command),
                cwd=self.home,
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
