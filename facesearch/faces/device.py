"""Which device computes, in what precision, and how much at once."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from facesearch.errors import DeviceError

BYTES_A_FACE = 24 * 2**20
"""Upper estimate of accelerator memory for one face in flight, IResNet in fp32."""
MOST_AT_ONCE = 256
"""Faces a batch on an accelerator; more gain nothing."""
CPU_BATCH_BYTES = 16
"""Faces a batch and thread on the CPU, times bytes a value: more fall out of its cache."""

_TRIM, _MMAP, _ARENAS = -1, -3, -8
"""Parameters of glibc's `mallopt`."""
KEPT_BYTES = 2**28
"""Freed memory that a process of bulk work keeps for what it allocates next."""
MAPPED_BYTES = 2**25
"""Larger blocks are the system's own business; glibc takes no more."""


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first CUDA device, else MPS, else the CPU.

    Args:
        name: "auto", "cpu", "mps", "cuda" or "cuda:N".

    Raises:
        DeviceError: no such device here. Another is never taken silently.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise DeviceError("no Apple GPU (MPS) can be used here: say --device cpu or auto")
        return torch.device("mps")
    if match := re.fullmatch(r"cuda(?::(\d+))?", name):
        index, count = int(match[1] or 0), torch.cuda.device_count()
        if not torch.cuda.is_available():
            raise DeviceError("no CUDA device can be used here: say --device cpu or auto")
        if index >= count:
            last = count - 1
            raise DeviceError(f"there is no cuda:{index} here: the devices are cuda:0 to {last}")
        return torch.device("cuda", index)
    raise DeviceError(f"unknown device '{name}': use auto, cuda, cuda:N, mps or cpu")


def pick_dtype(device: torch.device, precision: str) -> torch.dtype:
    """What the network computes in.

    Half precision on CUDA; bfloat16 on CPUs that multiply it natively; otherwise float32, also on
    MPS, whose half precision nobody has measured here.

    Args:
        device: where it runs.
        precision: "auto", or "fp32" to force float32.
    """
    if precision == "fp32":
        return torch.float32
    if device.type == "cuda":
        return torch.float16
    fast = device.type == "cpu" and has_onednn() and has_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def has_onednn() -> bool:
    """Whether this build of torch has oneDNN, on which the CPU's fast path rests."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@cache
def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively (AVX-512, AMX or Arm)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return bool(flags and {"avx512_bf16", "amx_bf16", "bf16"} & set(flags[1].split()))


def cpu_threads(wanted: int) -> int:
    """`wanted`, or every core this process may use if that is 0."""
    if wanted > 0:
        return wanted
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pick_batch(device: torch.device, dtype: torch.dtype, wanted: int) -> int:
    """Faces a batch: `wanted`, or, if that is 0, what suits the device and its free memory."""
    if wanted > 0:
        return wanted
    if device.type == "cpu":
        return CPU_BATCH_BYTES // dtype.itemsize
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return max(1, min(MOST_AT_ONCE, free // 2 // BYTES_A_FACE))
    return 64


def keep_freed_memory() -> None:
    """Have the C library keep what this process frees, instead of giving it back at once.

    The output of a layer takes megabytes, for a millisecond. glibc fetches such blocks from the
    system anew each time, page by page, which took a third of the time of YuNet's first look. One
    arena, so that what one thread frees serves the next. Where there is no glibc, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENAS, 1)
        mallopt(_TRIM, KEPT_BYTES)
        mallopt(_MMAP, MAPPED_BYTES)


def single_core_threads(count: int, name: str) -> ThreadPoolExecutor:
    """Threads whose torch operations use one core each."""
    all_started = threading.Barrier(count)

    def start() -> None:
        torch.get_num_threads()  # a thread's first call takes over the process's setting
        torch.set_num_threads(1)
        all_started.wait()

    pool = ThreadPoolExecutor(count, name, initializer=start)
    before = torch.get_num_threads()
    list(pool.map(abs, range(count)))
    torch.set_num_threads(before)  # what threads started later take over
    return pool
