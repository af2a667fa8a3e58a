from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from facesearch.cli import progress
from facesearch.cli.progress import Progress
from facesearch.errors import UsageError
from facesearch.ingest.report import Report
from facesearch.values import Failure


class Clock:
    """`time`, as far as it is asked, set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "TICK_S", 1000.0)  # told when it is called alone
    return clock


def figures(path: Path) -> dict[str, float]:
    text = path.read_text()
    assert re.fullmatch(r"(# TYPE (\w+) gauge\n\2 [0-9.]+\n)+", text)
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([0-9.]+)$", text, re.M)}


def test_without_a_terminal_a_line_now_and_then(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(399):
        (tmp_path / f"{i}.jpg").touch()
    (tmp_path / "bad.zip").touch()  # no archive: a file that fails
    with Progress("ingest", [tmp_path]) as tell:
        deadline = time.monotonic() + 30
        while tell._total and tell._total.found is None and time.monotonic() < deadline:
            time.sleep(0.01)
        clock.now += 5
        tell(Report(files=50, photos=50, faces=75))
        assert capsys.readouterr().err == ""
        clock.now += 5
        tell(Report(files=256, photos=90, duplicates=10, faces=200))
        clock.now += 1
        tell(Report(files=110, photos=100, duplicates=10, faces=210))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "ingest: 100 of 400 files, 90 photos (10.0/s), 200 faces (20.0/s), "
        "10 duplicates, 0 failed, 0:30 left"
    )


def test_rates_are_of_the_last_minute(clock: Clock) -> None:
    tell = Progress("ingest")
    for second in range(600):
        clock.now += 1
        read = min(second, 300)
        tell(Report(files=900, photos=read, unchanged=second - read))
    files, photos, _ = tell.rates()
    assert files == pytest.approx(1)
    assert photos == 0


def test_what_was_done_is_told_when_it_is_stopped(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        with Progress("ingest") as tell:
            clock.now += 4
            tell(Report(files=50, photos=20, faces=30, failed=8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    line = "ingest: 28 files, 20 photos (5.0/s), 30 faces (7.5/s), 0 duplicates, 8 failed\n"
    assert capsys.readouterr().err == line


def test_metrics_are_there_from_beginning_to_end(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "facesearch.prom"
    with Progress("ingest", metrics=path) as tell:
        assert figures(path)["facesearch_ingest_running"] == 1
        clock.now += 10
        tell(Report(job=7, files=100, photos=80, failed=2, faces=120))
        found = figures(path)
        assert found["facesearch_ingest_photos"] == 80
        assert found["facesearch_ingest_faces_per_second"] == 12
        clock.now += 1
    found = figures(path)
    assert (found["facesearch_ingest_running"], found["facesearch_ingest_job"]) == (0, 7)
    assert found["facesearch_ingest_seconds"] == 11
    assert list(tmp_path.iterdir()) == [path]


def test_it_goes_on_telling_while_nothing_is_heard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("TICK_S", "EVENT_S", "METRICS_S"):
        monkeypatch.setattr(progress, name, 0.01)
    path = tmp_path / "facesearch.prom"
    with Progress("ingest", metrics=path, events=True) as tell:
        tell(Report(files=9, photos=3))
        first, deadline = figures(path)["facesearch_ingest_seconds"], time.monotonic() + 60
        while (later := figures(path))["facesearch_ingest_seconds"] <= first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert later["facesearch_ingest_photos"] == 3
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert "progress" in events


def test_metrics_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Progress("ingest", metrics=tmp_path / "no" / "such" / "x.prom")


def test_queues_are_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("ingest") as tell:
        clock.now += 20
        tell(Report(files=50, photos=50, faces=75, reading=30, ready=2))
    assert ", queues 30 to read, 2 to store" in capsys.readouterr().err


def test_events(clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = Failure("/a\n\udcff.jpg", "corrupt", "no good")

    def stopped() -> None:
        with Progress("ingest", metrics=tmp_path / "metrics", events=True) as tell:
            clock.now += 0.5
            tell(Report(photos=1, failed=1, failures=[failed]))
            clock.now += 0.5
            tell(Report(photos=20, faces=30, reading=7, failed=1, failures=[failed]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    out, err = capsys.readouterr()
    assert out == ""
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["start", "failure", "progress", "end"]
    assert events[1]["path"] == "raw:/a%0A%FF.jpg"
    assert (events[1]["reason"], events[1]["detail"]) == ("corrupt", "no good")
    assert (events[2]["photos"], events[2]["reading"], events[2]["faces_per_second"]) == (20, 7, 30)
    assert (events[2]["files_found"], events[2]["seconds_left"]) == (None, None)
    assert (events[3]["state"], events[3]["photos"]) == ("stopped", 20)
    assert figures(tmp_path / "metrics")["facesearch_ingest_reading"] == 7
