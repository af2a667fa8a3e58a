"""What ships and what sets it up: the lock, the notices, the wheel, the set-up script."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}


def test_the_lock_has_everything_declared(project: dict[str, Any], lock: dict[str, str]) -> None:
    declared = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    for requirement in map(Requirement, declared + project["build-system"]["requires"]):
        assert requirement.specifier.contains(lock[requirement.name.lower()]), requirement


def test_the_lock_fits_every_platform_and_leaves_benchmarks_out(lock: dict[str, str]) -> None:
    assert "+" not in lock["torch"]  # "+cpu" exists on one index and for some platforms only
    assert not {"onnx", "onnxruntime", "triton"} & set(lock)


def test_the_lock_asks_for_a_package_only_where_there_is_one(project: dict[str, Any]) -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {r.name: r.marker for r in map(Requirement, (x for x in lines if x[0] != "#"))}
    declared = map(Requirement, project["dependency-groups"]["dev"])
    marked = {r.name: r.marker for r in declared if r.marker}
    assert marked == {name: marker for name, marker in locked.items() if marker}
    assert set(marked) == {"milvus"}


def test_every_bundled_model_is_noticed() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for path in (ROOT / "facesearch" / "models").glob("*.onnx"):
        assert path.name in notice
        assert hashlib.sha256(path.read_bytes()).hexdigest() in notice
    assert "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee" in notice  # SFace


def test_every_demo_portrait_is_credited(demo_photos: Path) -> None:
    credits = (demo_photos / "CREDITS.md").read_text(encoding="utf-8")
    for photo in demo_photos.rglob("*.jpg"):
        assert photo.name in credits


def test_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "facesearch"
    shipped = {
        f"facesearch/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {
        f"facesearch/_packaged/{path.relative_to(ROOT).as_posix()}"
        for folder in ("migrations", "indexes")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == shipped
    assert {"facesearch/py.typed", "facesearch/_packaged/migrations/env.py"} <= shipped
    assert any(name.startswith("facesearch/_packaged/indexes/") for name in shipped)
    assert any(name.startswith("facesearch/models/") for name in shipped)
    for notice in ("LICENSE", "NOTICE"):
        assert any(name.endswith(f"licenses/{notice}") for name in info)


def test_setup_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / ".ci" / "setup.sh")],
        env={**os.environ, "PYTHON": str(old), "VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == f"setup: PYTHON={old} is not Python 3.11 or newer\n"
    assert not (tmp_path / "venv").exists()
