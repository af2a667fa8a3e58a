"""Centring: what all faces have in common is taken out of their embeddings before comparing.

Embeddings of different people are not spread evenly about zero: they share a mean m, which raises
every score and says nothing about who it is.

    x' = (x - m) / |x - m|

is compared by cosine instead of x. The mean depends on the kind of photos. So each generation of an
index takes its own: that of the people enrolled in it, drawn towards the mean that ships with the
model as if `WEIGHT` more people had that one.

The store keeps x. An index is built of x' and a query is centred when it is searched, so that
turning centring on or off is a rebuild of the index and nothing else.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from facesearch.errors import ModelError
from facesearch.resources import shipped
from facesearch.values import F16, F32, ModelContract

WEIGHT = 50
"""People that the shipped mean counts as; with 30 to 350 enrolled, anything from 0 to 100 is as
good. See docs/levers.md."""
MOST_PEOPLE = 10_000
"""People that the mean is taken over at most; more would not move it."""

_BLOCK = 16_384
_TINY = np.finfo(np.float32).tiny


def centred(vectors: F16 | F32, mean: F32 | None) -> F32:
    """(N, D) unit vectors centred, again of unit length, float32; as they are if `mean` is None."""
    if mean is None:
        return vectors.astype(np.float32)
    result = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _BLOCK):
        part = slice(start, start + _BLOCK)
        block = np.subtract(vectors[part], mean, dtype=np.float32)
        length = np.sqrt(np.add.reduce(block * block, axis=1, keepdims=True))
        np.divide(block, np.maximum(length, _TINY), out=result[part])
    return result


def mean_of_people(prior: F32 | None, faces: F16 | F32 | None) -> F32 | None:
    """(D,) float32 mean of one face a person, (N, D), and `WEIGHT` more people's, `prior`.

    It is `prior` if `faces` is None, and None if `prior` is: nothing is centred then.
    """
    if prior is None or faces is None:
        return prior
    total = WEIGHT * prior.astype(np.float64) + faces.astype(np.float64).sum(axis=0)
    return np.asarray(total / (WEIGHT + len(faces)), np.float32)


SHIPPED = "sface_means.safetensors"
"""In facesearch/models/, written by benchmarks/levers.py: the mean over the 2,869 people of the
development half of LFW by `ModelContract.preprocessing`, for the model whose `ModelContract.sha256`
is `SHIPPED_FOR`."""
SHIPPED_FOR = "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee"


@cache
def shipped_mean(contract: ModelContract) -> F32 | None:
    """(D,) the mean that ships for a model; None if there is none.

    Raises:
        ModelError: its file is missing or damaged.
    """
    if contract.sha256 != SHIPPED_FOR:
        return None
    path = shipped("models") / SHIPPED
    try:
        return load_file(path).get(contract.preprocessing)
    except (OSError, SafetensorError, ValueError) as err:
        raise ModelError(f"{path}: damaged ({err}); reinstall facesearch") from err
