"""Weights files to networks: safetensors, or PyTorch files that hold nothing but tensors.

SFace's bundled file keeps upstream's int8 blocks with their scales and is dequantised at load,
exactly as ONNX's DequantizeLinear defines it. IResNet weights are read in InsightFace's naming and
in AdaFace's (also as CVLFace publishes it).
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from facesearch.errors import ModelError
from facesearch.faces.networks import IRESNET_BLOCKS, IResNet, Mobile, Network, SFace
from facesearch.faces.numpy_sface import INT8, SCALE, ZERO, dequantise

State = dict[str, Tensor]


def load_network(architecture: str, path: Path) -> Network:
    """The network of that architecture with the weights of that file: fp32, on the CPU, unfolded.

    Args:
        architecture: "sface", "mobile", "iresnet50" or "iresnet100".
        path: `.safetensors`, or a PyTorch file holding tensors only.

    Raises:
        ModelError: the file is missing, damaged, holds code, or does not fit the architecture.
    """
    state = read_state(path)
    network: Network
    if architecture in {"sface", "mobile"}:
        state = _dense(state)
        with torch.device("meta"):
            network = SFace() if architecture == "sface" else Mobile()
    elif architecture in IRESNET_BLOCKS:
        state, projected_first = _iresnet_names(state)
        with torch.device("meta"):
            network = IResNet(IRESNET_BLOCKS[architecture], projected_first=projected_first)
    else:
        known = ", ".join(["sface", "mobile", *IRESNET_BLOCKS])
        raise ModelError(f"unknown architecture '{architecture}': use one of {known}")
    wanted = network.state_dict()
    for name in wanted:
        if name.endswith(".num_batches_tracked"):  # bookkeeping of training
            state[name] = torch.zeros((), dtype=torch.long)
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    if mismatch := _mismatch(state, wanted):
        raise ModelError(f"{path}: these are not {architecture} weights: {mismatch}")
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def new_network(architecture: str, seed: int) -> Network:
    """A network with random weights, fp32, on the CPU, to be trained.

    Raises:
        ModelError: unknown architecture.
    """
    torch.manual_seed(seed)
    if architecture in IRESNET_BLOCKS:
        return IResNet(IRESNET_BLOCKS[architecture], projected_first=True)
    if architecture in {"sface", "mobile"}:
        return SFace() if architecture == "sface" else Mobile()
    raise ModelError(f"unknown architecture '{architecture}'")


def read_state(path: Path) -> State:
    """The named tensors of a weights file, on the CPU.

    Raises:
        ModelError: missing, damaged, or holding anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about formats that it then refuses
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as err:
        raise ModelError(f"{path}: no such weights file") from err
    except pickle.UnpicklingError as err:
        raise ModelError(
            f"{path}: damaged, or holds more than tensors and is not opened for safety; "
            "save it as safetensors where you trust it"
        ) from err
    except (SafetensorError, OSError, RuntimeError, EOFError, KeyError, ValueError) as err:
        detail = str(err).partition("\n")[0] or type(err).__name__
        raise ModelError(f"{path}: not a readable weights file ({detail})") from err
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]  # a training checkpoint
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    ):
        raise ModelError(f"{path}: not a table of named tensors (a state dict)")
    return dict(loaded)


def _dense(state: State) -> State:
    dense = {name: t for name, t in state.items() if not name.endswith((INT8, SCALE, ZERO))}
    for base in (name.removesuffix(INT8) for name in state if name.endswith(INT8)):
        parts = [state.get(base + part) for part in (INT8, SCALE, ZERO)]
        arrays = [part.numpy() for part in parts if part is not None]
        if len(arrays) == len(parts) and arrays[0].size % max(arrays[1].size, 1) == 0:
            dense[base] = torch.from_numpy(dequantise(arrays[0], arrays[1], arrays[2]))
    return dense


def _mismatch(state: State, wanted: State) -> str:
    """The first reason in words why `state` does not fit `wanted`; empty if it does."""
    for name, tensor in wanted.items():
        if name not in state:
            return f"'{name}' is missing"
        if state[name].shape != tensor.shape:
            return f"'{name}' is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
    extra = next((name for name in state if name not in wanted), None)
    return f"'{extra}' is unexpected" if extra else ""


_HEAD = {"conv1": "body.0", "bn1": "body.1", "prelu": "body.2"}
_ADAFACE_HEAD = {
    "input_layer.0": "body.0",
    "input_layer.1": "body.1",
    "input_layer.2": "body.2",
    "output_layer.0": "bn2",
    "output_layer.3": "fc",
    "output_layer.4": "features",
}
_RES_LAYER = ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3")


def _iresnet_names(state: State) -> tuple[State, bool]:
    """`state` under the names of `IResNet`, and whether its first shortcut is projected."""
    marks = ("conv1.weight", "input_layer.0.weight")
    first = min((name for name in state if name.endswith(marks)), key=len, default="")
    prefix = first.removesuffix(marks[0]).removesuffix(marks[1])
    found = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    if first.endswith(marks[1]):
        renamed = {_from_adaface(name): tensor for name, tensor in found.items()}
        if "fc.weight" in renamed:  # AdaFace's last norm has no parameters of its own
            outputs = len(renamed["fc.weight"])
            renamed.setdefault("features.weight", torch.ones(outputs))
            renamed.setdefault("features.bias", torch.zeros(outputs))
    else:
        depth = [0, 0, 0, 0]
        for name in found:
            if match := re.match(r"layer([1-4])\.(\d+)\.", name):
                stage = int(match[1]) - 1
                depth[stage] = max(depth[stage], int(match[2]) + 1)
        renamed = {_from_arcface(name, depth): tensor for name, tensor in found.items()}
    return renamed, "body.3.downsample.0.weight" in renamed


def _from_arcface(name: str, depth: list[int]) -> str:
    head, _, rest = name.partition(".")
    if match := re.match(r"layer([1-4])\.(\d+)\.(.+)", name):
        return f"body.{3 + sum(depth[: int(match[1]) - 1]) + int(match[2])}.{match[3]}"
    return f"{_HEAD.get(head, head)}.{rest}"


def _from_adaface(name: str) -> str:
    if match := re.match(r"body\.(\d+)\.res_layer\.([0-5])\.(.+)", name):
        return f"body.{3 + int(match[1])}.{_RES_LAYER[int(match[2])]}.{match[3]}"
    if match := re.match(r"body\.(\d+)\.shortcut_layer\.([01])\.(.+)", name):
        return f"body.{3 + int(match[1])}.downsample.{match[2]}.{match[3]}"
    layer, _, rest = name.rpartition(".")
    return f"{_ADAFACE_HEAD.get(layer, layer)}.{rest}"
