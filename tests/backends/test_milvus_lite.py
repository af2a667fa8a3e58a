"""Milvus Lite's file is opened by one process after another."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

from tests.backends.made import Served
from tests.index.made import units

_SEARCH = """
import sys, numpy
from facesearch.backends.milvus import Milvus
backend = Milvus(sys.argv[1], sys.argv[2], (int(sys.argv[3]), 0), 10.0)
query = numpy.array([[float(part) for part in sys.argv[4].split()]], numpy.float32)
print(*backend.nearest(backend.state(), query, 3, None, enrolled=False)[0])
backend.close()
"""


@pytest.mark.parametrize("site", ["milvus-lite"], indirect=True)
def test_by_the_next_process(site: Served) -> None:
    library = site.library
    vectors = units(np.random.default_rng(1), 50)
    ids = library.add(vectors)
    site.build()
    site.backend.close()
    manager = importlib.import_module("milvus_lite.server_manager")
    manager.server_manager_instance.release_server(site.backend.where)  # or we keep the file
    given = [site.backend.where, library.database.library_uuid(), str(library.collection.id)]
    query = " ".join(map(str, vectors[7].tolist()))
    done = subprocess.run(
        [sys.executable, "-c", _SEARCH, *given, query],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    nearest = np.argsort(-(vectors @ vectors[7]))[:3]
    assert done.stdout.split() == [str(ids[row]) for row in nearest]
