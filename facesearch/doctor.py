"""Checks of everything facesearch relies on, each with what was found and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from facesearch.engine import Engine
from facesearch.errors import FacesearchError
from facesearch.library import attach
from facesearch.version import __version__

MIN_FREE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def examine(library: Path, device: str | None = None) -> list[Check]:
    """Check the installation and a library; nothing is changed.

    Args:
        library: its directory.
        device: device to check; None for the one in the settings.
    """
    checks = [_check("versions", _versions)]
    try:
        overrides = {} if device is None else {"embed_device": device}
        opened = attach(library, overrides)
    except FacesearchError as err:
        return [*checks, Check("library", False, str(err))]
    with Engine(opened) as engine:
        checks.append(_check("library", lambda: _library(engine.root)))
        checks.append(_check("database", lambda: _database(engine)))
        checks.append(_check("model", lambda: _model(engine)))
        if checks[2].ok:
            checks += [
                _check(f"index of '{c.name}'", lambda c=c: _index(engine, c.name))  # type: ignore[misc]
                for c in engine.collections()
            ]
    return checks


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except FacesearchError as err:
        return Check(name, False, str(err))
    except (ImportError, OSError) as err:
        return Check(name, False, f"{type(err).__name__}: {err}")


def _versions() -> str:
    from facesearch.index.faiss_index import VERSION  # of faiss-cpu or faiss-gpu-...
    from facesearch.index.gpu import gpus

    names = ("torch", "opencv-python", "numpy", "pillow", "sqlalchemy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    faiss = f"faiss {VERSION} ({gpus()} GPUs)" if gpus() else f"faiss {VERSION}"
    return f"facesearch {__version__}, Python {platform.python_version()}, {versions}, {faiss}"


def _library(root: Path) -> str:
    if not os.access(root, os.W_OK):
        raise PermissionError(f"{root} is read-only: searching works, ingesting does not")
    free = shutil.disk_usage(root).free
    if free < MIN_FREE_BYTES:
        raise OSError(f"{root}: only {free >> 20} MiB free")
    return f"{root}, {free >> 30} GiB free"


def _database(engine: Engine) -> str:
    engine.database.check()
    damage = engine.database.integrity()
    if damage != "ok":
        raise OSError(f"{engine.database.where}: damaged ({damage}); restore it from a backup")
    counts = engine.counts()
    return f"{engine.database.where}: {counts.faces} faces of {counts.photos} photos"


def _model(engine: Engine) -> str:
    from facesearch.faces.device import pick_device, pick_dtype

    device = pick_device(engine.settings.embed.device)
    precision = str(pick_dtype(device, engine.settings.embed.precision)).removeprefix("torch.")
    return f"{engine.embedder().contract.name} on {device}, {precision}"


def _index(engine: Engine, name: str) -> str:
    index = engine.live(engine.collection(name))
    status, people = index.status(), index.enrolled()[0]
    backend = engine.settings.index.backend
    return (
        "" if backend == "faiss" else f"{backend}: "
    ) + f"{status.rows} faces indexed, {status.delta} beside the index, {people} people"
