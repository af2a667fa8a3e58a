"""Either model family in torch, on CPU, CUDA and MPS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from facesearch.errors import DeviceError
from facesearch.faces import device as devices
from facesearch.faces.embedder import checked, nothing, unit
from facesearch.faces.known_models import Model
from facesearch.faces.networks import Network, fold
from facesearch.faces.onednn import to_onednn
from facesearch.faces.weights import load_network
from facesearch.settings import EmbedSpec
from facesearch.values import F32, Crops, Embeddings


def load(path: Path, model: Model, spec: EmbedSpec) -> TorchEmbedder:
    """The embedder of a model whose weights are at `path`.

    Raises:
        ModelError: the weights are missing, corrupt or foreign.
        DeviceError: the device asked for is not there.
    """
    device = devices.pick_device(spec.device)
    with _one_thread():  # starting every core for so little work costs more than it saves
        return TorchEmbedder(load_network(model.architecture, path), model, device, spec)


class TorchEmbedder:
    """A network of either family on a device. `embed` may be called from several threads.

    On the CPU every thread embeds a small batch of its own, with one core: no barrier at each
    layer, and steady when other work shares the cores. The torch thread count of the process stays
    as it was.

    Args:
        network: with weights, fp32, unfolded; taken over and changed.
        model: what the weights are.
        device: where it computes.
        spec: precision, threads (CPU) and batch; 0 for automatic.
    """

    def __init__(
        self, network: Network, model: Model, device: torch.device, spec: EmbedSpec
    ) -> None:
        self.contract = model.contract
        self.device = device
        self.dtype = devices.pick_dtype(device, spec.precision)
        self._preprocessing = model.preprocessing
        self._format = torch.contiguous_format if device.type == "mps" else torch.channels_last
        fold(network)
        if device.type == "cpu" and devices.has_onednn():
            to_onednn(network, self.dtype)
        else:
            network.to(device, self.dtype)
            network.to(memory_format=self._format)  # type: ignore[call-overload]
        self._network = network
        self._batch = devices.pick_batch(device, self.dtype, spec.batch)
        self._threads = devices.cpu_threads(spec.threads)
        self._pool = (
            devices.single_core_threads(self._threads, "facesearch-embed")
            if device.type == "cpu"
            else None
        )

    def embed(self, crops: Crops) -> Embeddings:
        """Unit vectors of aligned faces.

        Args:
            crops: (N, 112, 112, 3) uint8 BGR; N may be 0.

        Returns:
            (N, D) float32 unit vectors in the order of `crops`, and the norm of each before
            normalising as its quality.

        Raises:
            ModelError: the network gave no usable vector (its weights are damaged).
            DeviceError: the device's memory does not hold a single face.
        """
        if not len(checked(crops)):
            return nothing(self.contract)
        raw = cast("F32", torch.cat(self._run(crops)).cpu().numpy())
        return unit(raw, self.contract)

    def _run(self, crops: Crops) -> list[Tensor]:
        if self._pool is not None:
            # At most a batch; when there are few crops, an equal share for every thread.
            step = min(self._batch, max(2, -(-len(crops) // self._threads)))
            chunks = (crops[start : start + step] for start in range(0, len(crops), step))
            return list(self._pool.map(self._infer_several, chunks))
        parts: list[Tensor] = []
        done = 0
        while done < len(crops):
            parts.append(self._fit(crops[done:]))
            done += len(parts[-1])
        return parts

    def _fit(self, crops: Crops) -> Tensor:
        """`_infer` of the first crops, a batch at most; after every refusal of half as many."""
        while True:
            with suppress(torch.cuda.OutOfMemoryError):
                return self._infer(crops[: self._batch])
            if self._batch == 1:
                raise DeviceError(f"{self.device}: not enough free memory for a single face")
            self._batch = max(1, min(self._batch, len(crops)) // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _infer_several(self, crops: Crops) -> Tensor:
        """`_infer`; a lone crop goes in twice, since oneDNN rounds one by itself differently.

        So the vector of a face does not depend on which others were embedded with it.
        """
        if len(crops) > 1:
            return self._infer(crops)
        return self._infer(np.concatenate([crops, crops]))[:1]

    def _infer(self, crops: Crops) -> Tensor:
        """(n, D) float32 on the device, not normalised."""
        with torch.inference_mode(), _exact_float32(self.device, self.dtype):
            pixels = torch.from_numpy(np.require(crops, requirements=["C", "W"]))
            if self.device.type == "cuda":
                pixels = pixels.pin_memory().to(self.device, non_blocking=True)
            x = pixels.to(self.device).permute(0, 3, 1, 2)
            if self._preprocessing.order == "rgb":
                x = x.flip(1)
            x = (x.float() - self._preprocessing.mean) / self._preprocessing.scale
            x = x.to(self.dtype).contiguous(memory_format=self._format)
            return cast("Tensor", self._network(x)).float()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _exact_float32(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Keeps cuDNN from rounding float32 to TF32, as it does by default."""
    if device.type == "cuda" and dtype == torch.float32:
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return nullcontext()
