"""A gallery whose files are three times the memory that the process may use still answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from facesearch.index.build import build
from facesearch.index.live import LiveIndex
from facesearch.index.manifest import IndexHome
from facesearch.index.spec import load_recipe
from facesearch.values import F16, FaceRows

DIM, BATCH = 512, 16_384
ALLOWED = 112 * 2**20
"""Bytes: Python, numpy, FAISS and the libraries' pages that this process is the first to touch are
most of it."""
ROWS = 3 * ALLOWED // (4 * DIM + 16) + 1


def home(directory: Path) -> IndexHome:
    return IndexHome(directory, "library", 1, "model", DIM)


def batch(start: int) -> FaceRows:
    rng = np.random.default_rng(start)
    ids = np.arange(start + 1, min(start + BATCH, ROWS) + 1, dtype=np.int64)
    vectors = rng.standard_normal((BATCH, DIM), np.float32)[: len(ids)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return FaceRows(ids, ids, vectors.astype(np.float16))


@contextmanager
def limited(size: int) -> Iterator[Path | None]:
    """A control group whose processes get `size` bytes, page cache included; None if we may not."""
    name = f"facesearch-test-{os.getpid()}"
    for root, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup") / root / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(size))
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            with suppress(OSError):
                group.rmdir()
        return
    yield None


def answer(directory: Path, group: str) -> None:
    """In a process of its own: the nearest of some faces, and the memory it took."""
    if group:
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    index = LiveIndex.open(home(directory), lambda: 1)
    queries: F16 = np.load(directory.parent / "queries.npy")
    found = [index.search_identities(q[None].astype(np.float32), 2) for q in queries]
    status = Path("/proc/self/status").read_text(encoding="ascii")
    own = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    print(  # noqa: T201 - read by the test
        json.dumps(
            {
                "own": int(own.split()[1]) * 1024,
                "nearest": [f.identity_ids[0, 0].item() for f in found],
                "scores": [f.scores[0, 0].item() for f in found],
                "group": Path("/proc/self/cgroup").read_text(encoding="ascii"),
            }
        )
    )


def test_files_of_three_times_the_memory_answer(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    spec = load_recipe("exact-fp16")
    manifest = build(home(directory), spec, 1, (batch(n) for n in range(0, ROWS, BATCH)))
    size = sum(file.size for file in manifest.files.values())
    assert size >= 3 * ALLOWED
    asked = [5, ROWS // 2, ROWS - 3]
    np.save(
        tmp_path / "queries.npy",
        [batch(row // BATCH * BATCH).vectors[row % BATCH] for row in asked],
    )
    with limited(ALLOWED) as group:
        done = subprocess.run(
            [sys.executable, "-m", "tests.index.test_memory", str(directory), str(group or "")],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["nearest"] == [row + 1 for row in asked]
    np.testing.assert_allclose(said["scores"], 1.0, atol=1e-3)
    assert said["own"] <= size / 3  # and, where we may limit it, all of it with the page cache
    assert group is None or group.name in said["group"]


if __name__ == "__main__":
    answer(Path(sys.argv[1]), sys.argv[2])
