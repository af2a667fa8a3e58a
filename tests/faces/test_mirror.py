"""A face and its mirror image, averaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facesearch.faces.embed import load_embedder
from facesearch.faces.mirror import MirroredEmbedder, is_mirrored
from facesearch.settings import EmbedSpec


def test_averages_and_does_not_see_which_way_a_face_is_turned(tmp_path: Path) -> None:
    plain = load_embedder(EmbedSpec(device="cpu", precision="fp32"), tmp_path)
    mirrored = MirroredEmbedder(plain)
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)
    flipped = crops[:, :, ::-1]
    found = mirrored.embed(crops)
    a, b = plain.embed(crops), plain.embed(flipped)
    mean = (a.vectors + b.vectors) / 2
    length = np.linalg.norm(mean, axis=1)
    np.testing.assert_allclose(found.vectors, mean / length[:, None], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(found.quality, a.quality, rtol=1e-4)  # as the plain face's
    np.testing.assert_allclose(mirrored.embed(flipped).vectors, found.vectors, atol=1e-5)
    assert np.abs(a.vectors - b.vectors).max() > 0.01  # a plain embedding does see it
    assert len(mirrored.embed(crops[:0])) == 0


def test_contract(tmp_path: Path) -> None:
    plain = load_embedder(EmbedSpec(device="cpu"), tmp_path)
    contract = MirroredEmbedder(plain).contract
    assert is_mirrored(contract)
    assert not is_mirrored(plain.contract)
    assert contract.key != plain.contract.key
    assert contract.dim == pytest.approx(plain.contract.dim)
