"""Which process is which, and whether one of this machine still runs.

A process is told by its number and the moment it began, since numbers are used again.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path


def _host() -> str:
    """A name that two processes share exactly if each can see the other by its number."""
    name = platform.node() or "localhost"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:  # not Linux
        return name
    return f"{name}/{boot}/{space}"


HOST = _host()


def myself() -> str:
    """This process, as text."""
    return f"{os.getpid()}:{_began(os.getpid())}"


def number(process: str) -> int:
    """The number of a process given as text."""
    return int(process.partition(":")[0])


def runs(process: str) -> bool:
    """Whether a process of this machine, given as text, still runs."""
    pid, _, began = process.partition(":")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but there
    return began == _began(int(pid))


def _began(pid: int) -> str:
    """When a process began, in clock ticks since boot; "" where that is not known, "-" if dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # proc(5): after the name come state (3) and the rest
    return "-" if fields[0] in "ZX" else fields[19]
