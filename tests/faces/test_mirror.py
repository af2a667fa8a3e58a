"""A face and its mirror image, averaged."""

from __future__ import annotations

import numpy as np
import pytest

from facesearch.faces.embed import load_embedder
from facesearch.faces.embedder import Embedder
from facesearch.faces.mirror import (
    MARK,
    SHIFT,
    UNMOVED,
    MirroredEmbedder,
    embedder_for,
    mark_of,
    mirrored,
    moved,
)
from facesearch.settings import EmbedSpec
from facesearch.values import Crops


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    spec = EmbedSpec(device="cpu", precision="fp32")
    return load_embedder(spec, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def crops() -> Crops:
    return np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)


@pytest.mark.parametrize("shift", [0, SHIFT])
def test_averages_the_face_and_its_mirror_image(plain: Embedder, crops: Crops, shift: int) -> None:
    found = MirroredEmbedder(plain, shift).embed(crops)
    up, down = crops.copy(), crops[:, :, ::-1].copy()
    if shift:
        up[:, :-shift], up[:, -shift:] = crops[:, shift:], crops[:, -1:]
        down[:, shift:], down[:, :shift] = crops[:, :-shift, ::-1], crops[:, :1, ::-1]
    a, b = plain.embed(up), plain.embed(down)
    mean = (a.vectors + b.vectors) / 2
    length = np.linalg.norm(mean, axis=1)
    np.testing.assert_allclose(found.vectors, mean / length[:, None], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(found.quality, a.quality, rtol=1e-4)  # of the face not mirrored
    assert np.abs(a.vectors - b.vectors).max() > 0.01  # a plain embedding sees which way it turns
    assert len(MirroredEmbedder(plain, shift).embed(crops[:0])) == 0


def test_unmoved_it_does_not_see_which_way_a_face_is_turned(plain: Embedder, crops: Crops) -> None:
    still = MirroredEmbedder(plain, 0)
    flipped = still.embed(crops[:, :, ::-1]).vectors
    np.testing.assert_allclose(flipped, still.embed(crops).vectors, atol=1e-5)


def test_moving_repeats_the_edge() -> None:
    crop: Crops = np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1).repeat(3, axis=3)
    assert moved(crop, 1)[0, :, 0, 0].tolist() == [0, 0, 1, 2]
    assert moved(crop, -2)[0, :, 0, 0].tolist() == [2, 3, 3, 3]


@pytest.mark.parametrize("mark", [MARK, UNMOVED, ""])
def test_a_contract_names_its_embedder(plain: Embedder, mark: str) -> None:
    contract = mirrored(plain.contract, mark)
    assert mark_of(contract) == mark
    assert embedder_for(plain, contract).contract == contract
    assert (contract.key == plain.contract.key) == (mark == "")
    assert contract.dim == plain.contract.dim
