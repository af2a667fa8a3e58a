"""The search bench as one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from facesearch.evaluate.markup import document, paragraph, section, side_by_side, table
from facesearch.evaluate.plot import Axis, Series, chart, rate
from facesearch.index.tune import Measured, Tuning

_HEADS = (
    *("recipe", "parameters", "faces", "loss", "95 % interval", "recall@10", "p50 ms"),
    *("p95 ms", "p99 ms", "queries/s", "build s", "bytes disk", "bytes RAM"),
)


def as_html(result: Tuning) -> str:
    """The report."""
    least = 1 / (2 * result.identified)
    loss = _plot(result.indexes, "identification loss", lambda r: r.identification_loss, least)
    missing = _plot(result.indexes, "1 - recall@10", lambda r: 1 - r.recall_at_10, 1e-4)
    chosen = result.indexes.index(result.chosen)
    parts = [
        table("", _HEADS, map(_row, result.indexes), chosen),
        section("time", "What is lost against time", side_by_side(loss, missing)),
    ]
    if result.dropped:
        given_up = table("", _HEADS, map(_row, result.dropped))
        parts.append(section("dropped", "Given up on a sample", given_up))
    about = (
        f"Probes: {result.probes:,} ({result.origin}); threshold {result.threshold:.3f}; losses "
        f"are of the {result.identified:,} identifications that exact search makes on the half "
        f"of the probes that did not choose. Target: loss at most {result.target.max_loss:.3%}."
    )
    return document(
        f"Search bench: {result.rows:,} faces of {result.dim} dimensions",
        paragraph(f"{result.why}.") + paragraph(about),
        "".join(parts),
    )


def _row(row: Measured) -> tuple[str, ...]:
    low, high = row.loss_interval
    return (
        row.recipe,
        ", ".join(f"{key} {value}" for key, value in row.params.items()),
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


def _plot(
    rows: Sequence[Measured], label: str, value: Callable[[Measured], float], least: float
) -> str:
    """Points by recipe, joined; both axes logarithmic; what is 0 is drawn at `least`."""
    points = [(max(r.single_ms.p50, 1e-3), max(value(r), least), r.recipe) for r in rows]
    axes = (
        _axis("milliseconds a query (median)", [x for x, _, _ in points], "{:g}".format),
        _axis(label, [y for _, y, _ in points], rate),
    )
    series = []
    for name in dict.fromkeys(r.recipe for r in rows):
        own = [(x, y) for x, y, recipe in points if recipe == name]
        series.append(Series(name, [x for x, _ in own], [y for _, y in own], dots=True))
    about = "; ".join(f"{r.recipe}: {rate(value(r))} in {r.single_ms.p50:.2g} ms" for r in rows)
    return chart(f"{label} against time", about, axes, series)


def _axis(label: str, values: Sequence[float], text: Callable[[float], str]) -> Axis:
    """A logarithmic axis of whole decades around the values."""
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    return Axis(label, 10.0**low, 10.0**high, True, text)
