"""Photos with random faces, as extraction would hand them over."""

from __future__ import annotations

import numpy as np

from facesearch.store.outcomes import Extracted, FileStamp
from facesearch.values import Detections, Embeddings, ModelContract

CONTRACT = ModelContract("test", "0" * 64, "112x112 RGB", 8)


def extracted(path: str, sha256: str, faces: int = 1, seed: int = 0) -> Extracted:
    """A photo with random faces, as extraction would hand it over."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((faces, CONTRACT.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    corners = rng.uniform(0, 100, (faces, 2)).astype(np.float32)
    return Extracted(
        FileStamp(path, 1000, 1),
        sha256,
        (640, 480),
        Detections(
            np.hstack([corners, corners + 50]).astype(np.float32),
            rng.uniform(0, 100, (faces, 5, 2)).astype(np.float32),
            np.linspace(0.99, 0.9, faces, dtype=np.float32),
        ),
        Embeddings(vectors, np.full(faces, 10, np.float32), CONTRACT),
        np.linspace(0.9, 0.5, faces, dtype=np.float32),
        ("",) * faces,
    )
