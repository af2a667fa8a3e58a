"""The embedder of a model, for bulk work and for probes.

Embedding is torch's work (`torch_embed`). But importing torch takes longer than all the rest of
answering one photo, so the first few faces of SFace are embedded in numpy (`numpy_sface`), where
nobody asked for another device. This module imports neither until it is needed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

from facesearch.faces import registry
from facesearch.faces.embedder import Embedder, checked, nothing, unit
from facesearch.settings import EmbedSpec
from facesearch.values import F32, Crops, Embeddings, ModelContract

FEW = 32
"""Faces that numpy embeds in about the time that importing torch takes."""


def load_embedder(spec: EmbedSpec, models_dir: Path) -> Embedder:
    """The embedder of `spec.model` on `spec.device`.

    Args:
        spec: model, device, precision, threads and batch.
        models_dir: where downloaded and registered weights are.

    Raises:
        ModelError: no such model, or its weights are missing, corrupt or foreign.
        DeviceError: the device asked for is not there.
    """
    from facesearch.faces import torch_embed

    path, model = registry.resolve(spec.model, models_dir)
    return torch_embed.load(path, model, spec)


def load_probe_embedder(
    spec: EmbedSpec, models_dir: Path, load: Callable[[], Embedder]
) -> Embedder:
    """The embedder for probes: ready at once where it can be, else what `load` gives.

    Its vectors are those of `load`'s in float32.

    Args:
        spec: as for `load_embedder`.
        models_dir: as for `load_embedder`.
        load: gives the embedder of `spec`.

    Raises:
        As `load_embedder`.
    """
    if "torch" in sys.modules or spec.device not in {"auto", "cpu"}:
        return load()
    path, model = registry.resolve(spec.model, models_dir)
    if model.architecture != "sface" or path.suffix != ".safetensors":
        return load()
    from facesearch.faces.numpy_sface import NumpySFace

    return FewFaces(NumpySFace(path, model.preprocessing), model.contract, load)


class FewFaces:
    """Embeds in numpy until `FEW` faces have come, and in torch from then on.

    Args:
        network: crops to embeddings of any length.
        contract: of both.
        load: gives the embedder in torch.
    """

    def __init__(
        self,
        network: Callable[[Crops], F32],
        contract: ModelContract,
        load: Callable[[], Embedder],
    ) -> None:
        self.contract = contract
        self._network = network
        self._load = load
        self._faces = 0
        self._torch: Embedder | None = None
        self._lock = threading.Lock()

    def embed(self, crops: Crops) -> Embeddings:
        """Unit vectors of (N, 112, 112, 3) uint8 BGR crops, in order; N may be 0."""
        if not len(checked(crops)):
            return nothing(self.contract)
        with self._lock:
            self._faces += len(crops)
            if self._torch is None and self._faces > FEW:
                self._torch = self._load()
        if self._torch is not None:
            return self._torch.embed(crops)
        return unit(self._network(crops), self.contract)
