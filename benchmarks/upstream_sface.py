"""Upstream's SFace ONNX file, as a reference to compare with. Needs `onnx` and `onnxruntime`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime

from benchmarks.record import evaluation_data
from facesearch.values import F32, Crops

FILE = "face_recognition_sface_2021dec_int8bq.onnx"


def default_path() -> Path:
    """Beside the evaluation photos: `models/` next to `data/`."""
    return evaluation_data().parent / "models" / FILE


def mended(path: Path) -> bytes:
    """The model with only `data` as graph input, and any number of faces in it.

    As published it lists its weights as inputs too, which onnxruntime and OpenCV 5 refuse.
    """
    model = onnx.load(path)
    inputs = [item for item in model.graph.input if item.name == "data"]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "faces"
    del model.graph.value_info[:]
    return cast("bytes", model.SerializeToString())


class Session:
    """The ONNX file in onnxruntime, fp32 on the CPU."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3  # it warns of initializers that only a Reshape uses
        self._session = onnxruntime.InferenceSession(
            mended(path), options, providers=["CPUExecutionProvider"]
        )

    def embed(self, crops: Crops, batch: int) -> F32:
        """(N, 128) outputs, not normalised, of (N, 112, 112, 3) BGR crops."""
        outputs = []
        for start in range(0, len(crops), batch):
            rgb = crops[start : start + batch, ..., ::-1].transpose(0, 3, 1, 2)
            data = np.ascontiguousarray(rgb, np.float32)  # the graph subtracts and scales
            outputs.append(self._session.run(None, {"data": data})[0])
        return np.concatenate(outputs)
