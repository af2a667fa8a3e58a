"""Plots as SVG text: pure functions of numbers, for a page that stands alone.

Colours come from the page's style sheet by class (`s0` to `s7` a series, `axis`, `grid`), so
that one picture serves light and dark. Every plot has a title and a description for screen readers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 62, 48
FONT = 13.0
LETTER = 0.56
"""Width of a letter as a share of the font's size, about."""
COLOURS = 8
"""Series of a plot that are told apart by colour; the next as many have hollow dots."""
ROW = 30
"""Height of a bar with its label."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis.

    Attributes:
        label: what it shows.
        low: its start.
        high: its end.
        log: whether it is logarithmic; `low` is above 0 then.
        text: how a tick is written.
    """

    label: str
    low: float
    high: float
    log: bool = False
    text: Callable[[float], str] = "{:g}".format

    def place(self, value: float) -> float:
        """Where a value lies, 0 at the start and 1 at the end; beyond them, at them."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def ticks(self, most: int = 7) -> list[float]:
        """Round values within the axis, ascending."""
        if not self.log:
            return _linear_ticks(self.low, self.high, most)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [
                float(f"{d}e{e}")
                for e in range(first, last + 1)
                for d in digits
                if self.low * 0.999 <= float(f"{d}e{e}") <= self.high * 1.001
            ]
            if len(found) <= most:
                return found
        return found[:: math.ceil(len(found) / most)]


@dataclass(frozen=True, slots=True)
class Series:
    """One curve.

    Attributes:
        name: for the legend.
        x: in the order in which points are joined; ascending where it has a band.
        y: one a value of x.
        low: lower end of its band, one a value of x; empty for no band.
        high: upper end.
        area: whether it is filled down to the axis.
        dots: whether its points are marked.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    area: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled point; without a y, a vertical line."""

    label: str
    x: float
    y: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar, or with ends, a point with its interval."""

    label: str
    value: float
    text: str
    ends: tuple[float, float] | None = None


def chart(
    title: str,
    about: str,
    axes: tuple[Axis, Axis],
    series: Sequence[Series],
    marks: Sequence[Mark] = (),
) -> str:
    """Curves over two axes, with a legend above them.

    Args:
        title: what it shows.
        about: what there is to see, for those who cannot.
        axes: of x and of y.
        series: curves, in the order of the legend.
        marks: labelled so that no label covers another, where there is room.
    """
    x_axis, y_axis = axes
    parts = [*_grid(x_axis, y_axis)]
    parts += [_band(s, n, axes) for n, s in enumerate(series) if s.low]
    parts += [_line(s, n, axes) for n, s in enumerate(series)]
    taken = _obstacles(series, marks, axes)
    for mark in marks:
        parts += _mark(mark, axes, taken)
    legend, lift = _legend([s.name for s in series])
    return _svg(title, about, HEIGHT, [*parts, *legend], lift)


def bars(title: str, about: str, label: str, rows: Sequence[Bar], high: float) -> str:
    """Horizontal bars from 0 to `high`, each below its label; points where a row has ends."""
    height = 12 + ROW * len(rows) * 1.4 + 40
    axis = Axis(label, 0.0, high or 1.0, text=rate)
    width = WIDTH - 20 - RIGHT

    def x(value: float) -> float:
        return 20 + width * axis.place(value)

    bottom = height - 40
    parts = [
        f'<line class="grid" x1="{x(t):.1f}" y1="8" x2="{x(t):.1f}" y2="{bottom:.1f}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">'
        f"{escape(axis.text(t))}</text>"
        for t in axis.ticks(5)
    ]
    parts.append(
        f'<text class="label" x="{20 + width:.1f}" y="{height - 5:.1f}" text-anchor="end">'
        f"{escape(label)}</text>"
    )
    for n, row in enumerate(rows):
        top = 12 + ROW * 1.4 * n
        parts.append(
            f'<text class="label" x="20" y="{top + 11:.1f}">{escape(row.label)}</text>'
            f'<text class="value" x="{20 + width:.1f}" y="{top + 11:.1f}" text-anchor="end">'
            f"{escape(row.text)}</text>"
        )
        middle = top + 24
        if row.ends is None:
            length = max(0.0, x(row.value) - 20)
            parts.append(
                f'<rect class="s0 fill" x="20" y="{middle - 7:.1f}" width="{length:.1f}" '
                'height="14" rx="2"/>'
            )
        else:
            low, end = (x(e) for e in row.ends)
            parts.append(
                f'<line class="s0 line" x1="{low:.1f}" y1="{middle:.1f}" x2="{end:.1f}" '
                f'y2="{middle:.1f}"/><circle class="s0 fill" cx="{x(row.value):.1f}" '
                f'cy="{middle:.1f}" r="5"/>'
            )
    return _svg(title, about, height, parts)


def rate(value: float) -> str:
    """A rate for people: percent, or a power of ten where that has too many zeros."""
    if value == 0 or abs(value) >= 0.0001:
        return f"{100 * value:.3g}\N{NO-BREAK SPACE}%"
    return f"{value:.0e}".replace("e-0", "e-")


def decade_below(value: float) -> float:
    """The greatest 1, 2 or 5 times a power of ten up to a value above 0."""
    power = float(10.0 ** math.floor(math.log10(value) + 1e-9))
    return max(d * power for d in (1.0, 2.0, 5.0) if d * power <= value * (1 + 1e-9))


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s * power for s in (1.0, 2.0, 5.0, 10.0) if span / (s * power) <= most)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _x(axis: Axis, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * axis.place(value)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * axis.place(value)


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    free = -math.inf
    for tick in x_axis.ticks():
        x, text = _x(x_axis, tick), x_axis.text(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        half = _width(text) / 2
        if x - half >= free:
            free = x + half + 6
            inside = min(x, WIDTH - half)  # where the last one is wider than the margin
            parts.append(
                f'<text class="tick" x="{inside:.1f}" y="{bottom + 17}" text-anchor="middle">'
                f"{escape(text)}</text>"
            )
    for tick in y_axis.ticks():
        y = _y(y_axis, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(y_axis.text(tick))}</text>"
        )
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    parts.append(
        f'<text class="label" x="{right}" y="{HEIGHT - 8}" text-anchor="end">'
        f"{escape(x_axis.label)}</text>"
        f'<text class="label" x="4" y="{TOP - 12}">{escape(y_axis.label)}</text>'
    )
    return parts


def _points(xs: Sequence[float], ys: Sequence[float], axes: tuple[Axis, Axis]) -> str:
    return " ".join(
        f"{_x(axes[0], x):.1f},{_y(axes[1], y):.1f}" for x, y in zip(xs, ys, strict=True)
    )


def _style(number: int) -> str:
    """The classes of a series."""
    return f"s{number % COLOURS}" + (" again" if number >= COLOURS else "")


def _band(series: Series, number: int, axes: tuple[Axis, Axis]) -> str:
    there = _points(series.x, series.high, axes)
    back = _points(series.x[::-1], series.low[::-1], axes)
    return f'<polygon class="{_style(number)} band" points="{there} {back}"/>'


def _line(series: Series, number: int, axes: tuple[Axis, Axis]) -> str:
    points = _points(series.x, series.y, axes)
    line = f'<polyline class="{_style(number)} line" points="{points}"/>'
    if series.area and len(series.x):
        bottom = HEIGHT - BOTTOM
        first, last = _x(axes[0], series.x[0]), _x(axes[0], series.x[-1])
        line = (
            f'<polygon class="{_style(number)} band" '
            f'points="{first:.1f},{bottom} {points} {last:.1f},{bottom}"/>{line}'
        )
    if series.dots:
        line += "".join(
            f'<circle class="{_style(number)} fill" cx="{_x(axes[0], x):.1f}" '
            f'cy="{_y(axes[1], y):.1f}" r="3.5"/>'
            for x, y in zip(series.x, series.y, strict=True)
        )
    return line


def _mark(mark: Mark, axes: tuple[Axis, Axis], taken: list[Box]) -> list[str]:
    """The mark and its label, at the first place that is free."""
    x = _x(axes[0], mark.x)
    y = TOP + 8.0 if mark.y is None else _y(axes[1], mark.y)
    width, height = _width(mark.label), FONT + 3
    spots = [
        (x + dx if dx > 0 else x + dx - width, y + dy)
        for dy, dx in sorted(
            ((dy, dx) for dy in range(-96, 84, 6) for dx in (8, 20, 40, -8, -20, -40)),
            key=lambda d: math.hypot(d[0] + height / 2, d[1]) + (4 if d[1] < 0 else 0),
        )
    ]
    boxes = [(left, top, left + width, top + height) for left, top in spots]
    inside = [
        b
        for b in boxes
        if b[0] >= LEFT + 2 and b[2] <= WIDTH - 2 and b[1] >= TOP and b[3] <= HEIGHT - BOTTOM
    ]
    free = [b for b in inside if not any(_overlap(b, other) for other in taken)]
    box = (free or inside or boxes)[0]
    taken.append(box)
    text = (
        f'<text class="mark-text" x="{box[0]:.1f}" y="{box[3] - 4:.1f}">{escape(mark.label)}</text>'
    )
    if mark.y is None:
        return [
            f'<line class="mark" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>',
            text,
        ]
    # from the dot to the nearest corner of its label, where that is not beside it
    end = min(max(x, box[0]), box[2]), min(max(y, box[1] + 2), box[3])
    lead = ""
    if math.hypot(end[0] - x, end[1] - y) > 9:
        lead = f'<line class="lead" x1="{x:.1f}" y1="{y:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
    return [lead, f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>', text]


def _obstacles(
    series: Sequence[Series], marks: Sequence[Mark], axes: tuple[Axis, Axis]
) -> list[Box]:
    """What labels keep clear of: the curves, and the marked points."""
    boxes = [
        (_x(axes[0], m.x) - 7, _y(axes[1], m.y) - 7, _x(axes[0], m.x) + 7, _y(axes[1], m.y) + 7)
        for m in marks
        if m.y is not None
    ]
    for one in series:
        places = [(_x(axes[0], x), _y(axes[1], y)) for x, y in zip(one.x, one.y, strict=True)]
        for (x1, y1), (x2, y2) in pairwise(places):
            steps = max(1, math.ceil(math.hypot(x2 - x1, y2 - y1) / 4))
            for n in range(steps + 1):
                x, y = x1 + (x2 - x1) * n / steps, y1 + (y2 - y1) * n / steps
                boxes.append((x - 2, y - 2, x + 2, y + 2))
    return boxes


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(names: Sequence[str]) -> tuple[list[str], int]:
    """The legend, and how far it reaches above the plot: beyond two lines it grows upwards."""
    places, x, line = [], 4.0, 0
    for number, name in enumerate(names):
        if not name:
            continue
        if x > 4 and x + 22 + _width(name) > WIDTH:
            x, line = 4.0, line + 1
        places.append((_style(number), name, x, line))
        x += 19 + _width(name) + 14
    lift = 18 * max(0, line - 1)
    parts = []
    for style, name, x, row in places:
        y = 14.0 + 18 * row - lift
        parts.append(
            f'<rect class="{style} fill" x="{x:.1f}" y="{y - 9:.1f}" width="14" height="8" '
            f'rx="2"/><text class="label" x="{x + 19:.1f}" y="{y:.1f}">{escape(name)}</text>'
        )
    return parts, lift


def _width(text: str) -> float:
    return LETTER * FONT * len(text)


def _svg(title: str, about: str, height: float, parts: Sequence[str], lift: int = 0) -> str:
    name = re.sub("[^a-z0-9]+", "-", title.lower())  # titles differ within a page
    return (
        f'<svg viewBox="0 {-lift} {WIDTH} {height + lift:.0f}" role="img" '
        f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(about)}</desc>{"".join(parts)}</svg>'
    )


_STYLE = (
    "svg{--ink:#1c2128;--soft:#59636e;--rule:#d8dde3;--paper:#fff;--c0:#1f6fb2;--c1:#c4501b;"
    "--c2:#2c8a4b;--c3:#8e5ea2;--c4:#a87400;--c5:#4d4d4d;--c6:#00868b;--c7:#b5317e;"
    "--alarm:#b3261e;font-family:system-ui,'DejaVu Sans',sans-serif}"
    "text{font-size:13px;fill:var(--ink)}text.tick{font-size:12px;fill:var(--soft)}"
    ".grid{stroke:var(--rule)}.axis{stroke:var(--soft);fill:none}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round;stroke:var(--c)}"
    ".fill{fill:var(--c)}.band{fill:var(--c);opacity:.18}"
    ".mark{stroke:var(--alarm);stroke-dasharray:4 3}.lead{stroke:var(--alarm)}"
    ".dot{fill:var(--paper);stroke:var(--alarm);stroke-width:2.5}"
    + "".join(f".s{n}{{--c:var(--c{n})}}" for n in range(COLOURS))
)


def standalone(plots: Sequence[str]) -> str:
    """Plots below each other as one SVG file, on white, with the colours of the page's light form.

    Args:
        plots: what `chart` or `bars` gave.
    """
    parts, y = [], 0.0
    for plot in plots:
        sized = re.match(r'<svg viewBox="0 \S+ \d+ (\d+)"', plot)
        if sized is None:
            raise ValueError("not a plot of this module")
        height = float(sized[1])
        place = f'<svg x="0" y="{y:.0f}" width="{WIDTH}" height="{height:.0f}"'
        parts.append(plot.replace("<svg", place, 1))
        y += height + 12
    height = max(1.0, y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}"><style>{_STYLE}</style>'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
