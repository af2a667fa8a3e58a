"""Photos at URLs, through fsspec: `https://`, `http://`, `s3://`, `gs://`; the extra `remote`.

Nothing is fetched unless a URL was named. A photo's URL is its path, here and everywhere. A URL
that ends in "/" is a folder: of a web server, the page there, whose links below the URL are
followed; of a store of objects, the keys that begin so (there it need not end in "/"). Archives and
videos are not read from afar. What is fetched is streamed, and ends at `photos.max_bytes`; an error
that may pass is tried again, then recorded as one that the next run tries again.

Credentials are not put into URLs, which are stored: the libraries find them in the environment,
`~/.netrc` or their own files.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from html.parser import HTMLParser
from typing import Any, TypeVar
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from facesearch.errors import PhotoError, Reason, UsageError
from facesearch.settings import PhotoLimits

_URL = re.compile(r"(https?|s3|gs):/{1,2}(?=[^/])(.*)", re.DOTALL | re.IGNORECASE)
SILENCE_S = 30.0
"""A server that says nothing for so long does not answer."""
PAUSES_S = (0.5, 2.0)
"""Before the second attempt, and the third."""
_MOST_PAGE = 16 * 1024 * 1024
"""Bytes of a page of links."""
_CHUNK = 1024 * 1024
_REMEMBERED = 8192
"""Objects whose size and time are kept from the listing, so that they need not be asked for."""

T = TypeVar("T")


def url_of(path: str | os.PathLike[str]) -> str | None:
    """The URL that a path is, even where "//" became "/" in it; None if it is none."""
    match = _URL.fullmatch(os.fspath(path))
    return f"{match[1].lower()}://{match[2]}" if match else None


def absolute(path: str | os.PathLike[str]) -> str:
    """A path made absolute; a URL as it is."""
    return url_of(path) or os.path.abspath(path)


def require(url: str) -> None:
    """Check that a URL can be read here.

    Raises:
        UsageError: the extra is not installed, or the URL holds a password.
    """
    parts = urlsplit(url)
    if parts.password or (parts.username and parts.scheme in {"http", "https"}):
        raise UsageError("a URL with a password in it would be stored; put it into ~/.netrc")
    _system(parts.scheme)


@lru_cache
def _system(scheme: str) -> Any:
    """Fsspec's file system for a scheme."""
    try:
        import fsspec  # type: ignore[import-untyped]

        if scheme in {"http", "https"}:
            import aiohttp

            waits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
            options = {"timeout": waits, "trust_env": True}
            return fsspec.filesystem(scheme, client_kwargs=options, use_listings_cache=False)
        return fsspec.filesystem(scheme, use_listings_cache=False)
    except ImportError as err:
        needs = f"{scheme}:// needs an extra: pip install 'facesearch[remote]'"
        raise UsageError(f"{needs} ({err})") from err


def names(url: str) -> Iterator[tuple[str, bool] | PhotoError]:
    """What lies in a folder: URLs in order, each with whether it is a folder; or why none is told.

    A URL that is no folder gives itself.
    """
    try:
        if urlsplit(url).scheme in {"http", "https"}:
            found = _links(url) if urlsplit(url).path.endswith("/") else [(url, False)]
        else:
            found = _objects(url)
    except PhotoError as err:
        yield err
        return
    yield from found


def read(url: str, limits: PhotoLimits) -> bytes:
    """The bytes of a photo.

    Raises:
        PhotoError: MISSING, UNREADABLE, EMPTY, TOO_MANY_BYTES or TIMEOUT.
    """
    data = _patiently(partial(_fetch, url, limits.max_bytes), url)
    if len(data) > limits.max_bytes:
        detail = f"more than photos.max_bytes ({limits.max_bytes:,} bytes)"
        raise PhotoError(Reason.TOO_MANY_BYTES, url, detail)
    if not data:
        raise PhotoError(Reason.EMPTY, url, "empty file (zero bytes)")
    return data


def stamp(url: str) -> tuple[int, int]:
    """(bytes, modification time in ns) by what the server says; of no time, its entity tag.

    Raises:
        PhotoError: MISSING, UNREADABLE or TIMEOUT.
    """
    with _lock:
        if (known := _listed.pop(url, None)) is not None:
            return known
    return _stamp(_patiently(lambda: _system(urlsplit(url).scheme).info(url), url))


_listed: OrderedDict[str, tuple[int, int]] = OrderedDict()
_lock = threading.Lock()


def _stamp(info: Mapping[str, Any]) -> tuple[int, int]:
    size = int(info.get("size") or 0)
    for key in ("LastModified", "last_modified", "updated", "mtime", "Last-Modified"):
        at = info.get(key)
        if isinstance(at, str):
            try:
                at = datetime.fromisoformat(at) if at[:1].isdigit() else parsedate_to_datetime(at)
            except ValueError:
                continue
        if isinstance(at, datetime):
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return size, round(at.timestamp()) * 10**9
    tag = str(info.get("ETag") or info.get("etag") or "")
    return size, int.from_bytes(hashlib.sha256(tag.encode()).digest()[:7]) if tag else 0


def _fetch(url: str, most: int) -> bytes:
    """The content, or a byte more than `most` of it."""
    system = _system(urlsplit(url).scheme)
    if urlsplit(url).scheme not in {"http", "https"}:
        data: bytes = system.cat_file(url, start=0, end=most + 1)
        return data
    chunks, total = [], 0
    # 0: streamed, whatever the server can; a size, that it be not asked for first
    with system.open(url, "rb", block_size=0, size=1) as stream:
        while total <= most and (chunk := stream.read(min(_CHUNK, most + 1 - total))):
            chunks.append(chunk)
            total += len(chunk)
    return b"".join(chunks)


def _objects(url: str) -> list[tuple[str, bool]]:
    scheme = urlsplit(url).scheme
    entries = _patiently(lambda: _system(scheme).ls(url, detail=True), url)
    found = []
    for entry in entries:
        name = f"{scheme}://{str(entry['name']).removeprefix(f'{scheme}://')}"
        folder = entry["type"] == "directory"
        if name.rstrip("/") == url.rstrip("/") and (folder or url.endswith("/")):
            continue  # the mark of an empty folder
        found.append((name, folder))
        if not folder:
            with _lock:
                _listed[name] = _stamp(entry)
                while len(_listed) > _REMEMBERED:
                    _listed.popitem(last=False)
    return sorted(found)


class _Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a link."""
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def _links(url: str) -> list[tuple[str, bool]]:
    """The links of a page that lead to what lies in its folder."""
    page = _patiently(partial(_fetch, url, _MOST_PAGE), url)
    parser = _Links()
    parser.feed(page[:_MOST_PAGE].decode("utf-8", "replace"))
    found = set()
    for link in parser.found:
        try:
            target = urldefrag(urljoin(url, link)).url
        except ValueError:
            continue
        below = target.removeprefix(url)
        if below and below != target and "?" not in below and ".." not in unquote(below):
            name, slash, _ = below.partition("/")
            found.add((url + name + slash, bool(slash)))
    return sorted(found)


def _patiently(operation: Callable[[], T], url: str) -> T:
    """The result of an operation, tried again where the reason may pass.

    Raises:
        PhotoError: MISSING, UNREADABLE or TIMEOUT.
    """
    for pause in (*PAUSES_S, None):
        try:
            return operation()
        except (UsageError, PhotoError):
            raise
        except Exception as raised:  # noqa: BLE001 - whatever lies behind fsspec raises
            # of HTTP, fsspec calls whatever goes wrong with a HEAD "not found", from what it was
            web = isinstance(raised, FileNotFoundError) and url.startswith("http")
            hidden = raised.__cause__ if web else None
            err = hidden if isinstance(hidden, Exception) else raised
            if isinstance(err, FileNotFoundError):
                raise PhotoError(Reason.MISSING, url, "no such file on the server") from err
            if isinstance(err, PermissionError):
                raise PhotoError(Reason.UNREADABLE, url, "the server refuses it") from err
            status = getattr(err, "status", 0)
            if 400 <= status < 500 and status not in {408, 425, 429}:
                gone = Reason.MISSING if status in {404, 410} else Reason.UNREADABLE
                raise PhotoError(gone, url, f"the server answers {status}") from err
            if pause is None:
                late = isinstance(err, TimeoutError)
                words = f"answers {status}" if status else " ".join(str(err).split())
                words = "does not answer" if late else words or type(err).__name__
                reason = Reason.TIMEOUT if late else Reason.UNREADABLE
                raise PhotoError(reason, url, f"the server: {words}, tried 3 times") from err
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")
