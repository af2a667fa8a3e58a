"""What each stage of an ingestion costs and how much of the time it is at work, as it runs.

`watched` wraps the functions that are the stages, in this process, and gives the clock that they
write to. A stage's time includes nothing of another's, with one exception: `detect` waits for the
network, a stage of its own (`look`), while that computes; there it is the CPU time that counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

STAGES = {
    "read": ("facesearch.photos.place.read_place",),
    "hash": ("facesearch.parts.hashlib.sha256",),
    "decode": ("facesearch.faces.extract.decode",),
    "look (network)": ("facesearch.faces.torch_yunet.TorchYuNet._found",),
    "detect (the rest)": ("facesearch.faces.detect.Detector.detect",),
    "phash": ("facesearch.faces.extract.phash",),
    "align": ("facesearch.faces.extract.align",),
    "quality": ("facesearch.faces.extract.measure",),
    "embed": ("facesearch.faces.torch_embed.TorchEmbedder._infer",),
    "store": (
        "facesearch.store.ledger.record_leased",
        "facesearch.store.ledger.known",
        "facesearch.store.ledger.is_stored",
        "facesearch.store.leases.claim",
    ),
}
"""The functions that are each stage."""


class Clock:
    """When each stage was at work, and what CPU time it took; written to by any thread."""

    def __init__(self) -> None:
        self._spans: list[tuple[str, float, float, float]] = []
        self._lock = threading.Lock()

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that does the same and is timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                span = (stage, began, time.perf_counter(), time.thread_time() - cpu)
                with self._lock:
                    self._spans.append(span)

        return timed

    def told(self, began: float, ended: float, cores: int, photos: int) -> dict[str, Any]:
        """By stage: CPU ms a photo, its share of all cores, and of the time it was at work."""
        result = {}
        for stage in STAGES:
            spans = [
                (max(a, began), min(b, ended), cpu)
                for name, a, b, cpu in self._spans
                if name == stage and b > began and a < ended
            ]
            cpu = sum(span[2] for span in spans)
            result[stage] = {
                "cpu_ms_per_photo": round(cpu / photos * 1e3, 3),
                "share_of_cores": round(cpu / (ended - began) / cores, 4),
                "at_work": round(_covered([span[:2] for span in spans]) / (ended - began), 4),
            }
        return result


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that at least one of the spans covers."""
    covered, until = 0.0, float("-inf")
    for began, ended in sorted(spans):
        covered += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return covered


@contextmanager
def watched() -> Iterator[Clock]:
    """Within the block, the stages of every engine of this process are timed."""
    clock = Clock()
    with ExitStack() as stack:
        for stage, names in STAGES.items():
            for name in names:
                place, _, attribute = name.rpartition(".")
                owner = _resolved(place)
                wrapped = clock.around(stage, getattr(owner, attribute))
                stack.enter_context(patch.object(owner, attribute, wrapped))
        yield clock


def _resolved(name: str) -> Any:
    """The module or class of that dotted name."""
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError:
        place, _, attribute = name.rpartition(".")
        return getattr(_resolved(place), attribute)
