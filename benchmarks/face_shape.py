"""The mean face in three dimensions, from labelled points of many people.

    python -m benchmarks.face_shape [FOLDER]

FOLDER is FACESEARCH_EVAL_DATA/landmarks68 unless given. Prints the table of
`facesearch/faces/face_shape.py`. Every photo is a rigid, symmetric face seen from afar: its points
are s R X + t. Shape X and poses (s, R) are found in turns, by least squares, from photos and their
mirror images, starting from a shape that bends back from the middle.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import evaluation_data
from facesearch.faces.landmark_crops import MIRRORED
from facesearch.train.landmarks_data import read

F64 = NDArray[np.float64]
ROUNDS = 150


def poses(shape: F64, seen: F64) -> tuple[F64, F64]:
    """Rotations, their first two rows (F, 2, 3), and scales (F,) that take a shape to points."""
    affine = np.einsum("fki,kj->fij", seen, shape) @ np.linalg.inv(shape.T @ shape)
    u, s, vt = np.linalg.svd(affine, full_matrices=False)
    return np.asarray(u @ vt), np.asarray(s.mean(axis=1))


def factored(points: F64) -> tuple[F64, float]:
    """The shape (68, 3), outer eye corners 1 apart, and the error left, in that unit."""
    seen = points * [1.0, -1.0]
    seen = seen - seen.mean(axis=1, keepdims=True)
    seen = seen / np.sqrt((seen**2).sum(axis=(1, 2)))[:, None, None]
    seen = np.concatenate([seen, (seen * [-1, 1])[:, MIRRORED]])
    flat = seen.mean(axis=0)
    shape = np.column_stack([flat, -(flat[:, 0] ** 2) / np.abs(flat[:, 0]).max()])
    shape[27:36, 2] += 0.05  # the nose stands out
    for _ in range(ROUNDS):
        rotation, scale = poses(shape - shape.mean(axis=0), seen)
        maps = rotation * scale[:, None, None]
        shape = np.einsum("fij,fki->kj", maps, seen) @ np.linalg.inv(
            np.einsum("fij,fik->jk", maps, maps)
        )
        shape = (shape + shape[MIRRORED] * [-1, 1, 1]) / 2
        shape = shape - shape.mean(axis=0)
    off = np.einsum("fij,kj->fki", maps, shape) - seen
    unit = float(np.linalg.norm(shape[36] - shape[45]))
    left = float(np.sqrt((off**2).sum(axis=2).mean())) / (unit * scale.mean())
    forward = np.cross(rotation[:, 0], rotation[:, 1])  # how each photo's depth lies in the shape
    nod = float(np.median(np.arctan2(forward[:, 1], forward[:, 2])))
    cos, sin = np.cos(nod), np.sin(nod)
    upright = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return shape @ upright.T / unit, left


def main() -> None:
    """Print the table."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else evaluation_data() / "landmarks68"
    shape, left = factored(read(root).points)
    for x, y, z in np.round(shape, 3) + 0.0:
        print(f"    [{x:.3f}, {y:.3f}, {z:.3f}],")
    print(f"error left: {left:.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
