"""File paths as text that any database can hold, and back."""

from __future__ import annotations

import os
from urllib.parse import quote_from_bytes, unquote_to_bytes

_RAW = "raw:"


def to_text(path: str) -> str:
    """A path as valid UTF-8 text.

    Paths that are not valid UTF-8 (Python holds them with surrogate escapes) become "raw:" and the
    percent-encoded bytes; every other path stands as it is. Absolute paths never begin with "raw:",
    so `from_text` always knows.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return _RAW + quote_from_bytes(os.fsencode(path))
    return path


def as_name(name: str) -> str:
    """A file's name as valid text for people: what is no UTF-8 in it is escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def prefixes(path: str) -> list[str]:
    """What the texts of all paths in a folder, an archive or a video begin with."""
    ends = "/", "!/", "#t="
    return [text for end in ends for text in beginnings(path.rstrip("/"), end)]


def beginnings(path: str, end: str) -> tuple[str, ...]:
    """What the texts of all paths that go on so after `path` begin with: valid ones and "raw:"."""
    raw = _RAW + quote_from_bytes(os.fsencode(path + end))
    text = to_text(path + end)
    return (raw,) if text == raw else (text, raw)


def from_text(text: str) -> str:
    """The path that `to_text` was given."""
    if text.startswith(_RAW):
        return os.fsdecode(unquote_to_bytes(text[len(_RAW) :]))
    return text
