"""The models this project knows of: licences, figures and hashes as upstream states them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from facesearch.errors import ModelError
from facesearch.values import ModelContract

Order = Literal["rgb", "bgr"]

DIMS = {"sface": 128, "mobile": 128, "iresnet50": 512, "iresnet100": 512}
"""The architectures that can be loaded, and the length of their embeddings."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a network expects of the pixels of a 112x112 crop: (x - mean) / scale.

    Attributes:
        order: colour order of its input.
        mean: subtracted from 0..255.
        scale: divided by.
    """

    order: Order = "rgb"
    mean: float = 127.5
    scale: float = 127.5

    def __str__(self) -> str:
        return f"112x112 {self.order.upper()} (x-{self.mean:g})/{self.scale:g}"


@dataclass(frozen=True, slots=True)
class Model:
    """One embedding model.

    Attributes:
        name: of the model, here.
        architecture: a key of `DIMS`.
        dim: length of its embeddings.
        preprocessing: what it expects of pixels.
        upstream: who publishes it, and where.
        licence: of the weights, in words.
        commercial: the licence allows commercial use.
        accuracy: as published; empty if nothing is known.
        source: where that figure is from.
        sha256: of the weights file as upstream publishes it; empty until a file is registered.
        file: name of the weights file; empty until there is one.
        url: where `download` gets it; empty if it cannot.
        size: bytes of the download.
        state: "bundled", "downloadable", "downloaded", "registered" or "bring your own".
        identities: people it was trained on here; 0 if it was not trained by `facesearch train`.
        faces: of theirs.
        base: the model whose weights the training began with; empty for none.
    """

    name: str
    architecture: str
    dim: int
    preprocessing: Preprocessing
    upstream: str
    licence: str
    commercial: bool
    accuracy: str = ""
    source: str = ""
    sha256: str = ""
    file: str = ""
    url: str = ""
    size: int = 0
    state: str = "bring your own"
    identities: int = 0
    faces: int = 0
    base: str = ""

    @property
    def contract(self) -> ModelContract:
        """What makes two of its vectors comparable.

        Raises:
            ModelError: no weights are known yet.
        """
        if not self.sha256:
            raise ModelError(f"model '{self.name}' has no weights yet")
        return ModelContract(self.name, self.sha256, str(self.preprocessing), self.dim)

    @property
    def caution(self) -> str:
        """What is to be said before it is relied on; empty for a universal model."""
        if not 0 < self.identities < UNIVERSAL:
            return ""
        began = f" from '{self.base}'" if self.base else " from scratch"
        return (
            f"model '{self.name}' was trained{began} on {self.faces:,} faces of "
            f"{self.identities:,} people only: it may suit photos like theirs and serve others "
            "worse; it is no universal model"
        )


UNIVERSAL = 10_000
"""People a model must have seen to pass for universal: the smallest set that such models are
commonly trained on (CASIA-WebFace) has 10,575."""

_SFACE = Model(
    name="sface",
    architecture="sface",
    dim=DIMS["sface"],
    preprocessing=Preprocessing("rgb", 127.5, 128.0),
    upstream="OpenCV Zoo, https://github.com/opencv/opencv_zoo (models/face_recognition_sface)",
    licence="Apache-2.0",
    commercial=True,
    accuracy="LFW 99.40 % (upstream's fp32 file)",
    source="OpenCV Zoo, models/face_recognition_sface/README.md",
    # of upstream's face_recognition_sface_2021dec_int8bq.onnx, which the bundled file was made from
    sha256="fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
    file="face_recognition_sface_2021dec_int8bq.safetensors",
    state="bundled",
)


def _arcface(depth: int, data: str, ijbc: str) -> Model:
    return Model(
        name=f"arcface-r{depth}-{data.lower()}",
        architecture=f"iresnet{depth}",
        dim=512,
        preprocessing=Preprocessing("rgb"),
        upstream=(
            "InsightFace, https://github.com/deepinsight/insightface (recognition/arcface_torch)"
        ),
        licence="non-commercial research only",
        commercial=False,
        accuracy=f"IJB-C TAR {ijbc} % at FAR 1e-4",
        source="InsightFace, recognition/arcface_torch/README.md",
    )


def _adaface(depth: int, data: str, lfw: str, ijbc: str) -> Model:
    return Model(
        name=f"adaface-ir{depth}-{data.lower()}",
        architecture=f"iresnet{depth}",
        dim=512,
        preprocessing=Preprocessing("bgr"),
        upstream="AdaFace, https://github.com/mk-minchul/AdaFace",
        licence=f"MIT (code); weights trained on {data}, for research only",
        commercial=False,
        accuracy=f"LFW {lfw} %, IJB-C TAR {ijbc} % at FAR 1e-4",
        source="AdaFace, README.md",
    )


_CVLFACE = Model(
    name="cvlface-adaface-ir50-webface4m",
    architecture="iresnet50",
    dim=512,
    preprocessing=Preprocessing("rgb"),  # unlike the AdaFace project's own files
    upstream="CVLface, https://huggingface.co/minchul/cvlface_adaface_ir50_webface4m",
    licence="MIT (code); weights trained on WebFace4M, for research only",
    commercial=False,
    # The hash is stated by several independent projects that pin this file.
    sha256="43bd2d570584d95d4a17ce81f26449034c45dbeed750afcab651872abc0e1496",
    file="cvlface-adaface-ir50-webface4m.pt",
    url=(
        "https://huggingface.co/minchul/cvlface_adaface_ir50_webface4m/resolve/"
        "fe7718c6dc8af1b9946e0de778167c1695dd8814/pretrained_model/model.pt"
    ),
    size=174_611_121,
    state="downloadable",
)

KNOWN = (
    _SFACE,
    _CVLFACE,
    _adaface(50, "MS1MV2", "99.82", "96.27"),
    _adaface(50, "WebFace4M", "99.78", "96.98"),
    _adaface(100, "MS1MV2", "99.82", "96.89"),
    _adaface(100, "MS1MV3", "99.78", "97.09"),
    _adaface(100, "WebFace4M", "99.80", "97.39"),
    _adaface(100, "WebFace12M", "99.82", "97.66"),
    _arcface(50, "MS1MV3", "96.37"),
    _arcface(50, "Glint360K", "97.16"),
    _arcface(100, "MS1MV3", "96.85"),
    _arcface(100, "Glint360K", "97.55"),
)
"""Bundled first, then downloadable, then those whose file you bring and register."""
