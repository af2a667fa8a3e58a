"""Where models' weights are: bundled, downloaded, or your own file, registered.

Nothing is downloaded unless asked for, and no weights are used whose hash is not the expected one.
Downloaded and registered weights lie in the library's `models/` folder; a registered file `NAME.*`
has `NAME.json` beside it, which says what it is.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, get_args

from facesearch.errors import DiskFullError, LibraryError, ModelError, UsageError
from facesearch.faces.known_models import DIMS, KNOWN, Model, Order, Preprocessing
from facesearch.resources import shipped

BUNDLED_SHA256 = {
    "face_detection_yunet_2023mar_int8bq.onnx": (
        "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
    ),
    "face_recognition_sface_2021dec_int8bq.safetensors": (
        "1adf508fdd0575ac07b2b065e30315c44fe85d4bbbc2ee5c3536a0f65ddea11e"
    ),
    "landmarks_heat.safetensors": (
        "52614bf6449e883a076c908c20aa30df82e02c4a8e93464c126d4a4fab689be2"
    ),
}
"""Of the model files that ship with the package, as they are on disk."""

_SHORT = {"face_detection_yunet_2023mar_int8bq.onnx": "yunet"} | {
    "face_recognition_sface_2021dec_int8bq.safetensors": "sface"
}

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Weights files that can be registered."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TIMEOUT = 30.0
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class Learned:
    """What a model was trained on: people, faces of theirs, and what it began as ("": nothing)."""

    identities: int
    faces: int
    base: str


def known(models_dir: Path) -> tuple[Model, ...]:
    """Every model: the built-in table with what is in `models_dir`, then your own by name."""
    registered = {path.stem: _read_entry(path) for path in sorted(models_dir.glob("*.json"))}
    table = [registered.get(model.name, _with_state(model, models_dir)) for model in KNOWN]
    names = {model.name for model in table}
    return (*table, *(model for name, model in registered.items() if name not in names))


def find(name: str, models_dir: Path) -> Model:
    """The model of that name.

    Raises:
        ModelError: there is none.
    """
    models = {model.name: model for model in known(models_dir)}
    if name not in models:
        raise ModelError(f"unknown model '{name}': known are {', '.join(models)}")
    return models[name]


def resolve(name: str, models_dir: Path) -> tuple[Path, Model]:
    """The weights file of a model, its hash checked, and the model.

    Raises:
        ModelError: unknown, not here, or its file is not what it should be.
    """
    model = find(name, models_dir)
    if model.state == "downloadable":
        raise ModelError(
            f"model '{name}' is not downloaded: run 'facesearch models download {name}'"
        )
    if not model.sha256:
        raise ModelError(
            f"model '{name}' has no weights here: get them from {model.upstream}, "
            f"then run 'facesearch models register FILE --name {name}'"
        )
    path, problem = _path(model, models_dir), _check(model, models_dir)
    if problem:
        raise ModelError(f"{path}: weights of model '{name}' are {problem}; install them again")
    return path, model


def register(
    path: Path,
    *,
    name: str,
    architecture: str,
    order: str,
    models_dir: Path,
    learned: Learned | None = None,
) -> Model:
    """Make your own weights known under a name: checked by loading them, then copied.

    A name of the built-in table gives its file to that entry. Registering the same file again
    changes nothing.

    Args:
        path: `.safetensors`, or a PyTorch file holding tensors only.
        name: lower-case letters, digits, ".", "_" and "-".
        architecture: a key of `known_models.DIMS`.
        order: "rgb" or "bgr", the colour order the network was trained on.
        models_dir: the library's models folder; made if it is missing.
        learned: what it was trained on here; None for weights from elsewhere.

    Raises:
        UsageError: the name, architecture or order cannot be.
        ModelError: the file does not load, or the name stands for other weights.
        LibraryError, DiskFullError: `models_dir` cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"model name '{name}': use lower-case letters, digits, '.', '_', '-'")
    if architecture not in DIMS:
        raise UsageError(f"unknown architecture '{architecture}': use one of {', '.join(DIMS)}")
    if order not in get_args(Order):
        raise UsageError(f"unknown colour order '{order}': use rgb or bgr")
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: not a weights file ({', '.join(SUFFIXES)})")
    preprocessing = Preprocessing("rgb" if order == "rgb" else "bgr")
    if architecture == "sface":
        preprocessing = dataclasses.replace(preprocessing, scale=128.0)

    from facesearch.faces.weights import load_network  # imports torch: not for listing models

    load_network(architecture, path)
    digest = _sha256(path)
    model = dataclasses.replace(
        _template(name, architecture, preprocessing),
        sha256=digest,
        file=f"{name}{path.suffix}",
        state="registered",
    )
    if learned is not None:
        model = dataclasses.replace(
            model,
            upstream="trained here",
            identities=learned.identities,
            faces=learned.faces,
            base=learned.base,
        )
    existing = {m.name: m for m in known(models_dir)}.get(name)
    if existing and existing.sha256 and existing.sha256 != digest:
        raise ModelError(f"model '{name}' stands for other weights already: choose another name")
    if existing and existing.state in ("bundled", "downloaded"):
        return existing
    with path.open("rb") as source, _replacing(models_dir / model.file) as target:
        shutil.copyfileobj(source, target, _CHUNK)
    with _replacing(models_dir / f"{name}.json") as target:
        target.write(json.dumps(dataclasses.asdict(model), indent=2).encode() + b"\n")
    return model


def download(name: str, models_dir: Path, *, accept_noncommercial: bool = False) -> Path:
    """Download a model's weights; the hash is checked before the file gets its name.

    Args:
        name: of a model whose address and hash are known.
        models_dir: the library's models folder; made if it is missing.
        accept_noncommercial: the caller read the licence, and the use is not commercial.

    Returns:
        The weights file; if it was here already, nothing was downloaded.

    Raises:
        UsageError: the licence forbids commercial use and this was not accepted.
        ModelError: unknown, not downloadable, unreachable, or not the expected file.
        LibraryError, DiskFullError: `models_dir` cannot be written.
    """
    model = find(name, models_dir)
    if model.state in ("bundled", "registered") or not _check(model, models_dir):
        return resolve(name, models_dir)[0]
    if not model.url:
        raise ModelError(
            f"model '{name}' cannot be downloaded from here: get it from {model.upstream}, "
            f"then run 'facesearch models register FILE --name {name}'"
        )
    if not model.commercial and not accept_noncommercial:
        raise UsageError(
            f"model '{name}' is not for commercial use ({model.licence}): "
            "say --accept-noncommercial if that suits you"
        )
    path = models_dir / model.file
    with _replacing(path) as target:
        try:
            with urllib.request.urlopen(model.url, timeout=_TIMEOUT) as response:
                problem = _receive(response, target, model)
        except (OSError, HTTPException, ValueError) as err:
            if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if isinstance(err, urllib.error.HTTPError):
                err.close()  # it is the response
            reason = getattr(err, "reason", None) or str(err) or type(err).__name__
            raise ModelError(f"{model.url}: download failed ({reason}); try again") from err
        if problem:
            raise ModelError(f"{model.url}: not the expected file ({problem}); nothing was kept")
    return path


def verify(models_dir: Path) -> dict[str, str]:
    """Whether each model file is "ok", "missing" or "corrupt", by the name of the model."""
    found = {
        _SHORT.get(file, Path(file).stem): _state(shipped("models") / file, sha256)
        for file, sha256 in BUNDLED_SHA256.items()
    }
    for model in known(models_dir):
        if model.state in ("downloaded", "registered"):
            found[model.name] = _check(model, models_dir) or "ok"
    return found


def _template(name: str, architecture: str, preprocessing: Preprocessing) -> Model:
    """The built-in entry of that name, which must agree, or a new one."""
    for model in KNOWN:
        if model.name == name:
            if (model.architecture, model.preprocessing) != (architecture, preprocessing):
                raise UsageError(
                    f"model '{name}' is {model.architecture} with {model.preprocessing.order} "
                    "input: register it as that, or under another name"
                )
            return model
    return Model(
        name=name,
        architecture=architecture,
        dim=DIMS[architecture],
        preprocessing=preprocessing,
        upstream="registered from a local file",
        licence="yours to know",
        commercial=False,
    )


def _read_entry(path: Path) -> Model:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        model = Model(**{**entry, "preprocessing": Preprocessing(**entry["preprocessing"])})
    except (OSError, ValueError, TypeError, KeyError) as err:
        raise ModelError(f"{path}: not a readable model entry; remove it, register again") from err
    if model.name != path.stem or Path(model.file).name != model.file:
        raise ModelError(f"{path}: entry of another model; remove it, register again")
    return model


def _with_state(model: Model, models_dir: Path) -> Model:
    if model.state == "downloadable" and (models_dir / model.file).exists():
        return dataclasses.replace(model, state="downloaded")
    return model


def _path(model: Model, models_dir: Path) -> Path:
    return (shipped("models") if model.state == "bundled" else models_dir) / model.file


def _check(model: Model, models_dir: Path) -> str:
    """What is wrong with a model's file: "missing", "corrupt", or "" if nothing is."""
    expected = BUNDLED_SHA256[model.file] if model.state == "bundled" else model.sha256
    state = _state(_path(model, models_dir), expected)
    return "" if state == "ok" else state


def _state(path: Path, sha256: str) -> str:
    if not path.is_file():
        return "missing"
    return "ok" if _sha256(path) == sha256 else "corrupt"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise ModelError(f"{path}: cannot be read ({err.strerror})") from err


def _receive(response: IO[bytes], target: IO[bytes], model: Model) -> str:
    """Copy at most `model.size` bytes; says what is wrong with them, "" if nothing is."""
    digest, received = hashlib.sha256(), 0
    while chunk := response.read(_CHUNK):
        received += len(chunk)
        if received > model.size:
            return f"more than {model.size} bytes"
        digest.update(chunk)
        target.write(chunk)
    if received < model.size:
        return f"{received} of {model.size} bytes"
    if digest.hexdigest() != model.sha256:
        return f"SHA-256 {digest.hexdigest()}, not {model.sha256}"
    return ""


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path`, on disk, when the block ends without exception."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = ""
    except OSError as err:
        kind = DiskFullError if err.errno in (errno.ENOSPC, errno.EDQUOT) else LibraryError
        raise kind(f"{path}: cannot be written ({err.strerror or err})") from err
    finally:
        if temporary:
            os.unlink(temporary)
