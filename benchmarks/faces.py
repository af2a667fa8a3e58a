"""Labelled faces for benchmarks: the principal face of every photo NAME/*.jpg, by the engine."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facesearch.engine import Engine
from facesearch.evaluate.lfw import principal_vectors
from facesearch.values import F32, I64, ModelContract


@dataclass(frozen=True, slots=True)
class Faces:
    """One face a photo.

    Attributes:
        vectors: (N, D) unit norm.
        people: (N,) number of the person, an index into `names`; ascending.
        names: of the people.
    """

    vectors: F32
    people: I64
    names: tuple[str, ...]


def embedded(folder: Path, library: Path | None = None) -> tuple[Faces, ModelContract]:
    """The faces of the photos `folder`/NAME/*.jpg, in order of name.

    Args:
        folder: of folders, one a person.
        library: one that holds these photos already; None to ingest them into a temporary one.
    """
    with (
        tempfile.TemporaryDirectory(prefix="facesearch-bench-") as temporary,
        Engine.create(library or Path(temporary) / "library") as engine,
    ):
        if library is None:
            engine.ingest([folder])
        paths = sorted(folder.resolve().glob("*/*.jpg"))
        vectors = principal_vectors(engine, [str(path) for path in paths])
        contract = engine.collection().contract
    found = ~np.isnan(vectors[:, 0])
    labels = np.array([path.parent.name for path in paths])[found]
    names, people = np.unique(labels, return_inverse=True)
    return Faces(vectors[found], people.astype(np.int64), tuple(names.tolist())), contract
