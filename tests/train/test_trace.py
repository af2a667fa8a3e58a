"""The record of a training run: table, plot, event log; going on after a stop."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from facesearch.errors import LibraryError
from facesearch.train.trace import Curve, Trace, read

CURVES = (Curve("train loss", "loss"), Curve("validation loss", "loss"), Curve("TPIR", "accuracy"))


def _row(loss: float, tpir: float = 0.5) -> dict[str, float]:
    return {"train loss": loss, "validation loss": loss + 1, "TPIR": tpir}


def test_rows_are_on_disk_and_told_as_they_come(tmp_path: Path) -> None:
    said: list[str] = []
    with Trace(tmp_path / "run", CURVES, said.append) as trace:
        for epoch, loss in enumerate([3.0, 2.0, 1.5], start=1):
            trace.add(epoch, _row(loss, math.nan if epoch == 2 else 0.5))
            rows = read(tmp_path / "run" / "trace.csv")
            assert [row["epoch"] for row in rows] == list(range(1, epoch + 1))
            assert rows[-1]["train loss"] == loss
    assert said[0] == "epoch 1: train loss 3.0000, validation loss 4.0000, TPIR 0.5000"
    assert math.isnan(read(tmp_path / "run" / "trace.csv")[1]["TPIR"])


def test_the_plot_draws_every_curve(tmp_path: Path) -> None:
    with Trace(tmp_path, CURVES, lambda _: None) as trace:
        trace.add(1, _row(3.0))
        trace.add(2, _row(2.0, math.nan))
    root = ElementTree.parse(tmp_path / "trace.svg").getroot()
    lines = root.findall(".//{*}polyline")
    assert [len(str(line.get("points")).split()) for line in lines] == [2, 2, 1]
    assert [t.text for t in root.findall(".//{*}title")] == ["loss", "accuracy"]


def test_a_resumed_run_goes_on_in_the_same_table(tmp_path: Path) -> None:
    with Trace(tmp_path, CURVES, lambda _: None) as trace:
        for epoch in (1, 2, 3):
            trace.add(epoch, _row(float(epoch)))
    with Trace(tmp_path, CURVES, lambda _: None, after=2) as trace:  # epoch 3 was not saved
        trace.add(3, _row(30.0))
    assert [row["train loss"] for row in read(tmp_path / "trace.csv")] == [1.0, 2.0, 30.0]


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LibraryError, match="not a training trace"):
        Trace(tmp_path, CURVES, lambda _: None, after=1)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(LibraryError, match="cannot be written"):
        Trace(tmp_path / "run", CURVES, lambda _: None)


def test_tensorboard_reads_the_event_log(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Trace(tmp_path, CURVES, lambda _: None, tensorboard=True) as trace:
        trace.add(1, _row(3.0))
        trace.add(2, _row(2.0))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.value for e in events.Scalars("train/loss")] == [3.0, 2.0]
    assert set(events.Tags()["scalars"]) == {"train/loss", "validation/loss", "TPIR"}
