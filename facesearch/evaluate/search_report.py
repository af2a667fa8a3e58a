"""The search bench as one HTML file that needs nothing else: tables, and plots in SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from facesearch.index.tune import Measured, Tuning

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 60
_COLOURS = ("#1b6ca8", "#c44536", "#2a9d55", "#8e5ea2", "#d08c00", "#4d4d4d", "#00868b", "#b5317e")
_HEADS = (
    *("recipe", "parameters", "faces", "loss", "95 % interval", "recall@10", "p50 ms"),
    *("p95 ms", "p99 ms", "queries/s", "build s", "bytes disk", "bytes RAM"),
)
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse}
td,th{padding:.2em .7em;border-bottom:1px solid #ccc;text-align:right}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2){text-align:left}
tr.chosen{background:#e7f3ea;font-weight:600}svg{max-width:100%}"""


def as_html(result: Tuning) -> str:
    """The report."""
    rows = "".join(_row(row, row == result.chosen) for row in result.indexes)
    dropped = "".join(_row(row, False) for row in result.dropped)
    least = 1 / (2 * result.identified)
    loss = _plot(result.indexes, "identification loss", lambda r: r.identification_loss, least)
    missing = _plot(result.indexes, "1 - recall@10", lambda r: 1 - r.recall_at_10, 1e-4)
    given_up = f"<h2>Given up on a sample</h2>{_table(dropped)}" if dropped else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>facesearch: search bench</title>
<style>{_STYLE}</style></head><body>
<h1>Search bench: {result.rows:,} faces of {result.dim} dimensions</h1>
<p>{escape(result.why)}.</p>
<p>Probes: {result.probes:,} ({escape(result.origin)}); threshold {result.threshold:.3f};
losses are of the {result.identified:,} identifications that exact search makes on the half of the
probes that did not choose. Target: loss at most {result.target.max_loss:.3%}.</p>
{_table(rows)}
<h2>Loss against time</h2>
{loss}
<h2>Missing from the 10 nearest against time</h2>
{missing}
{given_up}
</body></html>
"""


def _table(rows: str) -> str:
    heads = "".join(f"<th>{head}</th>" for head in _HEADS)
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _row(row: Measured, chosen: bool) -> str:
    low, high = row.loss_interval
    cells = (
        escape(row.recipe),
        escape(", ".join(f"{key} {value}" for key, value in row.params.items())),
        f"{row.rows:,}",
        f"{row.identification_loss:.2%}",
        f"{low:.2%} to {high:.2%}",
        f"{row.recall_at_10:.3f}",
        *(f"{ms:.2f}" for ms in (row.single_ms.p50, row.single_ms.p95, row.single_ms.p99)),
        f"{row.batch_qps:,.0f}",
        f"{row.build_s:.1f}",
        f"{row.bytes_per_face_disk:.0f}",
        f"{row.bytes_per_face_ram:.0f}",
    )
    mark = ' class="chosen"' if chosen else ""
    return f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _plot(
    rows: Sequence[Measured], label: str, value: Callable[[Measured], float], least: float
) -> str:
    """Points by recipe, joined; both axes logarithmic; what is 0 is drawn at `least`."""
    points = [(row, max(row.single_ms.p50, 1e-3), max(value(row), least)) for row in rows]
    x_low, x_high = _decades([x for _, x, _ in points])
    y_low, y_high = _decades([y for _, _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        inner = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
        return _MARGIN + across * inner[0], _HEIGHT - _MARGIN - up * inner[1]

    parts = [
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{_WIDTH - 2 * _MARGIN}" '
        f'height="{_HEIGHT - 2 * _MARGIN}" fill="none" stroke="#999"/>'
    ]
    for power in range(x_low, x_high + 1):
        x, _ = place(10.0**power, 10.0**y_low)
        parts.append(_text(x, _HEIGHT - _MARGIN + 18, f"{10.0**power:g}", "middle"))
    for power in range(y_low, y_high + 1):
        _, y = place(10.0**x_low, 10.0**power)
        parts.append(_text(_MARGIN - 6, y + 4, f"{10.0**power:g}", "end"))
    parts.append(_text(_WIDTH / 2, _HEIGHT - 15, "milliseconds a query (median)", "middle"))
    parts.append(_text(_MARGIN, _MARGIN - 12, label, "start"))
    for number, name in enumerate(dict.fromkeys(row.recipe for row in rows)):
        colour = _COLOURS[number % len(_COLOURS)]
        own = [place(x, y) for row, x, y in points if row.recipe == name]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in own)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in own]
        parts.append(_text(own[-1][0] + 7, own[-1][1] - 6, escape(name), "start", colour))
    body = "".join(parts)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="12">{body}</svg>'


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low = math.floor(math.log10(min(values)))
    return low, max(low + 1, math.ceil(math.log10(max(values))))


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'
