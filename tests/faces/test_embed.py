"""Embeddings: equal to upstream's ONNX file, whatever the batch, thread, precision and device."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor

from facesearch.errors import DeviceError, ModelError
from facesearch.faces import device as devices
from facesearch.faces.embed import FEW, FewFaces, load_embedder, load_probe_embedder
from facesearch.faces.embedder import embed_each
from facesearch.faces.extract import Extractor, principal
from facesearch.faces.known_models import KNOWN, Preprocessing
from facesearch.faces.networks import Network
from facesearch.faces.numpy_sface import NumpySFace
from facesearch.faces.registry import resolve
from facesearch.faces.torch_embed import TorchEmbedder
from facesearch.faces.weights import load_network
from facesearch.settings import DetectSpec, EmbedSpec, PhotoLimits
from facesearch.values import F32, Crops

GOLDEN = np.load(Path(__file__).parent / "golden_sface.npz")
CROPS: Crops = GOLDEN["crops"]
OUTPUTS: F32 = GOLDEN["outputs"]
"""Of upstream's ONNX file in onnxruntime, by benchmarks/golden_sface.py."""
UNIT = OUTPUTS / np.linalg.norm(OUTPUTS, axis=1, keepdims=True)
CPU = EmbedSpec(device="cpu")
FP32 = EmbedSpec(device="cpu", precision="fp32")


def sface(spec: EmbedSpec) -> TorchEmbedder:
    return cast("TorchEmbedder", load_embedder(spec, Path("/nonexistent")))


@pytest.fixture(scope="module")
def fp32() -> TorchEmbedder:
    return sface(FP32)


@pytest.fixture(scope="module")
def auto() -> TorchEmbedder:
    return sface(CPU)


def least_cosine(a: F32, b: F32) -> float:
    return float(np.einsum("nd,nd->n", a.astype(float), b.astype(float)).min())


def test_float32_equals_the_onnx_file(fp32: TorchEmbedder) -> None:
    found = fp32.embed(CROPS)
    assert fp32.dtype == torch.float32
    assert least_cosine(found.vectors, UNIT) >= 0.99999
    assert np.allclose(found.quality, np.linalg.norm(OUTPUTS, axis=1), rtol=1e-4)


def test_the_fast_path_stays_close_to_the_onnx_file(auto: TorchEmbedder) -> None:
    found = auto.embed(CROPS)
    assert least_cosine(found.vectors, UNIT) >= 0.999
    assert np.allclose(found.quality, np.linalg.norm(OUTPUTS, axis=1), rtol=0.02)


@pytest.mark.accuracy
def test_the_fast_path_stays_close_on_every_one_of_500_faces(
    fp32: TorchEmbedder, auto: TorchEmbedder, eval_data: Path
) -> None:
    extract = Extractor(DetectSpec(sizes=(320,)), PhotoLimits())
    crops = []
    for path in sorted((eval_data / "lfw-dev" / "photos").glob("*/*.jpg"))[::12]:
        found = extract(path.read_bytes(), str(path))
        if len(found.crops):
            crops.append(found.crops[principal(found.detections, found.size)])
    faces = np.stack(crops)[:500]
    assert len(faces) == 500
    assert least_cosine(auto.embed(faces).vectors, fp32.embed(faces).vectors) >= 0.999


def test_vectors_have_unit_length(auto: TorchEmbedder) -> None:
    found = auto.embed(CROPS)
    assert found.vectors.dtype == found.quality.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)


def test_no_faces_give_no_vectors(auto: TorchEmbedder) -> None:
    found = auto.embed(CROPS[:0])
    assert found.vectors.shape == (0, 128)
    assert found.quality.shape == (0,)
    assert found.contract == auto.contract


@pytest.mark.parametrize("spec", [FP32, CPU], ids=["fp32", "auto"])
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (4, 3), (64, 2)])
def test_batches_and_threads_change_nothing(spec: EmbedSpec, batch: int, threads: int) -> None:
    many = np.concatenate([CROPS, CROPS[::-1], CROPS[2:3]])  # 13: ragged in every case
    found = sface(dataclasses.replace(spec, batch=batch, threads=threads)).embed(many)
    expected = np.concatenate([UNIT, UNIT[::-1], UNIT[2:3]])
    assert least_cosine(found.vectors, expected) >= (0.99999 if spec is FP32 else 0.999)


def test_one_at_a_time_equals_all_together(fp32: TorchEmbedder) -> None:
    alone = np.concatenate([fp32.embed(crop[None]).vectors for crop in CROPS])
    assert np.allclose(alone, fp32.embed(CROPS).vectors, atol=1e-5)


def test_company_does_not_change_a_vector(auto: TorchEmbedder) -> None:
    """To the last bit: a photo read again by itself has the faces that it had among others."""
    many = np.concatenate([np.roll(CROPS, by, axis=1) for by in range(-8, 9)])
    expected = auto.embed(many).vectors
    for size in (1, 2, 3, 7):
        parts = [auto.embed(many[i : i + size]).vectors for i in range(0, len(many), size)]
        np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_the_contract_names_upstreams_file_and_the_colour_order(auto: TorchEmbedder) -> None:
    assert auto.contract.name == "sface"
    assert auto.contract.dim == 128
    assert auto.contract.preprocessing == "112x112 RGB (x-127.5)/128"
    assert auto.contract.sha256.startswith("fb143eea07838aa5")


def embedder_with(preprocessing: Preprocessing) -> TorchEmbedder:
    path, model = resolve("sface", Path("/nonexistent"))
    network = load_network("sface", path)
    changed = dataclasses.replace(model, preprocessing=preprocessing)
    return TorchEmbedder(network, changed, torch.device("cpu"), FP32)


def test_colour_is_flipped_once_for_rgb_and_never_for_bgr(fp32: TorchEmbedder) -> None:
    flipped = CROPS[..., ::-1]
    bgr = embedder_with(Preprocessing("bgr", 127.5, 128.0))
    assert bgr.contract.preprocessing == "112x112 BGR (x-127.5)/128"
    assert bgr.contract.key != fp32.contract.key
    assert np.array_equal(bgr.embed(flipped).vectors, fp32.embed(CROPS).vectors)
    assert least_cosine(fp32.embed(flipped).vectors, UNIT) < 0.99, "the order matters"


def test_mean_and_scale_are_applied(fp32: TorchEmbedder) -> None:
    same = embedder_with(Preprocessing("rgb", 127.5, 128.0)).embed(CROPS).vectors
    other = embedder_with(Preprocessing("rgb", 0.0, 255.0)).embed(CROPS).vectors
    assert np.array_equal(same, fp32.embed(CROPS).vectors)
    assert least_cosine(other, UNIT) < 0.99


def test_read_only_and_strided_crops(fp32: TorchEmbedder) -> None:
    frozen = CROPS.copy()
    frozen.flags.writeable = False
    mirrored = np.asfortranarray(CROPS)[:, :, ::-1]
    assert np.array_equal(fp32.embed(frozen).vectors, fp32.embed(CROPS).vectors)
    assert np.array_equal(
        fp32.embed(mirrored).vectors, fp32.embed(np.ascontiguousarray(mirrored)).vectors
    )


@pytest.mark.parametrize(
    "crops", [CROPS.astype(np.float32), CROPS[:, :111], CROPS[0], CROPS[..., :1]]
)
def test_what_are_not_crops_is_refused(crops: Crops, auto: TorchEmbedder) -> None:
    with pytest.raises(ValueError, match="crops must be"):
        auto.embed(crops)


def test_groups_are_embedded_together_and_told_apart(fp32: TorchEmbedder) -> None:
    groups = [CROPS[:2], CROPS[:0], CROPS[2:3], CROPS[3:]]
    found = embed_each(fp32, groups)
    assert [len(f) for f in found] == [2, 0, 1, 3]
    assert np.allclose(np.concatenate([f.vectors for f in found]), fp32.embed(CROPS).vectors)
    assert embed_each(fp32, []) == []


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_unusable_vector_is_an_error(value: float) -> None:
    path, model = resolve("sface", Path("/nonexistent"))
    network = load_network("sface", path)
    network.fc.weight.data.fill_(value)
    network.fc.bias.data.fill_(0)
    for name in ("running_mean", "bias"):
        getattr(network.features, name).data.zero_()
    network.bn2.get_parameter("bias").data.zero_()
    cast("Tensor", network.bn2.running_mean).zero_()
    with pytest.raises(ModelError, match="zero or not finite"):
        TorchEmbedder(network, model, torch.device("cpu"), FP32).embed(CROPS[:1])


def test_threads_of_the_process_are_left_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        sface(dataclasses.replace(CPU, threads=2)).embed(CROPS)
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:  # a thread started later takes over the setting
            pool.submit(torch.get_num_threads).result()
            assert pool.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


def test_callers_on_several_threads(fp32: TorchEmbedder) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: fp32.embed(CROPS).vectors, range(8)))
    assert all(np.allclose(vectors, found[0], atol=1e-6) for vectors in found)


def test_without_onednn_or_bfloat16_the_result_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "has_onednn", lambda: False)
    without = sface(CPU)
    assert without.dtype == torch.float32
    assert least_cosine(without.embed(CROPS).vectors, UNIT) >= 0.99999
    monkeypatch.undo()
    monkeypatch.setattr(devices, "has_bfloat16", lambda: False)
    assert sface(CPU).dtype == torch.float32


class Narrow(Network):
    """A network on a device that holds only so many faces at once."""

    def __init__(self, inner: torch.nn.Module, room: int) -> None:
        torch.nn.Module.__init__(self)
        self.inner, self.room = inner, room
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.room:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return cast("Tensor", self.inner(x))


def without_pool(spec: EmbedSpec, room: int) -> tuple[TorchEmbedder, Narrow]:
    """An embedder that works as on an accelerator: one batch after another, with little room."""
    embedder = sface(spec)
    network = Narrow(embedder._network, room)
    embedder._pool, embedder._network = None, network
    return embedder, network


def test_out_of_memory_halves_the_batch_and_loses_nothing() -> None:
    embedder, network = without_pool(dataclasses.replace(FP32, batch=13), room=3)
    many = np.concatenate([CROPS, CROPS, CROPS[:1]])
    found = embedder.embed(many)
    assert least_cosine(found.vectors, np.concatenate([UNIT, UNIT, UNIT[:1]])) >= 0.99999
    assert network.seen == [13, 6, 3, 3, 3, 3, 1]
    network.seen.clear()
    embedder.embed(many)
    assert max(network.seen) == 3, "it remembers what fits"


def test_no_room_for_a_single_face_is_an_error() -> None:
    embedder, _ = without_pool(FP32, room=0)
    with pytest.raises(DeviceError, match="not enough free memory for a single face"):
        embedder.embed(CROPS)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'facenet': known are sface, "):
        load_embedder(EmbedSpec(model="facenet", device="cpu"), Path("/nonexistent"))


def test_every_built_in_preprocessing_is_stated() -> None:
    assert {str(m.preprocessing) for m in KNOWN} == {
        "112x112 RGB (x-127.5)/128",
        "112x112 RGB (x-127.5)/127.5",
        "112x112 BGR (x-127.5)/127.5",
    }


# --- devices


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretends that a number of CUDA devices, and no MPS, are here."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return pretend


def test_auto_takes_the_first_gpu_or_the_cpu(gpus: Callable[[int], None]) -> None:
    gpus(2)
    assert devices.pick_device("auto") == torch.device("cuda:0")
    gpus(0)
    assert devices.pick_device("auto") == torch.device("cpu")


def test_auto_takes_mps_where_there_is_no_cuda(
    gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices.pick_device("auto") == devices.pick_device("mps") == torch.device("mps")
    assert devices.pick_dtype(torch.device("mps"), "auto") == torch.float32


def test_named_devices(gpus: Callable[[int], None]) -> None:
    gpus(2)
    assert devices.pick_device("cuda") == torch.device("cuda:0")
    assert devices.pick_device("cuda:1") == torch.device("cuda:1")
    assert devices.pick_device("cpu") == torch.device("cpu")
    assert devices.pick_dtype(torch.device("cuda"), "auto") == torch.float16
    assert devices.pick_dtype(torch.device("cuda"), "fp32") == torch.float32


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (0, "cuda", "no CUDA device can be used here"),
        (0, "cuda:1", "no CUDA device can be used here"),
        (2, "cuda:2", "there is no cuda:2 here: the devices are cuda:0 to 1"),
        (0, "mps", r"no Apple GPU \(MPS\)"),
        (2, "cuda:-1", "unknown device 'cuda:-1'"),
        (2, "gpu", "unknown device 'gpu': use auto, cuda, cuda:N, mps or cpu"),
    ],
)
def test_a_missing_device_is_an_error(
    count: int, name: str, message: str, gpus: Callable[[int], None]
) -> None:
    gpus(count)
    with pytest.raises(DeviceError, match=message):
        load_embedder(EmbedSpec(device=name), Path("/nonexistent"))


@pytest.mark.parametrize(("free_gib", "batch"), [(0.01, 1), (1, 21), (80, 256)])
def test_the_batch_follows_free_memory(
    free_gib: float, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = int(free_gib * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 2**30))
    assert devices.pick_batch(torch.device("cuda"), torch.float16, 0) == batch
    assert devices.pick_batch(torch.device("cuda"), torch.float16, 5) == 5


def test_embedding_needs_no_compiler() -> None:
    """What a first answer must not wait for."""
    code = (
        "import sys; from pathlib import Path; import facesearch.faces.embed as e;"
        "from facesearch.settings import EmbedSpec;"
        "e.load_embedder(EmbedSpec(device='cpu'), Path('/nonexistent'));"
        "print([m for m in ('torch._dynamo', 'torch._inductor', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_numpy_equals_the_onnx_file() -> None:
    path, model = resolve("sface", Path("/nonexistent"))
    found = NumpySFace(path, model.preprocessing)(CROPS)
    assert found.dtype == np.float32
    assert np.allclose(found, OUTPUTS, atol=2e-4)


def test_numpy_heeds_the_preprocessing(fp32: TorchEmbedder) -> None:
    path, _model = resolve("sface", Path("/nonexistent"))
    for changed in (Preprocessing("bgr", 127.5, 128.0), Preprocessing("rgb", 100.0, 64.0)):
        expected = embedder_with(changed).embed(CROPS).vectors
        found = NumpySFace(path, changed)(CROPS)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        assert least_cosine(found, expected) >= 0.99999


def test_torch_takes_over_where_it_pays(fp32: TorchEmbedder) -> None:
    path, model = resolve("sface", Path("/nonexistent"))
    loaded: list[int] = []

    def load() -> TorchEmbedder:
        loaded.append(1)
        return fp32

    probes = FewFaces(NumpySFace(path, model.preprocessing), model.contract, load)
    assert len(probes.embed(CROPS[:0])) == 0
    first = probes.embed(CROPS)
    assert not loaded
    assert first.contract == fp32.contract
    assert np.allclose(first.vectors, fp32.embed(CROPS).vectors, atol=1e-5)
    assert np.allclose(first.quality, fp32.embed(CROPS).quality, rtol=1e-4)
    many = np.concatenate([CROPS] * FEW)
    assert np.allclose(probes.embed(many).vectors[: len(CROPS)], first.vectors, atol=1e-5)
    probes.embed(CROPS)
    assert loaded == [1]


def test_a_device_asked_for_is_never_replaced() -> None:
    def refuse() -> TorchEmbedder:
        raise DeviceError("not there")

    with pytest.raises(DeviceError):
        load_probe_embedder(EmbedSpec(device="cuda"), Path("/nonexistent"), refuse)


@pytest.mark.parametrize("damage", ["missing", "truncated", "foreign"])
def test_numpy_refuses_what_are_not_its_weights(damage: str, tmp_path: Path) -> None:
    path, model = resolve("sface", Path("/nonexistent"))
    file = tmp_path / "w.safetensors"
    if damage == "truncated":
        file.write_bytes(path.read_bytes()[:100_000])
    elif damage == "foreign":
        save_file({"layer1.weight": np.zeros((3, 3), np.float32)}, file)
    with pytest.raises(ModelError, match=r"w\.safetensors"):
        NumpySFace(file, model.preprocessing)


def test_one_probe_is_answered_without_torch() -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; import facesearch.faces.embed as e;"
        "from facesearch.settings import EmbedSpec; spec = EmbedSpec();"
        "probes = e.load_probe_embedder(spec, Path('/none'), lambda: 1 / 0);"
        "print(probes.embed(np.zeros((1, 112, 112, 3), np.uint8)).vectors.shape,"
        "'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 128) False"
