"""An album of small photos, one face each, all different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def make_album(demo_photos: Path, tmp_path: Path) -> Callable[[int], Path]:
    """A folder of so many different photos with a face, small and quick to read."""
    portraits = []
    for source in sorted((demo_photos / "people").rglob("*.jpg")):
        pixels = cv2.imread(str(source))
        assert pixels is not None
        side = 160 / max(pixels.shape)
        portraits.append(cv2.resize(pixels, None, fx=side, fy=side, interpolation=cv2.INTER_AREA))

    def make(photos: int) -> Path:
        folder = tmp_path / "album"
        folder.mkdir()
        for i in range(photos):
            moved = np.roll(portraits[i % len(portraits)], i // len(portraits), axis=1)
            cv2.imwrite(str(folder / f"{i:03}.png"), moved)
        return folder

    return make
