"""An upgrade killed while another process searches, and rolled back, on a small scale."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks.upgrade import drill, prepare


def test_a_killed_upgrade_loses_nothing_and_mixes_nothing(
    tmp_path: Path, demo_photos: Path
) -> None:
    def album(name: str, first: int, photos: int) -> list[tuple[Path, str]]:
        made = []
        portraits = sorted((demo_photos / "people").rglob("*.jpg"))
        for i in range(first, first + photos):
            source = portraits[i % len(portraits)]
            pixels = cv2.imread(str(source))
            assert pixels is not None
            small = cv2.resize(pixels, (120, 150), interpolation=cv2.INTER_AREA)
            path = tmp_path / name / f"{i:03}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), np.roll(small, i // len(portraits), axis=1))
            made.append((path, source.parent.name))
        return made

    prepare(tmp_path / "library", album("album", 0, 90))
    album("extra", 90, 9)
    probes = [path for path, _ in album("probes", 99, 6)]
    found = drill(tmp_path / "library", probes, tmp_path / "extra", kills=1)
    assert (found.faces, found.added, len(found.kills)) == (90, 9, 1)
    assert (found.failed, found.neither, found.missing, found.problems) == (0, 0, 0, [])
    assert found.former + found.other == found.queries
    assert found.sound
