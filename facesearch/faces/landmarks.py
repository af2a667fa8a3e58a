"""Faces to 68 landmarks each, in the order of iBUG's 300-W, by a network trained in this project.

Crops are cut by the detector's five landmarks. Each is seen as it is and mirrored, and the two are
averaged. docs/landmarks.md has the figures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from facesearch.errors import ModelError
from facesearch.faces import device as devices
from facesearch.faces.landmark_crops import MIRRORED, SIDE, crop_matrices, face_crops, moved_back
from facesearch.faces.landmark_networks import NETWORKS, OFFSET, Heat, Plain, fold
from facesearch.faces.registry import BUNDLED_SHA256
from facesearch.resources import shipped
from facesearch.settings import LandmarkSpec
from facesearch.values import F32, Detections, Photo, Pixels

BATCH = {"cpu": 16, "cuda": 256, "mps": 64}
"""Faces at once, by kind of device."""
POINTS = 68


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Landmarks of N faces.

    Attributes:
        points: (N, 68, 2) float32 x y in pixels of the upright original; may lie outside it.
        unsure: (N, 68) float32, how far a point may be off by the network's own account, as part of
            the distance between the outer corners of the eyes; 0 where it gives none ("plain").
    """

    points: F32
    unsure: F32

    def __len__(self) -> int:
        return len(self.points)


def weights_file(network: str) -> Path:
    """Where the weights of a network are that ship."""
    return shipped("models") / f"landmarks_{network}.safetensors"


class Landmarker:
    """A landmark network on a device. May be called from several threads.

    Args:
        spec: which network, on what, how.
        weights: file of weights of that network, before that of `spec`.

    Raises:
        ModelError: the weights are missing, damaged or another network's.
        DeviceError: the device asked for is not there.
    """

    def __init__(self, spec: LandmarkSpec, weights: Path | None = None) -> None:
        self.network = spec.network
        self.device = devices.pick_device(spec.device)
        self.dtype = devices.pick_dtype(self.device, spec.precision)
        given = weights or (Path(spec.weights) if spec.weights else None)
        network, self._offset = load_network(spec.network, given)
        fold(network)
        network.to(self.device, self.dtype)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network
        self._mirror = spec.mirror

    def __call__(self, photo: Photo, detections: Detections) -> Landmarks:
        """The landmarks of faces found in a photo.

        Args:
            photo: where they are, at any decode scale.
            detections: N faces in pixels of the upright original; N may be 0.
        """
        matrices = crop_matrices(detections.landmarks)
        points, spread = self.of_crops(face_crops(photo, matrices))
        outer = np.linalg.norm(points[:, 36] - points[:, 45], axis=1)
        unsure = spread / np.maximum(outer, 1e-6)[:, None]
        original = moved_back(points, matrices)
        apart = np.linalg.norm(original[:, 36] - original[:, 45], axis=1)
        original[..., 0] += self._offset * apart[:, None]
        return Landmarks(original.astype(np.float32), unsure.astype(np.float32))

    def of_crops(self, crops: Pixels) -> tuple[F32, F32]:
        """Points (N, 68, 2) and their spread (N, 68), in pixels of (N, 128, 128, 3) BGR crops."""
        size = BATCH[self.device.type]
        parts = [self._infer(crops[i : i + size]) for i in range(0, len(crops), size)]
        if not parts:
            return np.zeros((0, POINTS, 2), np.float32), np.zeros((0, POINTS), np.float32)
        points, spread = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        at = (points * SIDE - 0.5).astype(np.float32)
        return at, (spread * SIDE).astype(np.float32)

    def _infer(self, crops: Pixels) -> tuple[F32, F32]:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(crops[..., ::-1])).to(self.device)
            x = (pixels.permute(0, 3, 1, 2).to(self.dtype) / 255).contiguous(
                memory_format=torch.channels_last
            )
            if not self._mirror:
                points, spread = self._network(x)
                return points.float().cpu().numpy(), spread.float().cpu().numpy()
            both, spreads = self._network(torch.cat([x, x.flip(3)]))
            points, flipped = both.float().cpu().numpy().reshape(2, len(crops), POINTS, 2)
            spread, other = spreads.float().cpu().numpy().reshape(2, len(crops), POINTS)
            back = flipped[:, MIRRORED] * np.array([-1, 1]) + np.array([1, 0])
            return (points + back) / 2, (spread + other[:, MIRRORED]) / 2


def load_network(network: str, weights: Path | None = None) -> tuple[Plain | Heat, float]:
    """A landmark network with weights (float32, on the CPU, unfolded), and its labels' offset.

    Args:
        network: "heat" or "plain".
        weights: a file that training wrote; None for the one that ships, whose hash is checked.

    Raises:
        ModelError: no such network, or its weights are missing, damaged or another's.
    """
    if network not in NETWORKS:
        raise ModelError(f"unknown landmark network '{network}': use {' or '.join(NETWORKS)}")
    path = weights or weights_file(network)
    if weights is None and path.name not in BUNDLED_SHA256:
        raise ModelError(
            f"no weights of the landmark network '{network}' ship: train it with "
            f"'facesearch train landmarks DATA --network {network}', then say --weights FILE"
        )
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ModelError(f"{path}: landmark weights cannot be read ({err.strerror})") from err
    if weights is None and hashlib.sha256(data).hexdigest() != BUNDLED_SHA256[path.name]:
        raise ModelError(f"{path}: not the landmark weights that ship; install facesearch again")
    net = NETWORKS[network]()
    try:
        state = {name: tensor.float() for name, tensor in load(data).items()}
        offset = float(state.pop(OFFSET, torch.zeros(1)))
        wanted = net.state_dict()
        counters = {n: t for n, t in wanted.items() if n.endswith("num_batches_tracked")}
        net.load_state_dict(counters | state)
    except (SafetensorError, RuntimeError, ValueError) as err:
        raise ModelError(f"{path}: not weights of the landmark network '{network}'") from err
    return net.eval().requires_grad_(requires_grad=False), offset
