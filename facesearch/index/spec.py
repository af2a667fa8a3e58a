"""Index recipes: what FAISS builds, how it is trained and searched, and when it pays off.

A recipe is one TOML file whose keys are the fields of `IndexSpec`. Those that ship are in the
repository's top-level folder `indexes/`, inside the package once installed; those of a vector
server in a folder of its name below.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

from facesearch.errors import UsageError
from facesearch.resources import shipped

EXACT_COMPONENTS = 2**24
"""Rows x dimensions up to which `choose` stays exact: 131,072 faces of 128 dimensions.

An exact query takes 2.4 ms then on one core (18 ms per million x 128 measured).
"""

POINTS_PER_LIST = 39
"""Fewest training rows an IVF list needs (FAISS's `ClusteringParameters.min_points_per_centroid`);
small collections get fewer lists."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """A recipe.

    Attributes:
        name: what `--recipe` and the manifest call it.
        summary: one line: what it is.
        pays_off: one line: when to use it, and what it costs in identifications.
        factory: FAISS index factory string, or in this notation what a vector server builds;
            `{lists}` stands for the number of IVF lists, `{half}` for half the dimensions.
        lists: most IVF lists; 0 where `factory` has none.
        train_rows: most rows trained on, drawn at random; 0 where nothing is trained.
        parameter: search parameter that trades speed for recall: "efSearch", "nprobe", or ""
            where there is none.
        value: its value.
        rerank: rows fetched from the index a query and scored again exactly from float16 vectors.
        bytes_per_dimension: memory of one face that grows with the dimension, bytes.
        bytes_per_face: memory of one face that does not, bytes.
    """

    name: str
    summary: str
    pays_off: str
    factory: str
    lists: int
    train_rows: int
    parameter: str
    value: int
    rerank: int
    bytes_per_dimension: float
    bytes_per_face: float

    def lists_for(self, rows: int) -> int:
        """IVF lists for a collection of `rows` faces: `lists`, or fewer if they would starve."""
        return max(1, min(self.lists, rows // POINTS_PER_LIST))

    def factory_for(self, rows: int, dim: int) -> str:
        """The factory string for `rows` faces of `dim` dimensions."""
        lists, half = str(self.lists_for(rows)), str(dim // 2)
        return self.factory.replace("{lists}", lists).replace("{half}", half)

    def memory(self, rows: int, dim: int) -> int:
        """Bytes that the index takes for `rows` faces of `dim` dimensions, approximately."""
        return round(rows * (self.bytes_per_dimension * dim + self.bytes_per_face))


def recipes(server: str = "") -> tuple[IndexSpec, ...]:
    """The recipes that ship, by name: FAISS's, or those of a vector server."""
    return tuple(_read(path) for path in sorted((shipped("indexes") / server).glob("*.toml")))


def load_recipe(recipe: str, server: str = "") -> IndexSpec:
    """The recipe of a shipped name, or of the user's own TOML file.

    Args:
        recipe: "exact", "hnsw", ..., or a path that ends in `.toml`.
        server: whose: "milvus" or "pgvector"; empty for FAISS's.

    Raises:
        UsageError: no such recipe, or one that is malformed.
    """
    if recipe.endswith(".toml"):
        return _read(Path(recipe))
    path = shipped("indexes") / server / f"{recipe}.toml"
    if Path(recipe).name != recipe or not path.is_file():
        known = ", ".join(spec.name for spec in recipes(server))
        raise UsageError(
            f"no index recipe '{recipe}': use auto, {known}, or a path to a .toml file"
        )
    return _read(path)


def choose(rows: int, dim: int) -> IndexSpec:
    """The recipe used when nobody asked for one, and nothing was tuned.

    Exact up to `EXACT_COMPONENTS`. Beyond that a scan of compressed codes whose best 768 are scored
    exactly: it compares every face, so that it loses hardly anybody whatever the faces are like.
    `indexes/README.md` has what was measured.
    """
    return load_recipe("exact" if rows * dim <= EXACT_COMPONENTS else "scan")


def parse_recipe(fields: Mapping[str, object], where: str) -> IndexSpec:
    """A spec from decoded TOML or JSON.

    Args:
        fields: one entry for each field of `IndexSpec`.
        where: file name, for messages.

    Raises:
        UsageError: a field is missing, unknown, of the wrong type or out of range.
    """
    wanted = get_type_hints(IndexSpec)
    if fields.keys() != wanted.keys():
        odd = sorted(fields.keys() ^ wanted.keys())
        raise UsageError(f"{where}: missing or unknown keys in recipe: {', '.join(odd)}")
    values: dict[str, object] = {}
    for key, kind in wanted.items():
        value = fields[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UsageError(f"{where}: {key} = {value!r} is not {kind.__name__}")
        if not isinstance(value, str) and value < 0:  # type: ignore[operator]
            raise UsageError(f"{where}: {key} = {value!r} is negative")
        values[key] = value
    spec = IndexSpec(**values)  # type: ignore[arg-type]
    if spec.parameter not in ("", "efSearch", "nprobe"):
        raise UsageError(f"{where}: parameter = {spec.parameter!r} is not efSearch, nprobe or ''")
    if bool(spec.parameter) != bool(spec.value):
        raise UsageError(f"{where}: parameter and value belong together, value at least 1")
    if ("{lists}" in spec.factory) != bool(spec.lists):
        raise UsageError(f"{where}: 'lists' and '{{lists}}' in the factory string belong together")
    if spec.lists and not spec.train_rows:
        raise UsageError(f"{where}: IVF lists need train_rows")
    return spec


def recipe_fields(spec: IndexSpec) -> dict[str, str | int | float]:
    """The inverse of `parse_recipe`, for a manifest."""
    return dataclasses.asdict(spec)


def _read(path: Path) -> IndexSpec:
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise UsageError(f"{path}: cannot be read as an index recipe ({err})") from err
    return parse_recipe(fields, str(path))
