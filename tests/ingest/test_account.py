"""The report of an ingestion, in HTML and Markdown, of files with unpleasant names."""

from __future__ import annotations

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from facesearch import Engine
from facesearch.errors import LibraryError, UsageError
from facesearch.ingest.account import as_html, as_markdown, require_suffix, write

NASTY = "<script>|`*\n.jpg"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_it_tells_what_happened(demo_photos: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    photo = next((demo_photos / "people").rglob("*.jpg"))
    shutil.copy(photo, album / "a.jpg")
    shutil.copy(photo, album / "b.jpg")
    (album / NASTY).write_bytes(photo.read_bytes()[:2000])
    for i in range(7):
        (album / f"{i}.png").write_text("no photo")
    Path(os.fsdecode(os.fsencode(album) + b"/\xff.jpg")).write_bytes(b"")
    (album / "notes.txt").touch()
    with Engine.create(tmp_path / "library", embed_device="cpu") as engine:
        report = engine.ingest([album])
        assert (report.photos, report.duplicates, report.failed) == (1, 1, 9)
        account = engine.account(report)
    assert account.states == {"done": 2, "failed": 9}
    assert [(c.reason, c.files, len(c.examples)) for c in account.causes] == [
        ("not_an_image", 7, 5),
        ("empty", 1, 1),
        ("truncated", 1, 1),
    ]
    html, markdown = as_html(account), as_markdown(account)
    parser = Tags()
    parser.feed(html)
    assert {"table", "section", "h1"} <= set(parser.seen)
    assert "script" not in parser.seen
    assert "http" not in html.replace("http-equiv", "")
    for text in (html, markdown):
        text.encode()  # no surrogates
        plain = text.replace("\\", "")
        assert str(album / "a.jpg").replace("\\", "") in plain
        assert "1 .txt" in plain
        assert "xff.jpg" in plain
    cells = [line.count("|") - line.count("\\|") for line in markdown.split("\n") if "|" in line]
    assert set(cells) <= {3, 5}  # no name has broken a table
    assert re.search(r"\| failed \| 9 \|", markdown)
    write(account, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == html
    write(account, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == markdown
    with pytest.raises(LibraryError, match="page"):
        write(account, tmp_path / "nowhere" / "page.md")
    with pytest.raises(UsageError, match=r"\.html or \.md"):
        require_suffix(tmp_path / "page.pdf")
    with pytest.raises(UsageError, match="no such folder"):
        require_suffix(tmp_path / "nowhere" / "page.md")
