"""Photos at URLs, from a web server of the test's own."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from facesearch import Engine
from facesearch.errors import PhotoError, Reason, UsageError
from facesearch.photos import remote
from facesearch.photos.find import Found, Ignored, find
from facesearch.photos.place import read_place, stamp
from facesearch.photos.remote import url_of
from facesearch.settings import PhotoLimits
from facesearch.values import Failure

LIMITS = PhotoLimits()


class Handler(SimpleHTTPRequestHandler):
    """Files and listings; some paths misbehave, so many times as `wrong` says."""

    wrong: ClassVar[Counter[str]] = Counter()
    asked: ClassVar[Counter[str]] = Counter()
    over = threading.Event()

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        Handler.asked[f"{self.command} {name}"] += 1
        if name.startswith("busy") and Handler.wrong[name] > 0:
            Handler.wrong[name] -= 1
            self.send_error(503)
        elif name.startswith("secret"):
            self.send_error(403)
        elif name.startswith("broken"):  # less than it says
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"\xff\xd8\xff" + bytes(500))
        elif name.startswith("hangs") and self.command == "GET":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            Handler.over.wait(60)
        elif name.startswith("endless") and self.command == "GET":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(65536))
            except OSError:
                pass
        else:
            super().do_GET() if self.command == "GET" else super().do_HEAD()

    do_HEAD = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path, demo_photos: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and its URL."""
    root = tmp_path / "site"
    (root / "album" / "a folder").mkdir(parents=True)
    people = sorted((demo_photos / "people").rglob("*.jpg"))
    shutil.copy(people[0], root / "album" / "one.jpg")
    shutil.copy(people[1], root / "album" / "a folder" / "zwei #2?.jpg")
    (root / "album" / "notes.txt").write_text("x")
    (root / "album" / ".hidden.jpg").write_text("x")
    (root / "album" / "more.zip").write_text("x")
    Handler.wrong.clear()
    Handler.asked.clear()
    Handler.over.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}/"
    Handler.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))


def test_what_is_a_url() -> None:
    assert url_of("https://a/b//c.jpg") == "https://a/b//c.jpg"
    assert url_of(Path("https://a/b.jpg")) == "https://a/b.jpg"
    assert url_of("S3://bucket/key") == "s3://bucket/key"
    assert url_of("/https://a") is None
    assert url_of("https.jpg") is None
    assert url_of("file:///etc/passwd") is None
    with pytest.raises(UsageError, match="netrc"):
        find(["https://me:secret@a/b.jpg"])


def test_a_site_is_walked(site: tuple[Path, str]) -> None:
    _, url = site
    album = url + "album/"
    found = list(find([album]))
    assert found == [
        Ignored(album + ".hidden.jpg", "(hidden)"),
        Found(album + "a%20folder/zwei%20%232%3F.jpg"),
        Failure(
            album + "more.zip",
            "unsupported",
            "archives and videos are not read from a URL; fetch it",
        ),
        Ignored(album + "notes.txt", ".txt"),
        Found(album + "one.jpg"),
    ]
    assert list(find([album + "one.jpg"])) == [Found(album + "one.jpg")]
    (failure,) = find([url + "nowhere/"])
    assert isinstance(failure, Failure)
    assert (failure.path, failure.reason) == (url + "nowhere/", "missing")


def test_bytes_and_stamps(site: tuple[Path, str]) -> None:
    root, url = site
    path = root / "album" / "one.jpg"
    assert read_place(url + "album/one.jpg", LIMITS) == path.read_bytes()
    size, when = stamp(url + "album/one.jpg")
    assert size == path.stat().st_size
    assert when == int(path.stat().st_mtime) * 10**9
    odd = url + "album/a%20folder/zwei%20%232%3F.jpg"
    assert len(read_place(odd, LIMITS)) == stamp(odd)[0] > 1000


@pytest.mark.parametrize(
    ("name", "reason", "tries"),
    [
        ("none.jpg", Reason.MISSING, 1),
        ("secret.jpg", Reason.UNREADABLE, 1),
        ("busy.jpg", Reason.UNREADABLE, 3),
        ("broken.jpg", Reason.UNREADABLE, 3),
        ("endless.jpg", Reason.TOO_MANY_BYTES, 1),
    ],
)
def test_what_goes_wrong(site: tuple[Path, str], name: str, reason: Reason, tries: int) -> None:
    _, url = site
    Handler.wrong["busy.jpg"] = 100
    if reason is not Reason.TOO_MANY_BYTES and name != "broken.jpg":
        with pytest.raises(PhotoError) as caught:
            stamp(url + name)  # what is not missing must not be taken for it: it could be pruned
        assert caught.value.reason is reason
        Handler.asked.clear()
    with pytest.raises(PhotoError) as caught:
        read_place(url + name, PhotoLimits(max_bytes=1_000_000))
    assert caught.value.reason is reason
    assert Handler.asked[f"GET {name}"] == tries


def test_what_passes_is_tried_again(site: tuple[Path, str]) -> None:
    root, url = site
    shutil.copy(root / "album" / "one.jpg", root / "busy.jpg")
    Handler.wrong["busy.jpg"] = 2
    assert read_place(url + "busy.jpg", LIMITS) == (root / "busy.jpg").read_bytes()


def test_an_ingestion(site: tuple[Path, str], tmp_path: Path) -> None:
    root, url = site
    album = url + "album/"
    shutil.copy(root / "album" / "one.jpg", root / "album" / "busy.jpg")
    overrides = {"embed_device": "cpu", "ingest_max_seconds": 5.0}
    with Engine.create(tmp_path / "library", **overrides) as engine:
        Handler.wrong["busy.jpg"] = 100
        report = engine.ingest([album], listed=[url + "hangs.jpg"])
        assert (report.photos, report.faces) == (2, 2)
        assert report.ignored == {"(hidden)": 1, ".txt": 1}
        reasons = {failure.path: failure.reason for failure in engine.failures()}
        assert reasons == {
            album + "more.zip": "unsupported",
            album + "busy.jpg": "unreadable",
            url + "hangs.jpg": "timeout",
        }
        Handler.wrong.clear()
        again = engine.ingest([album])
        assert (again.photos, again.duplicates, again.unchanged) == (0, 1, 2)
        assert {f.path for f in engine.failures()} == {album + "more.zip", url + "hangs.jpg"}
        assert len(engine.landmarks(album + "one.jpg").faces) == 1
        (face, *_) = engine.search(album + "one.jpg")[0].matches
        assert face.face.photo in {album + "one.jpg", album + "busy.jpg"}
        os.remove(root / "album" / "one.jpg")
        os.remove(root / "album" / "busy.jpg")
        gone = engine.ingest([album], rescan=True)
        assert gone.gone == 2 or (gone.moved, gone.gone) == (1, 1)
        assert engine.prune([album])[0] == 1
        assert engine.counts().faces == 1


def test_a_store_of_objects(monkeypatch: pytest.MonkeyPatch, demo_photos: Path) -> None:
    """The walk of S3 and the like, on fsspec's own store in memory."""
    import fsspec  # type: ignore[import-untyped]

    memory = fsspec.filesystem("memory")
    photo = next((demo_photos / "people").rglob("*.jpg")).read_bytes()
    for name in ("/bucket/x/a.jpg", "/bucket/x/deep/b.jpg", "/bucket/x/c.txt"):
        memory.pipe_file(name, photo)

    class Store:
        """Names as s3fs gives them: without a scheme, from the bucket on."""

        def ls(self, url: str, detail: bool) -> list[dict[str, Any]]:
            entries = memory.ls(url.removeprefix("s3:/"), detail=detail)
            return [entry | {"name": entry["name"].lstrip("/")} for entry in entries]

        def __getattr__(self, name: str) -> Callable[..., Any]:
            call = getattr(memory, name)
            return lambda url, **options: call(url.removeprefix("s3:/"), **options)

    monkeypatch.setattr(remote, "_system", lambda scheme: Store())
    found = list(find(["s3://bucket/x"]))
    assert found == [
        Found("s3://bucket/x/a.jpg"),
        Ignored("s3://bucket/x/c.txt", ".txt"),
        Found("s3://bucket/x/deep/b.jpg"),
    ]
    assert read_place("s3://bucket/x/deep/b.jpg", LIMITS) == photo
    with pytest.raises(PhotoError, match=r"more than photos\.max_bytes"):
        read_place("s3://bucket/x/a.jpg", PhotoLimits(max_bytes=1000))
    with pytest.raises(PhotoError, match="no such file"):
        read_place("s3://bucket/x/none.jpg", LIMITS)
    assert stamp("s3://bucket/x/a.jpg")[0] == len(photo)
