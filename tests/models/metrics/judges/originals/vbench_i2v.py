"""Run VBench's own code, its backbones' original packages and FastVideo on procedural clips, with random weights.

Runs in the environment `vbench-i2v` of `make_environment.py`: `python vbench_i2v.py FOLDER PART…` writes into FOLDER
`clips.npz`, `weights/` in the published layouts, and for each part `PART.npz` with features and scores. Clips are
handed to the packages' functions in place of video files, and networks in place of downloads; nothing else is replaced.
DINO's repository is no package: its network is the copy that dreamsim carries, which VBench runs too.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

SIZES = {"portrait": (400, 226), "odd": (251, 333), "nearly": (226, 231), "large": (600, 338)}
NUM_FRAMES = 4
CLIP_MODELS = {"ViT-B-32": (512, 12, 768, 32), "ViT-L-14": (768, 24, 1024, 14)}


def clips() -> dict[str, np.ndarray]:
    """Moving waves with a little noise, uint8 [F, H, W, 3]; another scene for each size."""
    out = {}
    for seed, (name, (height, width)) in enumerate(SIZES.items()):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        frames = []
        for t in range(NUM_FRAMES):
            waves = [
                np.sin((x + 3 * t) / (9 + 2 * seed + 5 * c)) * np.cos((y - 2 * t) / (7 + 4 * c) + 0.3 * t)
                for c in range(3)
            ]
            frames.append(127 + 100 * np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3)))
        out[name] = np.stack(frames).clip(0, 255).astype(np.uint8)
    return out


def randomise(network: nn.Module, seed: int, gain: float = 1.0) -> nn.Module:
    """Draw all parameters anew: matrices by their number of inputs, norms about one, biases and embeddings small."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.named_parameters():
        drawn = torch.randn(value.shape, generator=generator)
        if name.split(".")[-1] in ("pos_embed", "cls_token", "cls", "position_emb", "scale_emb"):
            value.data = 0.5 * drawn
        elif value.ndim > 1:
            value.data = gain * drawn / value[0].numel() ** 0.5
        else:
            value.data = 0.1 * drawn + (name.endswith("weight") and value.shape == value.data.flatten().shape)
    return network.eval()


class Recorder(nn.Module):
    """A network that remembers what it returned."""

    def __init__(self, network) -> None:
        super().__init__()
        self.network, self.returned = network, []

    def forward(self, pictures):
        self.returned.append(self.network(pictures).detach().float())
        return self.returned[-1]

    encode_image = embed = forward

    def take(self) -> np.ndarray:
        out, self.returned = torch.cat(self.returned).numpy(), []
        return out


def tensors(frames: np.ndarray) -> torch.Tensor:
    """What `load_video` returns: float32 0…255 [T, C, H, W]."""
    return torch.Tensor(frames).permute(0, 3, 1, 2)


def feed(module, videos: dict[str, np.ndarray]) -> list[str]:
    """Make a module of VBench read the clips; return their "paths"."""
    module.load_video = lambda path: tensors(videos[Path(path).stem])
    return [f"{name}.mp4" for name in videos]


def values(results: list[dict]) -> np.ndarray:
    return np.array([row["video_results"] for row in results])


def dino_network() -> nn.Module:
    from dreamsim.feature_extraction.vision_transformer import vit_base

    return randomise(vit_base(patch_size=16), 1)


def run_dino(folder: Path, videos, expected) -> None:
    from fastvideo.eval.metrics.vbench.subject_consistency.metric import SubjectConsistencyMetric
    from vbench import subject_consistency
    from vbench2_beta_i2v import i2v_subject

    network = dino_network()
    torch.save(network.state_dict(), folder / "weights/dino_vitbase16_pretrain.pth")
    recorder = Recorder(network)
    paths = feed(subject_consistency, videos)
    _, results = subject_consistency.subject_consistency(recorder, paths, "cpu", False)
    expected["dino.frames"] = recorder.take()
    expected["subject_consistency"] = values(results)
    feed(i2v_subject, videos)
    pairs = [(folder / f"{name}.png", f"{name}.mp4") for name in videos]
    _, results = i2v_subject.i2v_subject(recorder, pairs, "cpu")
    expected["dino.i2v"] = recorder.take()
    expected["i2v_subject"] = values(results)
    expected["fastvideo.subject_consistency"] = fastvideo(SubjectConsistencyMetric, videos, _model=network)


def run_clip(folder: Path, videos, expected) -> None:
    import clip
    from clip.model import CLIP, convert_weights
    from fastvideo.eval.metrics.vbench.aesthetic_quality.metric import AestheticQualityMetric
    from fastvideo.eval.metrics.vbench.background_consistency.metric import BackgroundConsistencyMetric
    from vbench import aesthetic_quality, background_consistency

    networks = {}
    for seed, (model, (embedding, layers, width, patch)) in enumerate(CLIP_MODELS.items()):
        torch.manual_seed(10 + seed)
        # The text encoder, which nothing here asks, is small.
        network = CLIP(embedding, 224, layers, width, patch, 77, 512, 64, 1, 1).eval()
        for name, value in network.visual.named_parameters():
            if ".ln_" in f".{name}" or name.endswith("bias"):
                value.data += 0.1 * torch.randn_like(value)
        with torch.inference_mode(False), torch.no_grad():
            traced = torch.jit.trace(network, (torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.int64)))
        convert_weights(network)  # OpenAI's files hold most parameters in float16
        traced.save(folder / f"weights/{model}.pt")
        networks[model], _ = clip.load(str(folder / f"weights/{model}.pt"), device="cpu", jit=False)
        networks[model] = Recorder(networks[model].encode_image)
    torch.manual_seed(12)
    head = nn.Linear(768, 1)
    torch.save(head.state_dict(), folder / "weights/sa_0_4_vit_l_14_linear.pth")

    few = dict(list(videos.items())[:2])  # ViT-L/14 is slow
    with torch.no_grad():
        paths = feed(background_consistency, videos)
        _, results = background_consistency.background_consistency(networks["ViT-B-32"], None, paths, "cpu", False)
        expected["clip.ViT-B-32"] = networks["ViT-B-32"].take()
        expected["background_consistency"] = values(results)
        paths = feed(aesthetic_quality, few)
        _, results = aesthetic_quality.laion_aesthetic(
            aesthetic_quality.get_aesthetic_model(str(folder / "weights")), networks["ViT-L-14"], paths, "cpu"
        )
        expected["clip.ViT-L-14"] = networks["ViT-L-14"].take()
        expected["aesthetic_quality"] = values(results)
    expected["fastvideo.background_consistency"] = fastvideo(
        BackgroundConsistencyMetric, videos, _model=networks["ViT-B-32"]
    )
    expected["fastvideo.aesthetic_quality"] = fastvideo(
        AestheticQualityMetric, few, _clip_model=networks["ViT-L-14"], _aesthetic_head=head
    )


def run_dreamsim(folder: Path, videos, expected) -> None:
    import dreamsim
    from dreamsim.feature_extraction.vision_transformer import vit_base
    from peft import LoraConfig, get_peft_model
    from vbench2_beta_i2v import i2v_background

    weights = folder / "weights/dreamsim"
    weights.mkdir(exist_ok=True)
    for seed, name in enumerate(("clip", "open_clip")):
        network = vit_base(patch_size=16)
        network.pos_drop = nn.LayerNorm(768)
        generator = torch.Generator().manual_seed(20 + seed)
        projection = torch.randn(768, 512, generator=generator) / 768**0.5
        state = {**randomise(network, 30 + seed).state_dict(), "proj": projection}
        torch.save({"state_dict": state}, weights / f"{name}_vitb16_pretrain.pth.tar")
    head = dreamsim.feature_extraction.vision_transformer.DINOHead(768, 2048)
    student = {f"module.head.{name}": value for name, value in head.state_dict().items()}
    student["module.head.last_layer.weight"] = torch.zeros(2048, 256)
    torch.save({"student": student}, weights / "dino_vitb16_pretrain.pth")
    dino = dino_network()
    torch.save(dino.state_dict(), weights / "dino_vitbase16_pretrain.pth")
    torch.hub.load = lambda *_: dino

    # Adapters as PEFT saves them for the whole ensemble; the loader below is dreamsim's own.
    arguments = dreamsim.model.dreamsim_args["model_config"]["ensemble"]
    bare = dreamsim.PerceptualModel(**arguments, device="cpu", load_dir=str(weights))
    config = LoraConfig(r=16, lora_alpha=0.5, lora_dropout=0.3, bias="none", target_modules=["qkv"])
    adapted = get_peft_model(bare, config)
    generator = torch.Generator().manual_seed(40)
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data = torch.randn(value.shape, generator=generator) / value.shape[1] ** 0.5 * 3
    adapted.save_pretrained(weights / "ensemble_lora")
    adapted.unload()

    network, _ = dreamsim.dreamsim(device="cpu", cache_dir=str(weights), normalize_embeds=False)
    recorder = Recorder(network.embed)
    feed(i2v_background, videos)
    pairs = [(folder / f"{name}.png", f"{name}.mp4") for name in videos]
    normalised = Recorder(lambda pictures: dreamsim.model.normalize_embedding(recorder(pictures)))
    with torch.no_grad():
        _, results = i2v_background.i2v_background(normalised, pairs, "cpu")
    expected["dreamsim.i2v"] = recorder.take()
    expected["i2v_background"] = values(results)


def run_musiq(folder: Path, videos, expected) -> None:
    import pyiqa
    from fastvideo.eval.metrics.vbench.imaging_quality.metric import ImagingQualityMetric
    from pyiqa.archs.musiq_arch import MUSIQ
    from vbench import imaging_quality

    file = folder / "weights/musiq_spaq_ckpt-358bb6af.pth"
    torch.save(randomise(MUSIQ(pretrained=False), 50).state_dict(), file)
    network = MUSIQ(pretrained_model_path=str(file))
    network.training = False  # as compute_imaging_quality
    recorder = Recorder(network)
    paths = feed(imaging_quality, videos)
    with torch.no_grad():
        _, results = imaging_quality.technical_quality(recorder, paths, "cpu")
    expected["musiq"] = recorder.take()
    expected["imaging_quality"] = values(results)
    metric = pyiqa.create_metric("musiq-spaq", device="cpu", pretrained_model_path=str(file))
    expected["fastvideo.imaging_quality"] = fastvideo(ImagingQualityMetric, videos, _model=metric)


def run_pixels(folder: Path, videos, expected) -> None:
    """Motion smoothness and temporal flickering."""
    import vbench
    from fastvideo.eval.metrics.vbench.motion_smoothness.metric import MotionSmoothnessMetric
    from fastvideo.eval.metrics.vbench.temporal_flickering.metric import TemporalFlickeringMetric
    from omegaconf import OmegaConf
    from vbench import motion_smoothness, temporal_flickering
    from vbench.third_party.amt.utils.build_utils import build_from_cfg

    config = Path(vbench.__file__).parent / "third_party/amt/cfgs/AMT-S.yaml"
    network = build_from_cfg(OmegaConf.load(config).network)
    state = {}
    for number, (name, value) in enumerate(sorted(network.state_dict().items())):
        waves = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * (0.37 + 0.011 * number) + number)
        scale = 1.6 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.15
        state[name] = (waves * scale).float().reshape(value.shape)
    torch.save({"state_dict": state}, folder / "weights/amt-s.pth")
    judge = motion_smoothness.MotionSmoothness(str(config), str(folder / "weights/amt-s.pth"), "cpu")
    judge.fp.get_frames = lambda path: list(videos[Path(path).stem])
    rounded = motion_smoothness.tensor2img
    smoothness = []
    for name in videos:
        seen: list[torch.Tensor] = []
        motion_smoothness.tensor2img = lambda image, seen=seen: (seen.append(image), rounded(image))[1]
        smoothness.append(judge.motion_score(f"{name}.mp4"))
        expected[f"amt.{name}"] = torch.cat(seen[1::2]).numpy()
    expected["motion_smoothness"] = np.array(smoothness)
    temporal_flickering.get_frames = lambda path: [frame[..., ::-1] for frame in videos[Path(path).stem]]
    expected["temporal_flickering"] = np.array([temporal_flickering.cal_score(name) for name in videos])
    expected["fastvideo.motion_smoothness"] = fastvideo(
        MotionSmoothnessMetric, videos, _model=judge.model, _embt=judge.embt
    )
    expected["fastvideo.temporal_flickering"] = fastvideo(TemporalFlickeringMetric, videos)


def fastvideo(kind: type, videos, **networks) -> np.ndarray:
    """Score clips in [0, 1] with a metric of FastVideo that is given its networks."""
    metric = kind()
    for name, network in networks.items():
        setattr(metric, name, network)
    return np.array([metric.compute({"video": tensors(frames) / 255}).score for frames in videos.values()])


PARTS = {"dino": run_dino, "clip": run_clip, "dreamsim": run_dreamsim, "musiq": run_musiq, "pixels": run_pixels}


def main(folder: Path, parts: list[str]) -> None:
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    videos = clips()
    np.savez(folder / "clips.npz", **videos)
    for name, frames in videos.items():
        Image.fromarray(frames[2][:, ::-1]).save(folder / f"{name}.png")  # a reference that is no frame of the clip
    for part in parts:
        expected: dict[str, np.ndarray] = {}
        PARTS[part](folder, videos, expected)
        np.savez(folder / f"{part}.npz", **expected)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(Path(sys.argv[1]), sys.argv[2:] or list(PARTS))
