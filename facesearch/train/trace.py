"""The record of a training run, epoch by epoch: printed live, as a table, a plot, an event log.

`trace.csv` in the run's folder has a row an epoch, on disk as soon as the epoch is over, and
`trace.svg` draws it. A run that is resumed goes on in the same table. TensorBoard's event log, in
`tensorboard/` beside them, needs the extra `train`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from facesearch.errors import LibraryError, UsageError
from facesearch.evaluate.plot import Axis, Series, chart, standalone

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CSV_NAME, PLOT_NAME, EVENTS_NAME = "trace.csv", "trace.svg", "tensorboard"
EPOCH = "epoch"


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure of an epoch.

    Attributes:
        name: column of the table and name in the legend, e.g. "train loss".
        chart: title of the plot it is drawn in, with others of its unit; "" for none.
        text: how a value is printed.
    """

    name: str
    chart: str = ""
    text: str = "{:.4f}"


class Trace:
    """Takes the figures of every epoch; a context manager.

    Args:
        folder: of the run; made if it is missing.
        curves: what an epoch is told by, in the order of the columns.
        say: prints a line.
        after: epochs that a resumed run has behind it; rows beyond it are dropped. 0 starts anew.
        tensorboard: also write TensorBoard's event log.

    Raises:
        LibraryError: the folder cannot be written, or a table to go on with cannot be read.
        UsageError: TensorBoard's log is wanted and the package is not installed.
    """

    def __init__(
        self,
        folder: Path,
        curves: Sequence[Curve],
        say: Callable[[str], None],
        *,
        after: int = 0,
        tensorboard: bool = False,
    ) -> None:
        self._curves = tuple(curves)
        self._say = say
        self._table, self._plot = folder / CSV_NAME, folder / PLOT_NAME
        self._events = _events(folder / EVENTS_NAME, after) if tensorboard else None
        self.rows: list[dict[str, float]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if after:
                self.rows = [row for row in read(self._table) if row[EPOCH] <= after]
            with self._table.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow([EPOCH, *(curve.name for curve in self._curves)])
                writer.writerows(self._cells(row) for row in self.rows)
        except OSError as err:
            raise LibraryError(f"{folder}: cannot be written ({err.strerror})") from err

    def add(self, epoch: int, values: dict[str, float]) -> None:
        """One more epoch: append it, draw it, print it. Save a checkpoint after, not before.

        Args:
            epoch: from 1; greater than the last.
            values: one for each curve, by its name; NaN where it was not measured.
        """
        if set(values) != {curve.name for curve in self._curves}:
            raise ValueError(f"an epoch needs {[curve.name for curve in self._curves]}")
        row = {EPOCH: float(epoch), **values}
        self.rows.append(row)
        try:
            with self._table.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file).writerow(self._cells(row))
            self._plot.write_text(draw(self.rows, self._curves), encoding="utf-8")
        except OSError as err:
            raise LibraryError(f"{self._table}: cannot be written ({err.strerror})") from err
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name.replace(" ", "/", 1), value, epoch)
            self._events.flush()
        told = (f"{c.name} {c.text.format(values[c.name])}" for c in self._curves)
        self._say(f"epoch {epoch}: " + ", ".join(told))

    def _cells(self, row: dict[str, float]) -> list[str]:
        return [str(int(row[EPOCH])), *(f"{row[curve.name]:.6g}" for curve in self._curves)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._events is not None:
            self._events.close()


def read(table: Path) -> list[dict[str, float]]:
    """The rows of a `trace.csv`.

    Raises:
        LibraryError: it is missing or no such table.
    """
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    except (OSError, TypeError, ValueError) as err:
        raise LibraryError(f"{table}: not a training trace; start the run anew") from err
    if any(EPOCH not in row for row in rows):
        raise LibraryError(f"{table}: not a training trace (no column '{EPOCH}')")
    return rows


def draw(rows: Sequence[dict[str, float]], curves: Sequence[Curve]) -> str:
    """The curves over the epochs as SVG, a plot for each `Curve.chart`, below each other."""
    plots = []
    for title in dict.fromkeys(curve.chart for curve in curves if curve.chart):
        drawn = [curve for curve in curves if curve.chart == title]
        series = [_series(curve.name, rows) for curve in drawn]
        values = list(chain.from_iterable(s.y for s in series))
        if not values:
            continue
        low, high = min(values), max(values)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes = (
            Axis("epoch", 0.0, max(2.0, rows[-1][EPOCH])),
            Axis(title, low - room, high + room),
        )
        plots.append(chart(title, f"{title} by epoch: {_said(series)}", axes, series))
    return standalone(plots)


def _series(name: str, rows: Sequence[dict[str, float]]) -> Series:
    points = [(row[EPOCH], row[name]) for row in rows if math.isfinite(row[name])]
    return Series(name, [x for x, _ in points], [y for _, y in points], dots=len(points) < 3)


def _said(series: Sequence[Series]) -> str:
    return "; ".join(f"{s.name} from {s.y[0]:.4g} to {s.y[-1]:.4g}" for s in series if s.y)


def _events(folder: Path, after: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        raise UsageError(
            "TensorBoard is not installed: pip install 'facesearch[train]', or leave it out"
        ) from err
    return SummaryWriter(folder, purge_step=after + 1 if after else None)
