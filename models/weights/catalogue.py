"""Catalogue of pretrained weights: purpose, source, size and licence of each."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
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
_LPIPS_HEADS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/082bb24f84c091ea94de2867d34c4544f68e0963/"
    "lpips/weights/v0.1"
)


@dataclass(frozen=True)
class Weight:
    """One row of the catalogue.

    Attributes:
        name: name in `steadydancer weights`.
        purpose: purpose, in a few words.
        presets: presets that use it.
        hub_id: repository on the model hub; None if it is in a Python package, ours or another, or at `sources`.
        num_bytes: size; None if unknown.
        size_note: what `num_bytes` counts.
        licence: licence of the weights.
        is_optional: True if the preset also runs without it, with fewer functions.
        files: its files, relative to its folder; empty for a whole repository.
        folder: its folder below `weights_dir()`; None: `name`, or the repository's name without its owner.
        shipped: its folder in this package, from the package's root; None if it is not part of it.
        alternatives: other sets of files with the same parameters; one of them replaces `files`.
        sources: file → address where its authors publish it, if not (only) on the hub; maybe in a zip archive there.
        sha256: file → its digest, or the first eight digits, where the authors publish no more.
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
    alternatives: tuple[tuple[str, ...], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)
    sha256: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def file_sets(self) -> tuple[tuple[str, ...], ...]:
        """The sets of files of which one is needed; the first one is what `fetch` downloads."""
        return (self.files, *self.alternatives)

    @property
    def addresses(self) -> list[str]:
        """The distinct addresses of `sources`, in order."""
        return list(dict.fromkeys(self.sources.values()))

    @property
    def is_non_commercial(self) -> bool:
        """True if the licence forbids commercial use."""
        return any(mark in self.licence.lower() for mark in ("-nc", "noncommercial"))

    @property
    def source(self) -> str:
        """Where the weights come from, in a word."""
        if self.hub_id is not None:
            return self.hub_id
        return self.addresses[0].split("/")[2] if self.sources else "(inside a Python package)"

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
        if self.sources:
            files = " or ".join(" and ".join(names) for names in self.file_sets)
            return f"put {files} ({', '.join(self.addresses)}) into that folder, or run `{self.command}`"
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
        "inception-fid",
        "features of FID and KID (the Inception network of December 2015)",
        ("evaluate",),
        None,
        95_628_359,
        "the file",
        is_optional=True,
        files=("pt_inception-2015-12-05-6726825d.pth",),
        sources={
            "pt_inception-2015-12-05-6726825d.pth": "https://github.com/mseitzer/pytorch-fid/releases/download/"
            "fid_weights/pt_inception-2015-12-05-6726825d.pth"
        },
        sha256={
            "pt_inception-2015-12-05-6726825d.pth": "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
        },
    ),
    Weight(
        "i3d",
        "features of FVD (I3D trained on Kinetics-400, TorchScript archive that is read, not run)",
        ("evaluate",),
        "flateon/FVD-I3D-torchscript",
        51_235_320,
        "the file",
        is_optional=True,
        files=("i3d_torchscript.pt",),
        folder="i3d",
        sha256={"i3d_torchscript.pt": "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"},
    ),
    Weight(
        "i3d-kinetics-400",
        "the parameters of i3d from a Python package, for machines without a hub",
        ("evaluate",),
        None,
        50_830_672,
        "the file",
        licence="Apache-2.0, package MIT",
        is_optional=True,
        files=("i3d-kinetics-400.ckpt",),
    ),
    Weight(
        "i3d-videogpt",
        "features of cd-fvd's FVD (the same network with another ε)",
        ("evaluate",),
        None,
        None,
        "unknown",
        is_optional=True,
        files=("i3d_pretrained_400.pt",),
        sources={
            "i3d_pretrained_400.pt": "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
        },
    ),
    Weight(
        "lpips-vgg",
        "LPIPS on VGG16: torchvision's backbone and the linear heads of v0.1",
        ("evaluate",),
        None,
        553_441_170,
        "both files",
        licence="BSD-3-Clause, heads BSD-2-Clause",
        is_optional=True,
        files=("vgg16-397923af.pth", "vgg.pth"),
        sources={
            "vgg16-397923af.pth": "https://download.pytorch.org/models/vgg16-397923af.pth",
            "vgg.pth": f"{_LPIPS_HEADS}/vgg.pth",
        },
        sha256={
            "vgg16-397923af.pth": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            "vgg.pth": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        },
    ),
    Weight(
        "lpips-alex",
        "LPIPS on AlexNet: torchvision's backbone and the linear heads of v0.1",
        ("evaluate",),
        None,
        244_414_920,
        "both files",
        licence="BSD-3-Clause, heads BSD-2-Clause",
        is_optional=True,
        files=("alexnet-owt-7be5be79.pth", "alex.pth"),
        sources={
            "alexnet-owt-7be5be79.pth": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            "alex.pth": f"{_LPIPS_HEADS}/alex.pth",
        },
        sha256={
            "alexnet-owt-7be5be79.pth": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            "alex.pth": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        },
    ),
    Weight(
        "raft",
        "optical flow of VBench's dynamic_degree (RAFT trained on FlyingThings)",
        ("evaluate",),
        "sbalani/raft-things",
        21_108_000,
        "the file",
        licence="BSD-3-Clause",
        is_optional=True,
        files=("raft-things.pth",),
        folder="raft",
        sha256={"raft-things.pth": "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1"},
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
