"""Test-time augmentation: a face and its mirror image, embedded both, averaged.

Whatever of an embedding depends on which way a face is turned or lit partly cancels. Each face
costs two. `docs/levers.md` has what it gains.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from facesearch.faces.embedder import Embedder
from facesearch.values import Crops, Embeddings, ModelContract

MARK = ", averaged with its mirror image"
"""Ends the preprocessing of the contract: such vectors are not compared with plain ones."""


class MirroredEmbedder:
    """Averages the unit vectors of each crop and of its mirror image.

    Args:
        embedder: embeds both.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.contract: ModelContract = mirrored(embedder.contract)

    def embed(self, crops: Crops) -> Embeddings:
        """Unit vectors of (N, 112, 112, 3) uint8 BGR crops, in order; N may be 0.

        The quality of a face is the norm of its plain embedding, without the mirror image: what
        `faces.quality` was fitted on.
        """
        both = self._embedder.embed(np.concatenate([crops, crops[:, :, ::-1]]))
        n = len(crops)
        mean = (both.vectors[:n] + both.vectors[n:]) / 2
        length = np.linalg.norm(mean, axis=1)
        return Embeddings(mean / length[:, None], both.quality[:n], self.contract)


def mirrored(contract: ModelContract) -> ModelContract:
    """The contract of averages of a face and its mirror image, both embedded by `contract`."""
    return replace(contract, preprocessing=contract.preprocessing + MARK)


def is_mirrored(contract: ModelContract) -> bool:
    """Whether vectors of this contract are averages of a face and its mirror image."""
    return contract.preprocessing.endswith(MARK)
