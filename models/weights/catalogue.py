"""Catalogue of pretrained weights: purpose, source, size and licence of each."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

APACHE = "Apache-2.0"
TOYDANCE_FILES = (
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/tokenizer.json",
    "image_encoder/config.json",
    *(f"{stage}/run.json" for stage in ("stage1", "stage2", "stage2_control", "stage3")),
)


@dataclass(frozen=True)
class Weight:
    """One row of the catalogue.

    Attributes:
        name: name in `steadydancer weights`.
        purpose: purpose, in a few words.
        presets: presets that use it.
        hub_id: repository on the model hub; None if a Python package contains it, ours or another.
        num_bytes: size; None if unknown.
        size_note: what `num_bytes` counts.
        licence: licence of the weights.
        is_optional: True if the preset also runs without it, with fewer functions.
        files: its files, relative to its folder; empty for a whole repository.
        folder: its folder below `weights_dir()`; None: `name`, or the repository's name without its owner.
        shipped: its folder in this package, from the package's root; None if it is not part of it.
    """

    name: str
    purpose: str
    presets: tuple[str, ...]
    hub_id: str | None
    num_bytes: int | None
    size_note: str
    licence: str = APACHE
    is_optional: bool = False
    files: tuple[str, ...] = ()
    folder: str | None = None
    shipped: str | None = None

    @property
    def search_locations(self) -> str:
        """The places that `find` searches, for messages."""
        folder = local_folder(self)
        if self.shipped is not None:
            return f"{folder}, then {shipped_folder(self)}"
        return str(folder) if self.hub_id is None else f"{folder}, then the model hub's cache ({self.hub_id})"

    @property
    def command(self) -> str:
        """The command that downloads the weights, for messages."""
        if self.shipped is not None:
            return "steadydancer weights check --preset toydance"
        if self.hub_id is None or self.files:
            return f"steadydancer weights fetch {self.name}"
        return f"hf download {self.hub_id}"

    @property
    def remedy(self) -> str:
        """What to do if the weights are missing, for messages."""
        if self.shipped is not None:
            return "they are part of this package: install it again, or restore the files"
        if self.hub_id is None:
            return f"run `{self.command}`"
        if self.folder is not None:
            files = " and ".join(self.files)
            return f"put {files} ({self.hub_id} on the hub) into that folder, or run `{self.command}`"
        command = " ".join(["hf download", self.hub_id, *self.files])
        return f"put it into that folder, or run `{command}` on a machine with network access"


CATALOGUE: tuple[Weight, ...] = (
    Weight(
        "wan-480p",
        "base model, text and image encoders and autoencoder, trained at 480p",
        ("one_gpu", "paper"),
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        32_789_757_568,
        "the transformer alone in bfloat16",
    ),
    Weight(
        "wan-720p",
        "as wan-480p, trained at 720p",
        ("one_gpu", "paper"),
        "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
        32_789_757_568,
        "the transformer alone in bfloat16",
        is_optional=True,
    ),
    Weight(
        "steadydancer",
        "the released model, for rendering without training",
        ("one_gpu", "paper"),
        "MCG-NJU/SteadyDancer-14B",
        32_793_437_472,
        "the transformer alone in bfloat16",
        is_optional=True,
    ),
    Weight(
        "dwpose",
        "whole-body keypoints (DWPose-l 384x288, ONNX)",
        ("one_gpu", "paper"),
        "yzd-v/DWPose",
        134_399_116,
        "the file",
        files=("dw-ll_ucoco_384.onnx",),
    ),
    Weight(
        "yolox",
        "detector of people for DWPose, and of animals (YOLOX-l, ONNX)",
        ("one_gpu", "paper"),
        "yzd-v/DWPose",
        216_746_733,
        "the file",
        files=("yolox_l.onnx",),
    ),
    Weight(
        "animal",
        "keypoints of animals (ViTPose-b trained on APT-36K, ONNX)",
        ("one_gpu", "paper"),
        "JunkyByte/easy_ViTPose",
        None,
        "unknown",
        is_optional=True,
        files=("onnx/apt36k/vitpose-b-apt36k.onnx",),
    ),
    Weight(
        "blazepose",
        "body keypoints of one person on a CPU (pose detector and full landmark model)",
        ("tiny", "one_gpu", "paper"),
        None,
        9_399_558,
        "both files",
        files=("pose_detection.tflite", "pose_landmark_full.tflite"),
    ),
    Weight(
        "toydance-pose",
        "keypoints of procedural dancers (detector and whole-body network in ONNX)",
        ("toydance", "toydance_demo"),
        None,
        None,
        "part of this package",
        files=("yolox_l.onnx", "dw-ll_ucoco_384.onnx"),
        shipped="models/toydance/components/pose",
    ),
    Weight(
        "toydance",
        "small base, autoencoder, encoders and checkpoints for procedural dancers",
        ("toydance", "toydance_demo"),
        None,
        None,
        "part of this package",
        files=TOYDANCE_FILES,
        shipped="models/toydance/components",
    ),
    Weight(
        "aesthetic-clip",
        "image embeddings for the aesthetic score and the action type (CLIP ViT-L/14 by open_clip)",
        ("one_gpu", "paper"),
        "timm/vit_large_patch14_clip_224.openai",
        1_710_466_052,
        "the parameters in float32",
        licence="MIT",
        is_optional=True,
        files=("open_clip_model.safetensors",),
        folder="aesthetics",
    ),
    Weight(
        "aesthetic-head",
        "aesthetic score of an image embedding (LAION's improved predictor)",
        ("one_gpu", "paper"),
        "camenduru/improved-aesthetic-predictor",
        3_711_876,
        "the parameters in float32",
        is_optional=True,
        files=("sac+logos+ava1-l14-linearMSE.pth",),
        folder="aesthetics",
    ),
    Weight(
        "amt",
        "motion smoothness as VBench measures it (AMT-S)",
        ("one_gpu", "paper"),
        "lalala125/AMT",
        11_962_172,
        "the parameters in float32",
        licence="CC-BY-NC-4.0",
        is_optional=True,
        files=("amt-s.pth",),
        folder="amt",
    ),
    Weight(
        "dlib-face",
        "embedding of faces, for identity over time (dlib's ResNet and predictor of 5 points)",
        ("evaluate",),
        None,
        31_616_555,
        "both files; the package is 100 MB",
        licence="CC0-1.0",
        is_optional=True,
        files=("dlib_face_recognition_resnet_model_v1.dat", "shape_predictor_5_face_landmarks.dat"),
    ),
    Weight(
        "efficientnet-lite0",
        "ImageNet features of pictures and of people (EfficientNet-Lite0)",
        ("evaluate",),
        None,
        18_826_032,
        "the file",
        is_optional=True,
        files=("efficientnet-lite0-57934424.pth",),
    ),
    Weight(
        "selfie-segmentation",
        "masks of people, for background drift and person crops (MediaPipe's selfie segmentation)",
        ("evaluate",),
        None,
        249_505,
        "the file",
        is_optional=True,
        files=("selfie_segmentation.tflite",),
    ),
)


def weights_dir() -> Path:
    """Return the folder of local weights: $STEADYDANCER_WEIGHTS, else a folder inside the Python environment."""
    chosen = os.environ.get("STEADYDANCER_WEIGHTS")
    return Path(chosen) if chosen else Path(sys.prefix) / "share" / "steadydancer"


def shipped_folder(row: Weight) -> Path | None:
    """Return the folder of `row` in this package, whether or not it exists; None if it is not part of the package."""
    return None if row.shipped is None else Path(__file__).parents[2] / row.shipped


def local_folder(row: Weight) -> Path:
    """Return the folder of `row` below `weights_dir()`, whether or not it exists."""
    return weights_dir() / (row.folder or (row.name if row.hub_id is None else row.hub_id.split("/")[-1]))
