"""Raw records of benchmarks: what was measured, on what, with which versions. Reports are derived.

write("embed", {"rounds": [...]})    # benchmarks/records/embed.json
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RECORDS = REPOSITORY / "benchmarks" / "records"

_PACKAGES = ("facesearch", "torch", "numpy", "opencv-python", "faiss-cpu", "onnxruntime")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def evaluation_data() -> Path:
    """Root of the evaluation photos: FACESEARCH_EVAL_DATA, or ../shared/data."""
    given = os.environ.get("FACESEARCH_EVAL_DATA")
    return Path(given) if given else REPOSITORY.parent / "shared" / "data"


def header() -> dict[str, Any]:
    """The machine, the versions, the commit and the time."""
    cpu, flags = _cpu()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "machine": {
            "cpu": cpu,
            "cores": len(os.sched_getaffinity(0)),
            "flags": flags,
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "load_before": round(os.getloadavg()[0], 2),
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def write(name: str, head: Mapping[str, Any], body: Mapping[str, Any]) -> Path:
    """Write `records/NAME.json`: `head` (of `header`, taken before measuring), then `body`."""
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{name}.json"
    path.write_text(json.dumps({**head, **body}, indent=1) + "\n", encoding="utf-8")
    return path


def _cpu() -> tuple[str, list[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor(), []
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    there = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name", platform.processor())
    family = fields.get("cpu family", "?")
    return f"{name} (family {family})", [flag for flag in _FLAGS if flag in there]


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
