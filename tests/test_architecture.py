"""The direction of imports, and what must stay light."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import facesearch

PACKAGE = Path(facesearch.__file__).parent

# Lowest first. A module belongs to the longest name that fits, and imports from lower layers only;
# within a layer, from its own room, or from any where the layer is marked as joining.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "version", "resources"),
    ("values",),
    ("settings",),
    ("photos", "faces", "index", "store", "evaluate"),
    (
        "library",
        "faces.extract",
        "faces.landmarked",
        "ingest",
        "identify",
        "indexing",
        "tuning",
        "compaction",
        "train",
        "backends",
    ),
    ("parts",),
    ("crew",),
    ("fleet", "alone"),
    ("upgrade",),
    ("engine",),
    (
        "distribute",
        "doctor",
        "migration",
        "evaluate.lfw",
        "evaluate.run",
        "evaluate.search",
        "evaluate.search_report",
    ),
    ("evaluate.pictures",),
    ("cli",),
)
JOINS = LAYERS[4]
HEAVY = ("torch", "faiss", "cv2", "psycopg", "pymilvus", "ray")


def _modules() -> dict[str, Path]:
    """Every module but the package's own front, `facesearch/__init__.py`, by name below it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and parts[0] != "_packaged":
            found[name] = path
    return found


MODULES = _modules()


def _imports(name: str) -> set[str]:
    """The facesearch modules that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            head, _, rest = target.partition(".")
            if head == "facesearch":
                assert rest != "Engine", f"{name}: imports the package's front"
                # `from facesearch.values import Photo` names something inside a module.
                found.add(rest if rest in MODULES else rest.rpartition(".")[0])
    return found - {"", name}


def _layer(name: str) -> tuple[int, str]:
    """(height, room) of a module."""
    fits = [
        (len(room), height, room)
        for height, rooms in enumerate(LAYERS)
        for room in rooms
        if name == room or name.startswith(f"{room}.")
    ]
    assert fits, f"{name} belongs to no layer: give it one in this test, and in the design"
    _, height, room = max(fits)
    return height, room


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str) -> None:
    height, room = _layer(name)
    for imported in sorted(_imports(name)):
        below, other = _layer(imported)
        siblings = below == height and (other == room or {room, other} <= set(JOINS))
        assert below < height or siblings, f"facesearch.{name} imports facesearch.{imported}"


def test_no_cycles() -> None:
    graphlib.TopologicalSorter({name: _imports(name) for name in MODULES}).prepare()


def test_every_room_is_there() -> None:
    for room in (room for rooms in LAYERS for room in rooms):
        assert room in MODULES, f"no facesearch.{room}: take it out of LAYERS"


@pytest.mark.parametrize("name", ["facesearch", "facesearch.engine", "facesearch.cli.main"])
def test_stays_light(name: str) -> None:
    code = f"import sys, {name}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("heavy", HEAVY)
def test_each_heavy_library_is_imported_somewhere(heavy: str) -> None:
    """Else the test above would pass for the wrong reason."""
    texts = [path.read_text(encoding="utf-8") for path in MODULES.values()]
    assert any(f"\nimport {heavy}" in t or f"\nfrom {heavy}" in t for t in texts)


@pytest.mark.parametrize(
    ("library", "where"),
    [
        ("psycopg", "backends.pgvector"),
        ("pymilvus", "backends.milvus_link"),
        ("ray", "ingest.cluster"),
    ],
)
def test_one_file_imports_it(library: str, where: str) -> None:
    found = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(a.name == library for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == library)
    }
    assert found == {where}
