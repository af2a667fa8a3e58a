"""Pieces of HTML: text in, escaped markup out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path, PurePath

STYLE = Path(__file__).with_name("report.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for a page: nothing but what is in it."""


def document(title: str, header: str, main: str, footer: str = "") -> str:
    """A whole page that needs nothing else: its title, what stands below that, and the rest."""
    end = f'<footer><p class="soft">{escape(footer)}</p></footer>' if footer else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text('utf-8')}</style></head>"
        f"<body><header><h1>{escape(title)}</h1>{header}</header><main>{main}</main>{end}"
        "</body></html>\n"
    )


def section(name: str, title: str, body: str) -> str:
    """A section that links can lead to."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{body}</section>'


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>"


def side_by_side(*parts: str) -> str:
    """Parts beside each other where there is room; empty ones are left out."""
    return '<div class="pair">' + "".join(f"<div>{p}</div>" for p in parts if p) + "</div>"


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    chosen: int | None = None,
) -> str:
    """A table; of a cell of two lines the second, the interval, is set smaller.

    Args:
        caption: above it; empty for none.
        columns: their heads.
        rows: of cells.
        chosen: number of the row that is set off.
    """
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in columns)
    body = "".join(
        ('<tr class="chosen">' if number == chosen else "<tr>") + "".join(map(_cell, row)) + "</tr>"
        for number, row in enumerate(rows)
    )
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0"><table>{about}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    first, _, second = text.partition("\n")
    return f"<td>{escape(first)}" + (f"<small>{escape(second)}</small>" if second else "") + "</td>"


def plain(tables: str) -> str:
    """Tables of words rather than numbers: their columns begin at the left."""
    return f'<div class="words">{tables}</div>'


def figure(text: str, picture: str | None) -> str:
    """A picture with a line below it; an empty box where there is none."""
    image = (
        f'<img src="{picture}" alt="{escape(text)}">' if picture else '<div class="blank"></div>'
    )
    line = escape(text).replace("_", "_<wbr>")  # where a name may be broken
    return f"<figure>{image}<figcaption>{line}</figcaption></figure>"


def item(shown: Sequence[str], what: str, paths: Iterable[str]) -> str:
    """Pictures (as `figure` makes them) beside each other, what they are, and their files."""
    names = " · ".join(escape("/".join(PurePath(p).parts[-2:])) for p in paths if p)
    return (
        f'<li><div class="row">{"".join(shown)}</div>{escape(what)}'
        f'<div class="path">{names}</div></li>'
    )


def faces(title: str, items: Sequence[str]) -> str:
    """A list of items under a title."""
    if not items:
        return f"<h3>{escape(title)}</h3>" + paragraph("None.")
    return f'<h3>{escape(title)}</h3><ul class="faces">{"".join(items)}</ul>'
