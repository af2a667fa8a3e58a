"""Finding photos in folders and archives: streaming, in a fixed order, nothing dropped in silence.

A walk holds the names of the folders it stands in and one (device, inode) pair a folder visited,
never a list of files, so 10^8 photos need no more memory than the largest folder, or the listing of
the largest zip or tar archive.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from facesearch.errors import PhotoError, Reason, UsageError
from facesearch.photos import archive, raw, remote
from facesearch.photos.read import os_detail, os_reason
from facesearch.values import Failure

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_LOSSLESS = (".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".gif")
_VIDEO = (".mp4", ".m4v", ".mov", ".mkv", ".avi")
_UNSUPPORTED = (".avif", ".jxl", ".jp2", ".psd")
"""Photos all the same: each becomes a failure with the reason, not a file passed over."""
SUFFIXES = frozenset(
    (*_JPEG, *_LOSSLESS, ".webp", ".heic", ".heif", *raw.SUFFIXES, *_VIDEO, *_UNSUPPORTED)
)
"""What a file in a folder must end in, in lower case, to be taken for a photo or a video."""

_LONGEST_URL = 2000

HIDDEN = "(hidden)"
NO_SUFFIX = "(no suffix)"
SPECIAL = "(special file)"
SEEN = "(folder seen before)"


@dataclass(frozen=True, slots=True)
class Found:
    """A file to be read as a photo, or its URL."""

    path: Path | str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something in a folder that is passed over.

    Attributes:
        path: the file or folder.
        suffix: its suffix in lower case, or what else it is, in brackets: `HIDDEN` (the name starts
            with a dot; a hidden folder counts as one), `NO_SUFFIX`, `SPECIAL` (a pipe, socket or
            device), `SEEN` (a folder reached a second time, through a link or another source).
    """

    path: Path | str
    suffix: str


def find(sources: Iterable[Path | str]) -> Iterator[Found | Ignored | Failure]:
    """Every photo under `sources`: folders are walked recursively, files are taken as they are.

    Names are visited in code point order, depth first, so the order is the same at every run.
    Links are followed, and each folder is visited once, however often it is reached. A file
    that is named as a source is yielded whatever it is called. Archives (`archive.SUFFIXES`) are
    read like folders, wherever they are met.

    Args:
        sources: files, folders, members of archives (`a.zip!/b`, a file or folder in it), URLs and
            patterns: `*`, `?` and `[...]` stand for parts of a name, `**` for any folders. Held in
            memory, unlike what is found in them.

    Yields:
        `Found` for a photo; `Ignored` for everything else in a folder; `Failure` for a folder or
        archive that cannot be listed, what in it cannot be read, or a link that leads nowhere,
        after which the walk goes on.

    Raises:
        UsageError: a source does not exist, a pattern fits nothing, or a URL cannot be read here.
            Raised by the call, before anything is yielded.
    """
    return _walk([root for source in sources for root in _roots(source)])


def find_listed(paths: Iterable[str]) -> Iterator[Found | Ignored | Failure]:
    """As `find`, for a list of any length that is read as it is needed.

    A path that does not exist is a `Failure`; patterns are not expanded.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        yield from _walk_root(_Root(Path(path), url=remote.url_of(path)), seen)


@dataclass(frozen=True, slots=True)
class _Root:
    """Where a walk starts.

    Attributes:
        path: a file or folder.
        inside: the member, or folder of members, of the archive at `path` that is meant.
        wanted: what follows `path` in the paths that are taken; None for all.
        url: the URL that is meant instead of a path.
    """

    path: Path
    inside: str = ""
    wanted: re.Pattern[str] | None = None
    url: str | None = None


def _roots(named: Path | str) -> list[_Root]:
    """What a source named by the user stands for."""
    name, source = os.fspath(named), Path(named)
    url = remote.url_of(name)
    if url and not os.path.lexists(name):
        remote.require(url)
        return [_Root(source, url=url)]
    try:
        source.stat()
        return [_Root(source)]
    except (FileNotFoundError, NotADirectoryError, ValueError) as err:
        if inside := archive.split(name):
            return [_Root(Path(inside[0]), inside[1])]
        if not glob.has_magic(name):
            raise UsageError(f"{source}: no such file or folder; check the path") from err
    except OSError:
        return [_Root(source)]  # there, but not to be looked at: recorded when the walk gets to it
    start, deep, rest = name.partition("**")
    roots = [Path(found) for found in sorted(glob.glob(start.rstrip("/") or "."))]
    wanted = re.compile(_any_depth(deep + rest)) if deep else None
    if not roots:
        raise UsageError(f"{source}: nothing fits this pattern; check it")
    return [_Root(root, wanted=wanted) for root in roots]


def _any_depth(pattern: str) -> str:
    """A regular expression for the rest of a pattern, from its first `**` on."""
    parts = pattern.strip("/").split("/")
    names = ("(?:/[^/]+)*" if part == "**" else "/" + _TOKEN.sub(_token, part) for part in parts)
    return "".join(names) + "(?:/.*)?"


_TOKEN = re.compile(r"\[!?\]?[^]]*\]|.", re.DOTALL)


def _token(match: re.Match[str]) -> str:
    token = match[0]
    if len(token) > 1:  # a set of characters
        return fnmatch.translate(token).removeprefix("(?s:")[: -len(r")\Z")]
    return {"*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token))


def _walk(roots: list[_Root]) -> Iterator[Found | Ignored | Failure]:
    seen: set[tuple[int, int]] = set()
    for root in roots:
        yield from _walk_root(root, seen)


def _walk_root(root: _Root, seen: set[tuple[int, int]]) -> Iterator[Found | Ignored | Failure]:
    if root.url and not os.path.lexists(root.path):
        yield from _walk_url(root.url)
    elif os.path.isdir(root.path):
        for item in _walk_folder(root.path, seen):
            below = os.fspath(item.path)[len(os.fspath(root.path)) :]
            if root.wanted is None or isinstance(item, Failure) or root.wanted.fullmatch(below):
                yield item
    elif archive.is_archive(root.path.name) and root.path.exists():
        yield from _walk_archive(root.path, root.inside)
    elif (inside := archive.split(os.fspath(root.path))) and not os.path.lexists(root.path):
        yield from _walk_archive(Path(inside[0]), inside[1])
    else:
        yield Found(root.path)


def _walk_folder(root: Path, seen: set[tuple[int, int]]) -> Iterator[Found | Ignored | Failure]:
    pending: list[Path | os.DirEntry[str]] = [root]
    while pending:
        here = pending.pop()
        path = Path(here)
        try:
            if here is not root and path.name.startswith("."):
                yield Ignored(path, HIDDEN)
            elif here.is_dir():
                status = path.stat()
                identity = status.st_dev, status.st_ino
                if identity in seen:
                    yield Ignored(path, SEEN)
                else:
                    seen.add(identity)
                    with os.scandir(path) as entries:
                        pending += sorted(entries, key=lambda entry: entry.name, reverse=True)
            elif (suffix := path.suffix.lower()) not in SUFFIXES and not archive.is_archive(
                path.name
            ):
                yield Ignored(path, suffix or NO_SUFFIX)
            elif here.is_file():
                yield from (Found(path),) if suffix in SUFFIXES else _walk_archive(path)
            elif os.path.exists(path):
                yield Ignored(path, SPECIAL)
            else:
                yield Failure(os.fspath(path), Reason.MISSING, "vanished, or a link to nothing")
        except OSError as err:
            yield Failure(os.fspath(path), os_reason(err), os_detail(err))


def _walk_url(url: str) -> Iterator[Found | Ignored | Failure]:
    """What lies at a URL: itself, or everything in the folder that it is."""
    pending: list[tuple[str, bool]] = [(url, True)]
    while pending:
        here, folder = pending.pop()
        name = unquote(here.rstrip("/").rpartition("/")[2])
        suffix = os.path.splitext(name)[1].lower()
        if here != url and name.startswith("."):
            yield Ignored(here, HIDDEN)
        elif len(here) > _LONGEST_URL:  # a server that invents folders in folders
            yield Failure(here, Reason.UNSUPPORTED.value, "the URL is too long")
        elif folder:
            entries = list(remote.names(here))
            for entry in entries:
                if isinstance(entry, PhotoError):
                    yield Failure(entry.where, entry.reason.value, entry.detail)
                elif entry == (url, False):
                    yield Found(url)
            pending += [e for e in reversed(entries) if isinstance(e, tuple) and e[0] != here]
        elif archive.is_archive(name) or suffix in _VIDEO:
            detail = "archives and videos are not read from a URL; fetch it"
            yield Failure(here, Reason.UNSUPPORTED.value, detail)
        elif suffix in SUFFIXES:
            yield Found(here)
        else:
            yield Ignored(here, suffix or NO_SUFFIX)


def _walk_archive(path: Path, inside: str = "") -> Iterator[Found | Ignored | Failure]:
    """The members of an archive: all, or one, or those in a folder in it."""
    try:
        listed = archive.opened(os.fspath(path))
    except PhotoError as err:
        yield Failure(err.where, err.reason.value, err.detail)
        return
    folder = inside.rstrip("/") + "/" if inside else ""
    found = False
    for name in listed.sizes:
        if not (name == inside or name.startswith(folder)):
            continue
        found = True
        member = Path(f"{path}{archive.SEPARATOR}{name}")
        suffix = member.suffix.lower()
        if name == inside:
            yield Found(member)
        elif any(part.startswith(".") for part in name.split("/")):
            yield Ignored(member, HIDDEN)
        elif archive.is_archive(name):
            detail = "an archive within an archive is not opened; unpack the outer one"
            yield Failure(os.fspath(member), Reason.UNSUPPORTED, detail)
        elif suffix in _VIDEO:
            detail = "a video within an archive is not read; unpack it"
            yield Failure(os.fspath(member), Reason.UNSUPPORTED, detail)
        elif suffix in SUFFIXES:
            yield Found(member)
        else:
            yield Ignored(member, suffix or NO_SUFFIX)
    if inside and not found:
        detail = "no such member in the archive"
        yield Failure(f"{path}{archive.SEPARATOR}{inside}", Reason.MISSING, detail)
    for failure in () if inside else listed.failures:
        yield Failure(failure.where, failure.reason.value, failure.detail)
