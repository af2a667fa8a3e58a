"""Plots: valid SVG, right places, round ticks, labels that do not cover each other."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from facesearch.evaluate.plot import (
    BOTTOM,
    FONT,
    HEIGHT,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Bar,
    Mark,
    Series,
    bars,
    chart,
    decade_below,
    rate,
)


def texts(svg: ET.Element, kind: str) -> list[ET.Element]:
    return [e for e in svg.iter("text") if e.get("class") == kind]


def box(element: ET.Element) -> tuple[float, float, float, float]:
    """Where a text lies, by the size of its letters."""
    width = LETTER * FONT * len(element.text or "")
    x, y = float(element.get("x", "0")), float(element.get("y", "0"))
    left = x - {"end": width, "middle": width / 2}.get(element.get("text-anchor", ""), 0.0)
    return left, y - FONT + 2, left + width, y + 2


def apart(boxes: list[tuple[float, float, float, float]]) -> bool:
    return not any(
        a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        for n, a in enumerate(boxes)
        for b in boxes[n + 1 :]
    )


def drawn(marks: list[Mark]) -> ET.Element:
    axes = (Axis("x < y", 0.001, 1.0, log=True, text=rate), Axis("y & z", 0.0, 0.1, text=rate))
    xs = [0.001, 0.01, 0.1, 1.0]
    series = [
        Series("a <curve>", xs, [0.1, 0.05, 0.02, 0.0], [0.08, 0.04, 0.0, 0.0], [0.1] * 4),
        Series("another", xs, [0.02] * 4, dots=True),
    ]
    return ET.fromstring(chart("Title & all", "what is seen", axes, series, marks))


def test_points_lie_where_the_axes_say() -> None:
    svg = drawn([])
    first, second = svg.findall("polyline")
    points = [tuple(map(float, p.split(","))) for p in (first.get("points") or "").split()]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    third = (right - LEFT) / 3  # a decade
    expected = [
        (LEFT, TOP),
        (LEFT + third, (TOP + bottom) / 2),
        (LEFT + 2 * third, TOP + 0.8 * (bottom - TOP)),
        (right, bottom),
    ]
    for got, wanted in zip(points, expected, strict=True):
        assert got == pytest.approx(wanted, abs=0.06)
    assert len(svg.findall("polygon")) == 1  # one band
    assert second.get("class") == "s1 line"


def test_it_says_what_it_shows() -> None:
    svg = drawn([])
    assert svg.get("role") == "img"
    names = (svg.get("aria-labelledby") or "").split()
    said = {e.get("id"): e.text for e in svg if e.tag in ("title", "desc")}
    assert [said[n] for n in names] == ["Title & all", "what is seen"]
    assert {e.text for e in texts(svg, "label")} == {"x < y", "y & z", "a <curve>", "another"}


def test_labels_of_marks_do_not_cover_each_other() -> None:
    marks = [
        Mark(f"mark number {n}: T = 0.4{n}", 0.01 * 1.15**n, 0.05 - 0.002 * n) for n in range(5)
    ]
    svg = drawn(marks)
    boxes = [box(e) for e in texts(svg, "mark-text")]
    assert len(boxes) == 5
    assert apart(boxes)
    for left, top, right, bottom in boxes:
        assert left >= 0
        assert top >= 0
        assert right <= WIDTH
        assert bottom <= HEIGHT
    assert len(svg.findall("circle")) == 5 + 4  # and the dots of the second series


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0.0, 1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis("", 0.19, 0.99), [0.2, 0.4, 0.6, 0.8]),
        (Axis("", 0.985, 1.0), [0.985, 0.99, 0.995, 1.0]),
        (Axis("", 0.01, 1.0, log=True), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]),
        (Axis("", 0.003, 1.0, log=True), [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]),
        (Axis("", 1e-7, 1.0, log=True), [1e-7, 1e-5, 1e-3, 0.1]),
        (Axis("", 57, 1849, log=True), [100, 200, 500, 1000]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)
    places = [axis.place(t) for t in axis.ticks()]
    assert places == sorted(places)
    assert all(-1e-9 <= p <= 1 + 1e-9 for p in places)


@pytest.mark.parametrize("low", [1e-7, 0.001, 0.02, 0.3])
def test_tick_labels_do_not_cover_each_other(low: float) -> None:
    axes = (Axis("x", low, 1.0, log=True, text=rate), Axis("y", 0.0, 1.0, text=rate))
    svg = ET.fromstring(chart("t", "a", axes, [Series("s", [low, 1.0], [0.0, 1.0])]))
    ticks = texts(svg, "tick")
    assert len(ticks) >= 6
    assert apart([box(e) for e in ticks])


def test_bars_have_their_lengths() -> None:
    rows = [Bar("one", 0.5, "50 %"), Bar("two", 0.25, "25 %"), Bar("three", 0.1, "", (0.0, 0.2))]
    svg = ET.fromstring(bars("Bars", "three", "share", rows, 0.5))
    one, two = (float(r.get("width", "0")) for r in svg.findall("rect"))
    assert one == pytest.approx(WIDTH - 20 - RIGHT, abs=0.1)
    assert two == pytest.approx(one / 2, abs=0.1)
    assert len(svg.findall("circle")) == 1
    assert apart([box(e) for e in svg.iter("text")])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.0147, "1.47 %"), (0.0001, "0.01 %"), (3.49e-7, "3e-7")],
)
def test_rates_are_written_for_people(value: float, text: str) -> None:
    assert rate(value).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("value", "below"), [(0.001, 0.001), (0.0049, 0.002), (0.3, 0.2), (7e-6, 5e-6)]
)
def test_decade_below(value: float, below: float) -> None:
    assert decade_below(value) == pytest.approx(below)
