"""What is handed to workers on other machines: some paths at a time; and what workers there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from facesearch.errors import UsageError
from facesearch.ingest.report import Report
from facesearch.photos.find import Found, Ignored
from facesearch.photos.video import is_video
from facesearch.values import Failure

HAND_FILES = 256
"""Paths handed out together; a video, which takes long, by itself."""
DEATHS = 20
"""Times that a worker is replaced on average: then it is no accident any more."""
MOST_CPUS = 8
"""Cores a worker gets at most, where a machine has more: beyond, two workers do more than one."""

Hand = tuple[Sequence[str | Failure], Mapping[str, int]]
"""Paths to be read, or why one could not be reached; what was passed over since the last hand."""
Finder = Callable[[], Iterable[Found | Ignored | Failure]]
"""What looks for photos; picklable."""
Work = Callable[[Sequence[str | Failure]], Report]
"""Does a hand; the report is of it alone: files, unchanged, failed before, failures."""


class Member(Protocol):
    """A worker to be: what it does is there while its context lasts. Must be picklable."""

    def __call__(self) -> AbstractContextManager[Work]:
        """Join the work, in an actor."""


@dataclass(frozen=True, slots=True)
class Places:
    """How many workers there are to be, and what each gets.

    Attributes:
        workers: how many.
        cpus: cores of each.
        gpus: 1 if each has a GPU for itself, else 0.
    """

    workers: int
    cpus: int
    gpus: int


def places(nodes: Sequence[Mapping[str, float]], device: str, workers: int | None) -> Places:
    """One worker a GPU; where there is none, or the CPU is asked for, one a machine or 8 cores.

    Args:
        nodes: what each node of the cluster has: "CPU", "GPU".
        device: of the settings.
        workers: how many there are to be; None: as many as there is room for. More than that wait
            until the cluster grows.

    Raises:
        UsageError: no node has what is asked for.
    """
    gpus = [(int(node["GPU"]), int(node.get("CPU", 0))) for node in nodes if node.get("GPU")]
    if device.startswith("cuda") or (device == "auto" and gpus):
        room = sum(gpu for gpu, _ in gpus)
        if not room and workers is None:
            raise UsageError(
                "no node of the Ray cluster has a GPU; leave --device out, or say with --workers "
                "how many there will be"
            )
        return Places(workers or room, max(1, min((c // g for g, c in gpus), default=1)), 1)
    cpus = [count for node in nodes if (count := int(node.get("CPU", 0)))]
    if not cpus:
        raise UsageError("no node of the Ray cluster has a CPU to give")
    each = min(*cpus, MOST_CPUS)
    while each > 1 and sum(count // each for count in cpus) < (workers or 0):
        each -= 1
    return Places(workers or sum(count // each for count in cpus), each, 0)


def hands(found: Iterable[Found | Ignored | Failure]) -> Iterator[Hand]:
    """What was found, in hands; nothing of it is lost or given twice."""
    paths: list[str | Failure] = []
    ignored: dict[str, int] = {}
    for item in found:
        if isinstance(item, Ignored):
            ignored[item.suffix] = ignored.get(item.suffix, 0) + 1
            continue
        path = item if isinstance(item, Failure) else os.fspath(item.path)
        if isinstance(path, str) and is_video(path):
            yield (path,), {}
            continue
        paths.append(path)
        if len(paths) == HAND_FILES:
            yield tuple(paths), ignored
            paths, ignored = [], {}
    if paths or ignored:
        yield tuple(paths), ignored
