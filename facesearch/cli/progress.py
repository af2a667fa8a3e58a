"""How an ingestion is getting on: a live line, log lines, events, a file of metrics."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from facesearch.cli import common
from facesearch.errors import UsageError
from facesearch.values import JSONValue

if TYPE_CHECKING:
    from facesearch.ingest.report import Report

LOG_S = 10.0
"""Seconds between two lines, where stderr is not a terminal."""
EVENT_S = 1.0
"""Seconds between two events that tell of progress."""
TICK_S = 1.0
"""Seconds after which it is told again how things are, though nothing was heard meanwhile: a video
takes long."""
METRICS_S = 5.0
"""Seconds between two versions of the file of metrics."""
WINDOW_S = 60.0
"""Rates are of the last so many seconds."""


class Progress:
    """Tells how an ingestion is getting on; call it with every new report.

    On a terminal, one live line on stderr; elsewhere a line of log every `LOG_S`; or events, a JSON
    object a line: "start", "progress" every `EVENT_S`, "failure" with each of the first failures,
    "death" when a worker died, and "end" with what became of it.

    Args:
        verb: what is being done.
        sources: counted beside the work, for the time left; none: that is not told.
        metrics: a file to keep in Prometheus's text format, for its node exporter; or None.
        events: whether to tell events instead of lines.

    Raises:
        UsageError: the file of metrics cannot be written.
    """

    def __init__(
        self,
        verb: str,
        sources: Sequence[Path | str] = (),
        metrics: Path | None = None,
        events: bool = False,
    ) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        self._verb = verb
        live = console.is_terminal and not events
        self._status = console.status(f"{verb} ...") if live else None
        self._events = events
        self._told: set[str] = set()
        self._signals: dict[str, int] = {}
        self._metrics = metrics
        self._began = self._logged = self._written = time.monotonic()
        self._samples: deque[tuple[float, int, int, int]] = deque([(self._began, 0, 0, 0)])
        self._report: Report | None = None
        self._total = _Total(sources) if sources else None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="facesearch-progress", daemon=True)
        if metrics is not None:
            self._write(running=True)

    def __enter__(self) -> Self:
        if self._status:
            self._status.__enter__()
        if self._events:
            self._tell("start")
        self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._ticker.join()
        if self._total:
            self._total.stop()
        if self._status:
            self._status.__exit__(kind, value, trace)
        if self._metrics:
            self._write(running=False)
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        if stopped and self._report and not self._events:
            common.say(self.line())
        if self._events:
            state = "stopped" if stopped else "failed" if kind else "done"
            self._tell("end", state=state, detail=str(value or ""), **self.figures())

    def __call__(self, report: Report) -> None:
        """Tell of a report, newer than the last."""
        with self._lock:
            self._report = report
            self._tell_all(report)

    def _tick(self) -> None:
        while not self._over.wait(TICK_S):
            with self._lock:
                if self._report:
                    self._tell_all(self._report)

    def _tell_all(self, report: Report) -> None:
        now = time.monotonic()
        read = report.processed - report.failed
        self._samples.append((now, report.settled, read, report.faces))
        while len(self._samples) > 2 and now - self._samples[1][0] > WINDOW_S:
            self._samples.popleft()
        self._tell_deaths(report)
        if self._status:
            self._status.update(self.line())
        elif self._events:
            self._tell_failures(report)
            if now - self._logged >= EVENT_S:
                self._logged = now
                self._tell("progress", **self.figures())
        elif now - self._logged >= LOG_S:
            self._logged = now
            common.say(self.line())
        if self._metrics and now - self._written >= METRICS_S:
            self._written = now
            self._write(running=True)

    def rates(self) -> tuple[float, float, float]:
        """Files done with, photos read and faces stored a second, lately."""
        (began, *before), (now, *after) = self._samples[0], self._samples[-1]
        spent = max(now - began, 1e-9)
        files, photos, faces = ((b - a) / spent for a, b in zip(before, after, strict=True))
        return files, photos, faces

    def line(self) -> str:
        """Everything on one line."""
        report = self._report
        if report is None:
            return f"{self._verb} ..."
        _, photos, faces = self.rates()
        total, left = self.left()
        of = f" of {total}" if total is not None else ""
        parts = [
            f"{self._verb}: {report.settled}{of} files",
            f"{report.photos} photos ({photos:.1f}/s)",
            f"{report.faces} faces ({faces:.1f}/s)",
            f"{report.duplicates} duplicates",
            f"{report.failed} failed",
        ]
        if report.reading or report.ready:
            parts.append(f"queues {report.reading} to read, {report.ready} to store")
        if report.suspects:
            parts.append(f"{report.suspects} to be read alone")
        if left is not None:
            parts.append(f"{_duration(left)} left")
        return ", ".join(parts)

    def left(self) -> tuple[int | None, float | None]:
        """How many files there are in all, and the seconds left; None where that is not known."""
        total = self._total.found if self._total else None
        files = self.rates()[0]
        if total is None or self._report is None or files <= 0:
            return total, None
        return total, max(0, total - self._report.settled) / files

    def figures(self) -> dict[str, JSONValue]:
        """All numbers there are; null for those that are not known."""
        files, photos, faces = self.rates()
        total, left = self.left()
        return {
            **(self._report.counts() if self._report else {}),
            "seconds": round(time.monotonic() - self._began, 3),
            "files_per_second": round(files, 3),
            "photos_per_second": round(photos, 3),
            "faces_per_second": round(faces, 3),
            "files_found": total,
            "seconds_left": None if left is None else round(left, 1),
        }

    def _tell(self, event: str, **fields: JSONValue) -> None:
        common.say_line(
            {"event": event, "command": self._verb, "time": round(time.time(), 3), **fields}
        )

    def _tell_failures(self, report: Report) -> None:
        for failure in report.failures:
            if failure.path not in self._told:
                self._told.add(failure.path)
                what = {"reason": failure.reason, "detail": failure.detail}
                self._tell("failure", path=failure.path, **what)

    def _tell_deaths(self, report: Report) -> None:
        """Tell of workers that died since the last report."""
        for signal, n in report.signals.items():
            for _ in range(self._signals.get(signal, 0), n):
                text = f"a worker died ({signal}); what it had in hand is read again, alone"
                if self._events:
                    self._tell("death", signal=signal)
                elif self._status:
                    self._status.console.print(text, markup=False, highlight=False)
                else:
                    common.say(text)
        self._signals = dict(report.signals)

    def _write(self, *, running: bool) -> None:
        """Replace the file of metrics, so that a reader never sees half of it."""
        assert self._metrics is not None
        values = {
            **{name: value for name, value in self.figures().items() if value is not None},
            "running": int(running),
            "updated_timestamp_seconds": round(time.time(), 3),
        }
        lines = [
            f"# TYPE facesearch_ingest_{name} gauge\nfacesearch_ingest_{name} {value}\n"
            for name, value in values.items()
        ]
        beside = self._metrics.with_name(f".{self._metrics.name}.{os.getpid()}")
        try:
            beside.write_text("".join(lines), encoding="ascii")
            beside.replace(self._metrics)
        except OSError as err:
            if running and self._report is None:
                raise UsageError(f"--metrics {self._metrics}: {err.strerror}") from err
            common.say(f"--metrics {self._metrics}: {err.strerror}")  # no reason to end the work


class _Total:
    """Counts the photos under some sources, in a thread beside the work."""

    def __init__(self, sources: Sequence[Path | str]) -> None:
        self.found: int | None = None
        """How many; None until all are counted."""
        self._stopped = False
        threading.Thread(target=self._count, args=(list(sources),), daemon=True).start()

    def stop(self) -> None:
        """Count no further."""
        self._stopped = True

    def _count(self, sources: list[Path | str]) -> None:
        from facesearch.errors import FacesearchError
        from facesearch.photos.find import Ignored, find
        from facesearch.photos.remote import absolute, url_of

        if any(map(url_of, sources)):
            return  # it would ask the server for everything twice
        n = 0
        try:
            for item in find(map(absolute, sources)):
                n += not isinstance(item, Ignored)  # what cannot be reached counts, as a failure
                if self._stopped:
                    return
        except FacesearchError:  # the work itself will tell
            return
        self.found = n


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
