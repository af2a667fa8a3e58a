"""Weights files: both published layouts, exact dequantisation, and everything that is refused."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from facesearch.errors import ModelError
from facesearch.faces.networks import IRESNET_BLOCKS
from facesearch.faces.numpy_sface import dequantise
from facesearch.faces.weights import load_network, read_state
from facesearch.resources import shipped

SFACE = "face_recognition_sface_2021dec_int8bq.safetensors"
DEPTHS = (2, 1, 3, 1)
"""Shallow, to be quick: test_networks.py checks the real depths."""
WIDTHS = (64, 128, 256, 512)


class ArcFaceBlock(nn.Module):
    """As InsightFace's arcface_torch names and wires it."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.prelu = nn.PReLU(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        out += x if self.downsample is None else self.downsample(x)
        return torch.as_tensor(out)


class ArcFace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        before = 64
        for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), start=1):
            blocks = [ArcFaceBlock(before, width, 2)]
            blocks += [ArcFaceBlock(width, width, 1) for _ in range(depth - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            before = width
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 49, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return torch.as_tensor(self.features(self.fc(torch.flatten(self.bn2(x), 1))))


class AdaFaceBlock(nn.Module):
    """As AdaFace's net.py names and wires it."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if before != after:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Conv2d(before, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.PReLU(after),
            nn.Conv2d(after, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.res_layer(x) + self.shortcut_layer(x))


class AdaFace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        blocks, before = [], 64
        for depth, width in zip(DEPTHS, WIDTHS, strict=True):
            blocks.append(AdaFaceBlock(before, width, 2))
            blocks += [AdaFaceBlock(width, width, 1) for _ in range(depth - 1)]
            before = width
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(512 * 49, 512),
            nn.BatchNorm1d(512, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.output_layer(self.body(self.input_layer(x))))


def randomised(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(11)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.ndim >= 2:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        elif tensor.is_floating_point() and not name.endswith(".weight"):
            tensor.uniform_(-0.2, 0.2, generator=generator)
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(autouse=True)
def _shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IRESNET_BLOCKS, "iresnet50", DEPTHS)


X = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.fixture(scope="module")
def arcface() -> nn.Module:
    return randomised(ArcFace())


@pytest.fixture(scope="module")
def adaface() -> nn.Module:
    return randomised(AdaFace())


def test_insightface_layout_from_safetensors(arcface: nn.Module, tmp_path: Path) -> None:
    save_file(arcface.state_dict(), tmp_path / "r50.safetensors")
    loaded = load_network("iresnet50", tmp_path / "r50.safetensors")
    assert torch.allclose(loaded(X), arcface(X), atol=1e-5)


def test_insightface_layout_from_a_half_precision_data_parallel_pt(
    arcface: nn.Module, tmp_path: Path
) -> None:
    state = {f"module.{n}": t.half() for n, t in arcface.state_dict().items()}
    torch.save(state, tmp_path / "backbone.pth")
    loaded = load_network("iresnet50", tmp_path / "backbone.pth")
    assert next(loaded.parameters()).dtype == torch.float32
    assert float(torch.cosine_similarity(loaded(X), arcface(X))) > 0.9999


def test_adaface_layout_from_a_training_checkpoint(adaface: nn.Module, tmp_path: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in adaface.state_dict().items()}
    state["head.kernel"] = torch.zeros(512, 10)  # the classifier it was trained with
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "adaface.ckpt")
    loaded = load_network("iresnet50", tmp_path / "adaface.ckpt")
    assert torch.allclose(loaded(X), adaface(X), atol=1e-5)


def test_adaface_layout_as_cvlface_publishes_it(adaface: nn.Module, tmp_path: Path) -> None:
    state = {f"net.{name}": tensor for name, tensor in adaface.state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    assert torch.allclose(
        load_network("iresnet50", tmp_path / "model.pt")(X), adaface(X), atol=1e-5
    )


def test_weights_of_another_depth_are_refused(arcface: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "r50.safetensors"
    save_file(arcface.state_dict(), path)
    with pytest.raises(ModelError, match=r"not iresnet100 weights: 'body\.\d+\.") as caught:
        load_network("iresnet100", path)
    assert "\n" not in str(caught.value)


def test_a_wrong_shape_is_named(arcface: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "r50.safetensors"
    state = dict(arcface.state_dict())
    state["fc.weight"] = torch.zeros(256, 512 * 49)
    save_file(state, path)
    with pytest.raises(ModelError, match=r"'fc.weight' is \(256, 25088\), not \(512, 25088\)"):
        load_network("iresnet50", path)


def test_an_unexpected_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sface.safetensors"
    state = read_state(shipped("models") / SFACE)
    save_file({**state, "extra.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"not sface weights: 'extra\.weight' is unexpected"):
        load_network("sface", path)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(
        ModelError, match="unknown architecture 'vit': use one of sface, mobile, iresnet50"
    ):
        load_network("vit", shipped("models") / SFACE)


class Bomb:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "bomb.pt", tmp_path / "exploded"
    torch.save({"w": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="not opened for safety") as caught:
        read_state(path)
    assert not mark.exists()
    assert "\n" not in str(caught.value)


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_truncated, id="truncated"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"<html>404</html>" * 99, id="a web page"),
    ],
)
def test_a_damaged_file_is_one_line(
    suffix: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    state = {"w": torch.zeros(64, 64)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path.write_bytes(damage(buffer.getvalue()))
    else:
        save_file(state, path)
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="weights") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {"epoch": 3}])
def test_what_is_not_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match="not a table of named tensors"):
        read_state(tmp_path / "odd.pt")


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.pt").write_bytes(pickle.dumps({"w": np.zeros(3)}))
    with pytest.raises(ModelError):
        read_state(tmp_path / "odd.pt")


def test_missing_and_foreign_paths(tmp_path: Path) -> None:
    for name in ("absent.safetensors", "absent.pt"):
        with pytest.raises(ModelError, match="no such weights file"):
            read_state(tmp_path / name)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ModelError):
        read_state(tmp_path / "folder.pt")


def test_dequantising_is_exact() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-128, 128, (4, 6, 3, 3)).astype(np.int8)
    scale = rng.random((4, 6), np.float32)
    zero = rng.integers(-128, 128, (4, 6)).astype(np.int8)
    differences = values.reshape(4, 6, 9).astype(np.int32) - zero[..., None].astype(np.int32)
    expected = (differences.astype(np.float32) * scale[..., None]).reshape(values.shape)
    assert np.array_equal(dequantise(values, scale, zero), expected)
