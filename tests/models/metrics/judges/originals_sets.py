"""What the original packages of the pixel and set metrics give; a program of its own, beside infra/metric_originals.py.

`python originals_sets.py PACKAGES FOLDER` reads FOLDER/clips.npz (uint8 [F, H, W, 3] by name), draws random parameters
for each network, writes them under their published names, and writes what the originals make of the clips to
FOLDER/values.npz. The parameters are calibrated: normalisations take the statistics of a clip, so that no signal dies
on the way through a deep network and every layer matters to the result.
"""

import importlib
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

PACKAGES, FOLDER = (Path(argument) for argument in sys.argv[1:])
sys.path.append(str(PACKAGES))
torch.set_num_threads(1)
RATES = (5, 8, 12, 15, 16, 20, 23.976, 24, 25, 30, 60)  # frames per second
Clips = dict[str, np.ndarray]


def package(name: str) -> None:
    """Make modules of a package importable without running its `__init__`, which imports what is not installed."""
    module = types.ModuleType(name)
    module.__path__ = [str(PACKAGES.joinpath(*name.split(".")))]
    sys.modules[name] = module


def stub(name: str, **attributes: Any) -> None:
    """Put a module with only these attributes in the place of one that is not needed here."""
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes)


def tensor(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def calibrate(network: nn.Module, *inputs: Tensor, **arguments: Any) -> None:
    """Draw the normalisations, and let them take the statistics of `inputs`."""
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()
        network(*inputs, **arguments)
    network.eval()


def inception(clips: Clips) -> dict[str, np.ndarray]:
    from cleanfid.resize import build_resizer
    from pytorch_fid import inception as module
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    file = FOLDER / "inception" / "pt_inception-2015-12-05-6726825d.pth"
    file.parent.mkdir()
    bare = module._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    calibrate(bare, torch.rand(4, 3, 299, 299) * 2 - 1)
    torch.save(bare.state_dict(), file)
    module.load_state_dict_from_url = lambda *_, **__: torch.load(file, weights_only=True)
    resizing = module.InceptionV3([3]).eval()
    plain = module.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    fidelity = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(file))
    clean = build_resizer("clean")
    values = {}
    for name in ("portrait", "landscape"):
        frames = clips[name]
        squares = [np.asarray(Image.fromarray(one).resize((768, 768), Image.Resampling.BILINEAR)) for one in frames]
        cleaned = tensor(np.stack([clean(one) for one in frames])).float()
        values[f"{name}.pytorchfid_299"] = resizing(tensor(frames) / 255)[0]
        values[f"{name}.humanvid_fid_299"] = resizing(tensor(np.stack(squares)) / 255)[0]
        values[f"{name}.cleanfid_299"] = plain((cleaned - 128) / 128)[0]
        values[f"{name}.torchfidelity_299"] = fidelity(tensor(frames))[0]
    return {f"inception.{name}": value.flatten(1).numpy() for name, value in values.items()}


def lpips(clips: Clips) -> dict[str, np.ndarray]:
    import lpips as original
    import torchvision

    values = {}
    for kind, builder, file in (
        ("vgg", torchvision.models.vgg16, "vgg16-397923af.pth"),
        ("alex", torchvision.models.alexnet, "alexnet-owt-7be5be79.pth"),
    ):
        folder = FOLDER / f"lpips-{kind}"
        folder.mkdir()
        features = builder(weights=None).features.state_dict()
        torch.save({f"features.{name}": value for name, value in features.items()}, folder / file)
        heads = Path(original.__file__).parent / "weights" / "v0.1" / f"{kind}.pth"
        (folder / heads.name).write_bytes(heads.read_bytes())
        network = original.LPIPS(net=kind, pnet_rand=True, verbose=False)
        slices = {name.split(".", 1)[1]: name for name in network.net.state_dict()}
        network.net.load_state_dict({slices[name]: value for name, value in features.items() if name in slices})
        for name in ("portrait", "landscape"):
            one, other = tensor(clips[name]) / 255, tensor(clips[f"{name}.truth"]) / 255
            values[f"{kind}.{name}"] = network(one * 2 - 1, other * 2 - 1).flatten().numpy()
            values[f"{kind}.{name}.zero_to_one"] = network(one, other).flatten().numpy()
    return {f"lpips.{name}": value for name, value in values.items()}


def raft(clips: Clips) -> dict[str, np.ndarray]:
    for name in ("vbench", "vbench.third_party", "vbench.third_party.RAFT"):
        package(name)
    stub("vbench.utils", load_dimension_info=None)
    stub("vbench.distributed", **dict.fromkeys(
        ("get_world_size", "get_rank", "all_gather", "barrier", "distribute_list_to_rank", "gather_list_of_dict")
    ))  # fmt: skip
    from easydict import EasyDict
    from vbench.dynamic_degree import DynamicDegree
    from vbench.third_party.RAFT.core.raft import RAFT
    from vbench.third_party.RAFT.core.utils_core.utils import InputPadder

    file = FOLDER / "raft" / "raft-things.pth"
    file.parent.mkdir()
    options = {"small": False, "mixed_precision": False, "alternate_corr": False}
    network = RAFT(EasyDict(options))
    calibrate(network, *(torch.rand(1, 3, 128, 160) * 255 for _ in range(2)), iters=1)
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, file)
    judge = DynamicDegree(EasyDict(model=str(file), **options), "cpu")
    values = {}
    for name in ("portrait", "landscape"):
        frames = [one[None].float() for one in tensor(clips[name])]
        padder = InputPadder(frames[0].shape)
        pairs = [padder.pad(*pair) for pair in itertools.pairwise(frames)]
        flows = [judge.model(*pair, iters=20, test_mode=True)[1] for pair in pairs]
        values[f"{name}.flow"] = torch.cat([padder.unpad(flow) for flow in flows]).numpy()
        values[f"{name}.largest"] = np.array(
            [judge.get_score(pair[0], flow) for pair, flow in zip(pairs, flows, strict=True)]
        )
        judge.get_frames = lambda _, frames=frames: frames
        values[f"{name}.moves"] = np.array(float(judge.infer("clip.mp4")))
    values |= fastvideo_dynamics(clips, judge.model)
    return {f"raft.{name}": value for name, value in values.items()}


def fastvideo_dynamics(clips: Clips, network: nn.Module) -> dict[str, np.ndarray]:
    """Run FastVideo's dynamic_degree with this network: steps, verdicts, strides at rates, verdict on one frame."""
    for name in ("fastvideo", "fastvideo.eval", "fastvideo.eval.metrics", "fastvideo.eval.metrics.vbench"):
        package(name)
    metric = importlib.import_module("fastvideo.eval.metrics.vbench.dynamic_degree.metric").DynamicDegreeMetric()
    metric.to("cpu")._model = network
    values = {}
    for name in ("portrait", "landscape"):
        result = metric.compute({"video": tensor(clips[name]) / 255, "fps": 8})
        values[f"{name}.fastvideo.largest"] = np.array(result.details["per_pair_magnitude"])
        values[f"{name}.fastvideo.moves"] = np.array(result.score)
    one = {fps: metric.compute({"video": tensor(clips["portrait"][:1]) / 255, "fps": fps}) for fps in RATES}
    values["fastvideo.strides"] = np.array([result.details["interval"] for result in one.values()])
    values["fastvideo.one_frame"] = np.array([result.score for result in one.values()])
    return values


def i3d(clips: Clips) -> dict[str, np.ndarray]:
    for name in ("cdfvd", "cdfvd.third_party"):
        package(name)
    from cdfvd.third_party.i3d.pytorch_i3d import InceptionI3d
    from cdfvd.third_party.i3d.utils import preprocess_i3d

    file = FOLDER / "i3d-videogpt" / "i3d_pretrained_400.pt"
    file.parent.mkdir()
    network = InceptionI3d(400, in_channels=3)
    calibrate(network, preprocess_i3d(np.random.default_rng(0).integers(0, 256, (2, 16, 28, 28, 3))))
    torch.save(network.state_dict(), file)
    values = {}
    for epsilon in (1e-5, 1e-3):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = epsilon
        for name in ("clip16", "clip11"):
            values[f"{name}.{epsilon:.0e}"] = network(preprocess_i3d(clips[name][None])).numpy()[0]
    values |= fastvideo_fvd(clips, network)
    return {f"i3d.{name}": value for name, value in values.items()}


def fastvideo_fvd(clips: Clips, network: nn.Module) -> dict[str, np.ndarray]:
    """Run FastVideo's FVD from frames to distance, with this network in place of the TorchScript archive."""
    for name in ("fastvideo", "fastvideo.eval", "fastvideo.eval.metrics", "fastvideo.eval.metrics.common"):
        package(name)
    extractors = importlib.import_module("fastvideo.eval.metrics.common.fvd.extractors")
    metric = importlib.import_module("fastvideo.eval.metrics.common.fvd.metric").FVDMetric(cache_mode="off")

    def archive(batch: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        assert (rescale, resize, return_features) == (False, False, True)
        logits: Tensor = network(batch)
        return logits

    metric._extractor = extractors._I3DExtractor.__new__(extractors._I3DExtractor)
    metric._extractor.device, metric._extractor._model = torch.device("cpu"), archive
    for name in (name for name in clips if name.startswith("fvd.render.")):
        pair = {"video": clips[name], "reference": clips[name.replace("render", "truth")]}
        metric.accumulate({key: tensor(frames) / 255 for key, frames in pair.items()})
    return {
        "fastvideo.render": np.concatenate(metric._gen_buf),
        "fastvideo.truth": np.concatenate(metric._real_buf),
        "fastvideo.fvd": np.array(metric.finalize().score),
    }


def fastvideo(clips: Clips) -> dict[str, np.ndarray]:
    """PSNR, SSIM, the scores of LPIPS, and the Fréchet distance of FastVideo's `eval`."""
    for name in ("fastvideo", "fastvideo.eval", "fastvideo.eval.metrics", "fastvideo.eval.metrics.common"):
        package(name)
    metrics = {
        name: importlib.import_module(f"fastvideo.eval.metrics.common.{name}.metric")
        for name in ("psnr", "ssim", "lpips", "fvd")
    }
    values = {}
    for name in ("portrait", "landscape"):
        sample = {"video": tensor(clips[name]) / 255, "reference": tensor(clips[f"{name}.truth"]) / 255}
        for metric, judge in (("psnr", metrics["psnr"].PSNRMetric()), ("ssim", metrics["ssim"].SSIMMetric())):
            values[f"{metric}.{name}"] = np.array(judge.to("cpu").compute(sample).details["per_frame"])
    judge = metrics["lpips"].LPIPSMetric().to("cpu")
    judge._model = importlib.import_module("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False)
    slices = {name.split(".", 1)[1]: name for name in judge._model.net.state_dict()}
    features = torch.load(FOLDER / "lpips-alex" / "alexnet-owt-7be5be79.pth", weights_only=True)
    kept = {slices[key]: value for name, value in features.items() if (key := name.split(".", 1)[1]) in slices}
    judge._model.net.load_state_dict(kept)
    values["lpips.landscape"] = np.array(judge.compute(sample).details["per_frame"])
    x, y = (clips[name].astype(np.float64) for name in ("features.x", "features.y"))
    fvd = metrics["fvd"]
    values["fvd"] = np.array(fvd._frechet_distance(*fvd._gaussian_params(x), *fvd._gaussian_params(y)))
    return {f"fastvideo.{name}": value for name, value in values.items()}


def main() -> None:
    torch.manual_seed(0)
    with np.load(FOLDER / "clips.npz") as file:
        clips = dict(file)
    values: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for original in (inception, lpips, raft, i3d, fastvideo):
            values |= original(clips)
    np.savez(FOLDER / "values.npz", **values)


if __name__ == "__main__":
    main()
