"""Recipes: those that ship, the user's own, malformed ones, and the default choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facesearch.errors import UsageError
from facesearch.index import faiss_index
from facesearch.index.disk import creating
from facesearch.index.spec import (
    EXACT_COMPONENTS,
    choose,
    load_recipe,
    parse_recipe,
    recipe_fields,
    recipes,
)
from facesearch.resources import shipped
from tests.index.made import units


def test_those_that_ship_are_named_after_their_files() -> None:
    names = [path.stem for path in shipped("indexes").glob("*.toml")]
    assert sorted(spec.name for spec in recipes()) == sorted(names)
    for spec in recipes():
        assert load_recipe(spec.name) == spec
        assert spec.summary
        assert spec.pays_off


@pytest.mark.parametrize("spec", recipes(), ids=lambda spec: spec.name)
def test_stated_memory_is_that_of_the_file(spec: object, tmp_path: Path) -> None:
    assert isinstance(spec, type(recipes()[0]))
    rows, dim = 12_000, 32
    vectors = units(np.random.default_rng(1), rows, dim).astype(np.float16)
    with creating(tmp_path / "index") as file:
        faiss_index.build(vectors, spec).save(file)
    size = (tmp_path / "index").stat().st_size
    size -= spec.lists_for(rows) * (dim * 4 + 16) if spec.lists else 0
    size -= 4 * (16 * dim + dim * dim)  # codebooks and a rotation, where there are any
    padding = 32 * 32 * spec.lists_for(rows) if spec.lists and "fs" in spec.factory else 0
    memory = spec.memory(rows, dim)
    assert memory * 0.98 - 4 * (16 * dim + dim * dim) <= size <= memory * 1.02 + padding


def test_a_manifest_carries_a_recipe_through() -> None:
    for spec in recipes():
        assert parse_recipe(recipe_fields(spec), "here") == spec


def test_own_recipe_by_path(tmp_path: Path) -> None:
    text = (shipped("indexes") / "hnsw.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace('"hnsw"', '"mine"').replace("2048", "512"))
    spec = load_recipe(str(tmp_path / "mine.toml"))
    assert (spec.name, spec.parameter, spec.value) == ("mine", "efSearch", 512)


@pytest.mark.parametrize("name", ["nope", "../indexes/exact", "", "/etc/passwd", "missing.toml"])
def test_unknown_recipe(name: str) -> None:
    with pytest.raises(UsageError, match="recipe"):
        load_recipe(name)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "ivf"', "", "name"),
        ('name = "ivf"', 'name = "ivf"\ncolour = "red"', "colour"),
        ("value = 256", 'value = "256"', "value"),
        ("value = 256", "value = -1", "negative"),
        ("value = 256", "value = true", "value"),
        ("value = 256", "value = 0", "belong together"),
        ('parameter = "nprobe"', 'parameter = "speed"', "speed"),
        ('parameter = "nprobe"', 'parameter = ""', "belong together"),
        ("IVF{lists},Flat", "Flat", "lists"),
        ("lists = 1024", "lists = 0", "lists"),
        ("train_rows = 65536", "train_rows = 0", "train_rows"),
        ("name = ", "name ==", "TOML|recipe"),
    ],
)
def test_malformed_recipe(old: str, new: str, says: str, tmp_path: Path) -> None:
    text = (shipped("indexes") / "ivf.toml").read_text()
    assert old in text
    path = tmp_path / "bad.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=says) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_default_is_exact_while_that_is_fast() -> None:
    assert choose(0, 128).name == "exact"
    assert choose(EXACT_COMPONENTS // 128, 128).name == "exact"
    assert choose(EXACT_COMPONENTS // 128 + 1, 128).name == "scan"
    assert choose(1_000_000, 512).name == "scan"


def test_small_collections_get_fewer_lists() -> None:
    spec = load_recipe("ivf")
    assert [spec.lists_for(rows) for rows in (0, 38, 39_000, 10**7)] == [1, 1, 1000, 1024]


def test_every_field_is_documented() -> None:
    text = (shipped("indexes") / "README.md").read_text()
    for key in recipe_fields(load_recipe("exact")):
        assert f"`{key}`" in text
