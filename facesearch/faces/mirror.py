"""Test-time augmentation: a face moved up and its mirror image moved down, averaged.

Whatever of an embedding depends on which way a face is turned or lit, and on where exactly its
landmarks were found, partly cancels. Moving the two costs nothing beside embedding both.
`docs/levers.md` has what it gains.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from facesearch.faces.embedder import Embedder
from facesearch.values import Crops, Embeddings, ModelContract

SHIFT = 2
"""Pixels of a crop by which the face is moved up, and its mirror image down."""
MARK = f", {SHIFT} up, averaged with its mirror image {SHIFT} down"
"""Ends the preprocessing of the contract: such vectors are not compared with others."""
UNMOVED = ", averaged with its mirror image"
"""Likewise, of collections made before faces were moved."""


class MirroredEmbedder:
    """Averages the unit vectors of each crop and of its mirror image.

    Args:
        embedder: embeds both.
        shift: pixels by which the crop is moved up and its mirror image down: `SHIFT`, or 0.
    """

    def __init__(self, embedder: Embedder, shift: int = SHIFT) -> None:
        self._embedder = embedder
        self._shift = shift
        self.contract: ModelContract = mirrored(embedder.contract, MARK if shift else UNMOVED)

    def embed(self, crops: Crops) -> Embeddings:
        """Unit vectors of (N, 112, 112, 3) uint8 BGR crops, in order; N may be 0.

        The quality of a face is the norm of the embedding that is not mirrored.
        """
        turned = crops[:, :, ::-1]
        views = [moved(crops, -self._shift), moved(turned, self._shift)]
        both = self._embedder.embed(np.concatenate(views))
        n = len(crops)
        mean = (both.vectors[:n] + both.vectors[n:]) / 2
        length = np.linalg.norm(mean, axis=1)
        return Embeddings(mean / length[:, None], both.quality[:n], self.contract)


def moved(crops: Crops, rows: int) -> Crops:
    """(N, H, W, 3) crops moved down by some rows, up where negative; the edge row is repeated."""
    height = crops.shape[1]
    return np.asarray(crops[:, np.clip(np.arange(height) - rows, 0, height - 1)], np.uint8)


def mirrored(contract: ModelContract, mark: str = MARK) -> ModelContract:
    """The contract of averages of a face and its mirror image, both embedded by `contract`.

    Args:
        contract: of faces as they are.
        mark: `MARK` or `UNMOVED`; "" for faces as they are.
    """
    return replace(contract, preprocessing=contract.preprocessing + mark)


def mark_of(contract: ModelContract) -> str:
    """The mark that a contract ends in; "" for one of faces as they are."""
    marks = (mark for mark in (MARK, UNMOVED) if contract.preprocessing.endswith(mark))
    return next(marks, "")


def embedder_for(plain: Embedder, contract: ModelContract) -> Embedder:
    """The embedder of a contract's vectors.

    Args:
        plain: of faces as they are.
        contract: of faces as they are, or averaged with mirror images in either way.
    """
    mark = mark_of(contract)
    return MirroredEmbedder(plain, SHIFT if mark == MARK else 0) if mark else plain
