"""The registry: what is known, what is here, downloads and registrations that go wrong."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from facesearch.errors import DiskFullError, LibraryError, ModelError, UsageError
from facesearch.faces import registry
from facesearch.faces.embed import load_embedder
from facesearch.faces.known_models import DIMS, KNOWN, Model, Preprocessing
from facesearch.resources import shipped
from facesearch.settings import EmbedSpec

SFACE = shipped("models") / "face_recognition_sface_2021dec_int8bq.safetensors"
WEIGHTS = SFACE.read_bytes()
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


def register(path: Path, models: Path, **changes: str) -> Model:
    said = {"name": "mine", "architecture": "sface", "order": "rgb", **changes}
    name, architecture, order = said["name"], said["architecture"], said["order"]
    return registry.register(
        path, name=name, architecture=architecture, order=order, models_dir=models
    )


# --- the table


def test_the_bundled_model_is_there_and_whole(tmp_path: Path) -> None:
    path, model = registry.resolve("sface", tmp_path)
    assert path.is_file()
    assert model.state == "bundled"
    assert model.commercial
    assert registry.verify(tmp_path) == dict.fromkeys(("yunet", "sface", "landmarks_heat"), "ok")


def test_the_bundled_file_names_its_original() -> None:
    from safetensors import safe_open

    with safe_open(SFACE, framework="np") as file:
        assert file.metadata() == {"upstream_sha256": KNOWN[0].sha256}


def test_every_entry_is_complete() -> None:
    names = [model.name for model in KNOWN]
    assert len(set(names)) == len(names)
    for model in KNOWN:
        assert model.dim == DIMS[model.architecture]
        assert "https://" in model.upstream
        assert model.licence
        assert bool(model.accuracy) == bool(model.source), "a figure has a source"
        assert bool(model.url) == (model.state == "downloadable")
        assert model.state in ("bundled", "downloadable", "bring your own")
        assert bool(model.sha256) == (model.state != "bring your own")
        assert model.commercial == (model.name == "sface")


def test_listing_does_not_load_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from facesearch.faces import registry;"
        "registry.known(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_models_without_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="run 'facesearch models register FILE --name arcface-r50"):
        registry.resolve("arcface-r50-glint360k", tmp_path)
    with pytest.raises(ModelError, match="run 'facesearch models download cvlface-adaface-ir50"):
        registry.resolve("cvlface-adaface-ir50-webface4m", tmp_path)
    with pytest.raises(ModelError, match="unknown model 'nobody'"):
        registry.find("nobody", tmp_path)


# --- registering


def test_a_registered_file_is_a_model_of_its_own(tmp_path: Path) -> None:
    models = tmp_path / "library" / "models"
    entry = register(SFACE, models)
    assert (entry.sha256, entry.dim, entry.state) == (DIGEST, 128, "registered")
    assert registry.find("mine", models) == entry
    assert registry.known(models)[-1] == entry
    assert registry.verify(models)["mine"] == "ok"
    assert sorted(p.name for p in models.iterdir()) == ["mine.json", "mine.safetensors"]
    found = load_embedder(EmbedSpec(model="mine", device="cpu"), models)
    assert found.contract.key == f"mine/128/112x112 RGB (x-127.5)/128/{DIGEST}"
    assert len(found.embed(np.zeros((1, 112, 112, 3), np.uint8))) == 1


def test_registering_again_changes_nothing(tmp_path: Path) -> None:
    assert register(SFACE, tmp_path) == register(SFACE, tmp_path)


def test_a_pytorch_file_can_be_registered(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(SFACE), tmp_path / "weights.pt")
    entry = register(tmp_path / "weights.pt", tmp_path / "models", order="bgr")
    assert entry.file == "mine.pt"
    assert entry.preprocessing == Preprocessing("bgr", 127.5, 128.0)
    assert registry.resolve("mine", tmp_path / "models")[0].is_file()


def test_a_name_keeps_its_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other.safetensors"
    state = load_file(SFACE)
    state["bn2.bias"] += 1
    save_file(state, other)
    register(SFACE, tmp_path / "models")
    with pytest.raises(ModelError, match="stands for other weights already"):
        register(other, tmp_path / "models")
    with pytest.raises(ModelError, match="stands for other weights already"):
        register(other, tmp_path / "models", name="sface")
    assert registry.verify(tmp_path / "models")["mine"] == "ok"


def test_your_file_for_a_known_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dataclasses.replace(KNOWN[0], name="known", state="bring your own", sha256="", file="")
    monkeypatch.setattr(registry, "KNOWN", (*KNOWN, known))
    with pytest.raises(UsageError, match="'known' is sface with rgb input"):
        register(SFACE, tmp_path, name="known", order="bgr")
    entry = register(SFACE, tmp_path, name="known")
    assert entry.licence == known.licence
    assert entry.sha256 == DIGEST
    assert [m.state for m in registry.known(tmp_path) if m.name == "known"] == ["registered"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../mine"}, "model name '../mine'"),
        ({"name": "Mine"}, "lower-case"),
        ({"name": ""}, "model name ''"),
        ({"architecture": "vit"}, "unknown architecture 'vit'"),
        ({"order": "gbr"}, "unknown colour order 'gbr'"),
    ],
)
def test_registrations_that_cannot_be(
    changes: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        register(SFACE, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_load_is_not_registered(tmp_path: Path) -> None:
    (tmp_path / "half.safetensors").write_bytes(WEIGHTS[:100_000])
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="half"):
        register(tmp_path / "half.safetensors", tmp_path / "models")
    with pytest.raises(ModelError, match="no such weights file"):
        register(tmp_path / "absent.safetensors", tmp_path / "models")
    with pytest.raises(UsageError, match="not a weights file"):
        register(tmp_path / "notes.txt", tmp_path / "models")
    with pytest.raises(ModelError, match="not iresnet50 weights"):
        register(SFACE, tmp_path / "models", architecture="iresnet50")
    assert not (tmp_path / "models").exists()


def test_a_models_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(LibraryError, match="cannot be written"):
        register(SFACE, tmp_path / "models")


def test_damage_is_found_and_never_loaded(tmp_path: Path) -> None:
    register(SFACE, tmp_path)
    weights = tmp_path / "mine.safetensors"
    damaged = bytearray(WEIGHTS)
    damaged[5_000_000] ^= 1
    weights.write_bytes(damaged)
    assert registry.verify(tmp_path)["mine"] == "corrupt"
    with pytest.raises(ModelError, match=r"weights of model 'mine' are corrupt"):
        load_embedder(EmbedSpec(model="mine", device="cpu"), tmp_path)
    weights.unlink()
    assert registry.verify(tmp_path)["mine"] == "missing"
    with pytest.raises(ModelError, match=r"weights of model 'mine' are missing"):
        registry.resolve("mine", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "mine"}', '{"preprocessing": 3}'])
def test_a_damaged_entry_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ModelError, match=r"mine\.json: not a readable model entry") as caught:
        registry.known(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_entry_cannot_point_elsewhere(tmp_path: Path) -> None:
    register(SFACE, tmp_path)
    entry = json.loads((tmp_path / "mine.json").read_text())
    (tmp_path / "mine.json").write_text(json.dumps({**entry, "file": "../elsewhere.pt"}))
    with pytest.raises(ModelError, match="entry of another model"):
        registry.known(tmp_path)
    shutil.copy(tmp_path / "mine.json", tmp_path / "yours.json")
    (tmp_path / "mine.json").unlink()
    with pytest.raises(ModelError, match="entry of another model"):
        registry.known(tmp_path)


# --- downloading


class Server(BaseHTTPRequestHandler):
    """Serves the weights in several wrong ways, and one right."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body, promised = WEIGHTS, len(WEIGHTS)
        if self.path == "/gone":
            self.send_error(404)
            return
        if self.path == "/altered":
            body = b"x" + WEIGHTS[1:]
        elif self.path == "/endless":
            body += bytes(3_000_000)
            promised = len(body)
        elif self.path == "/short":
            body = WEIGHTS[:1_000_000]
            promised = len(body)
        elif self.path == "/cut":
            body = WEIGHTS[:1_000_000]
        self.send_response(200)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def offer(address: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the model "offered" downloadable from a path of the server, or from a full address."""
    Server.asked.clear()

    def at(url: str) -> None:
        model = dataclasses.replace(
            KNOWN[0],
            name="offered",
            state="downloadable",
            sha256=DIGEST,
            file="offered.safetensors",
            url=address + url if url.startswith("/") else url,
            size=len(WEIGHTS),
            commercial=False,
            licence="research only",
        )
        monkeypatch.setattr(registry, "KNOWN", (*KNOWN, model))

    return at


def test_a_download_is_kept_and_not_repeated(tmp_path: Path, offer: Callable[[str], None]) -> None:
    offer("/good")
    models = tmp_path / "models"
    path = registry.download("offered", models, accept_noncommercial=True)
    assert path.read_bytes() == WEIGHTS
    assert registry.find("offered", models).state == "downloaded"
    assert registry.verify(models)["offered"] == "ok"
    assert registry.resolve("offered", models)[0] == path
    assert registry.download("offered", models) == path
    assert Server.asked == ["/good"]
    assert [p.name for p in models.iterdir()] == ["offered.safetensors"]


def test_a_damaged_download_is_replaced(tmp_path: Path, offer: Callable[[str], None]) -> None:
    offer("/good")
    (tmp_path / "offered.safetensors").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="weights of model 'offered' are corrupt"):
        registry.resolve("offered", tmp_path)
    registry.download("offered", tmp_path, accept_noncommercial=True)
    assert registry.verify(tmp_path)["offered"] == "ok"


def test_a_licence_must_be_accepted_before_anything_is_asked_for(
    tmp_path: Path, offer: Callable[[str], None]
) -> None:
    offer("/good")
    with pytest.raises(UsageError, match=r"not for commercial use \(research only\)"):
        registry.download("offered", tmp_path)
    assert Server.asked == []


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/altered", "not the expected file .SHA-256 .*; nothing was kept"),
        ("/endless", f"more than {len(WEIGHTS)} bytes"),
        ("/short", f"1000000 of {len(WEIGHTS)} bytes"),
        ("/cut", "1000000 (of|bytes read)"),
        ("/gone", "download failed .*(404|Not Found)"),
        ("nobody listens", "download failed .*refused"),
        ("nowhere", "download failed .*unknown url type"),
    ],
)
def test_a_failed_download_leaves_nothing(
    url: str, message: str, tmp_path: Path, offer: Callable[[str], None]
) -> None:
    offer(f"http://127.0.0.1:{closed_port()}/x" if url == "nobody listens" else url)
    with pytest.raises(ModelError, match=message) as caught:
        registry.download("offered", tmp_path, accept_noncommercial=True)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"get it from AdaFace, https://github\.com/mk-minchul"):
        registry.download("adaface-ir100-ms1mv2", tmp_path)
    assert registry.download("sface", tmp_path) == SFACE
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_as_such(
    tmp_path: Path, offer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    offer("/good")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFullError, match="No space left on device"):
        registry.download("offered", tmp_path, accept_noncommercial=True)
    assert list(tmp_path.iterdir()) == []
