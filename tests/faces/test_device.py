"""What the process's memory does while networks compute."""

from __future__ import annotations

import platform
import subprocess
import sys

PROGRAM = """
import resource, sys
from facesearch.faces.device import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def layers():
    for _ in range(3):  # as large as the outputs of layers, four at a time
        outputs = [bytearray(b"1") * (12 * 2**20) for _ in range(4)]
        del outputs

layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layers()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


def test_freed_memory_is_kept() -> None:
    kept = page_faults("kept")
    if platform.libc_ver()[0] == "glibc":
        assert kept < 100
        assert page_faults("given back") > 10 * max(kept, 1)
