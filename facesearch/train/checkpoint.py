"""Where a training run stands, in one file: named tensors, and the rest as JSON in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from facesearch.errors import LibraryError, UsageError

_KEY = "facesearch"


def save(path: Path, told: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Replace the checkpoint, all or nothing.

    Args:
        path: `.safetensors`.
        told: what JSON can hold.
        tensors: by group and name.

    Raises:
        LibraryError: it cannot be written.
    """
    beside = path.with_suffix(".part")
    flat = {
        f"{group}.{name}": tensor.detach().cpu().contiguous()
        for group, named in tensors.items()
        for name, tensor in named.items()
    }
    try:
        save_file(flat, beside, {_KEY: json.dumps(told)})
        os.replace(beside, path)
    except (OSError, SafetensorError) as err:
        raise LibraryError(f"{path}: cannot be written ({err})") from err


def load(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """What `save` was given; groups without a tensor are missing.

    Raises:
        UsageError: there is no such file, or it is no checkpoint.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            told: dict[str, Any] = json.loads(file.metadata()[_KEY])
            for full in file.keys():  # noqa: SIM118
                group, _, name = full.partition(".")
                groups.setdefault(group, {})[name] = file.get_tensor(full)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as err:
        raise UsageError(f"{path}: no checkpoint to go on from ({err})") from err
    return told, groups
