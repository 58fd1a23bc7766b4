"""What each metric's network is given: resized, cropped and scaled as the code that papers ran does it.

A different resize changes an FID by up to 90 %, and i2v by 1 %. Frames that come as tensors and images that come
through PIL are resized differently by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from ...datasets.arrays import Floats, Floats32, Frames

if TYPE_CHECKING:
    from torch import Tensor

Mode = Literal["bilinear", "bicubic"]
# Mean and standard deviation of RGB in [0, 1].
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_MAX_IMAGING_SIDE = 512


def preprocess(frames: Frames, name: str) -> Floats32:
    """Return the input of a network [F, 3, h, w] from uint8 RGB frames [F, H, W, 3].

    Args:
        frames: [F, H, W, 3].
        name: a key of `PREPROCESSING`.

    Raises:
        ValueError: there is no such preprocessing.
    """
    if name not in PREPROCESSING:
        raise ValueError(f"There is no preprocessing {name!r}: choose one of {', '.join(PREPROCESSING)}.")
    return np.stack([PREPROCESSING[name](frame) for frame in frames]).astype(np.float32, copy=False)


def resize_truth(frames: Frames, height: int, width: int) -> Frames:
    """Resize a truth [F, H, W, 3] to the size of the render by PIL's bilinear filter, as HumanVid: it is stretched."""
    resized = [_resized_by_pil(frame, (height, width), Image.Resampling.BILINEAR) for frame in frames]
    return np.stack(resized).transpose(0, 2, 3, 1)


def _resized(image: Frames | Floats, size: tuple[int, int], mode: Mode, antialias: bool = False) -> Floats:
    """Resize [H, W, 3] to (height, width) by torch, in float32 and in the units of the input: [3, height, width]."""
    import torch
    from torch.nn.functional import interpolate

    tensor: Tensor = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    return interpolate(tensor, size, mode=mode, align_corners=False, antialias=antialias)[0].numpy()


def _resized_by_pil(image: Frames, size: tuple[int, int], resample: Image.Resampling) -> Frames:
    return np.asarray(Image.fromarray(image).resize(size[::-1], resample)).transpose(2, 0, 1)


def _shorter(image: Frames, side: int, scaled: Callable[[int, int], int] | None = None) -> tuple[int, int]:
    """Return the size (height, width) with the shorter side `side`; `scaled` gives the other one of both sides."""
    height, width = image.shape[:2]
    shorter, longer = sorted((height, width))
    other = scaled(shorter, longer) if scaled else int(side * longer / shorter)
    return (side, other) if height < width else (other, side)


def _cropped(image: Floats | Frames, side: int, whole: Callable[[float], int] = round) -> np.ndarray:
    top, left = (whole((length - side) / 2) for length in image.shape[1:])
    return image[:, top : top + side, left : left + side]


def _normalised(image: Floats | Frames, mean_std: tuple[tuple[float, ...], tuple[float, ...]]) -> Floats:
    mean, std = (np.array(values, np.float32)[:, None, None] for values in mean_std)
    return (np.asarray(image, np.float32) / 255 - mean) / std


def _dino_frames(image: Frames) -> Floats:
    return _normalised(_resized(image, _shorter(image, 224), "bilinear"), IMAGENET)


def _clip_frames(image: Frames) -> Floats:
    return _normalised(_cropped(_resized(image, _shorter(image, 224), "bicubic"), 224), CLIP)


def _i2v_dino_frames(image: Frames, antialias: bool = True) -> Floats:
    return _normalised(_cropped(_resized(image, _shorter(image, 256), "bicubic", antialias), 224), IMAGENET)


def _i2v_dino_image(image: Frames) -> Floats:
    resized = _resized_by_pil(image, _shorter(image, 256), Image.Resampling.BICUBIC)
    return _normalised(_cropped(resized, 224), IMAGENET)


def _i2v_dreamsim_frames(image: Frames, antialias: bool = True) -> Floats:
    return _resized(image, (224, 224), "bicubic", antialias) / 255


def _i2v_dreamsim_image(image: Frames) -> Floats:
    return _resized_by_pil(image, (224, 224), Image.Resampling.BICUBIC).astype(np.float32) / 255


def _imaging_longer(image: Frames) -> Floats:
    """Scale down to a longer side of at most 512."""
    height, width = image.shape[:2]
    if max(height, width) <= _MAX_IMAGING_SIDE:
        return image.transpose(2, 0, 1).astype(np.float32) / 255
    scale = _MAX_IMAGING_SIDE / max(height, width)
    return _resized(image, (int(scale * height), int(scale * width)), "bilinear") / 255


def _cleanfid_299(image: Frames) -> Floats:
    """Resize each channel as a float image by PIL's bicubic filter, with antialiasing: [0, 255]."""
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    resized = [np.asarray(channel.resize((299, 299), Image.Resampling.BICUBIC)) for channel in channels]
    return np.clip(np.stack(resized), 0, 255)


def _pytorchfid_299(image: Frames) -> Floats:
    return _resized(image.astype(np.float32) / 255, (299, 299), "bilinear") * 2 - 1


def _humanvid_fid_299(image: Frames) -> Floats:
    """Resize in HumanVid's two steps: PIL to 768 × 768, where the aspect is lost, then as pytorch-fid."""
    square = _resized_by_pil(image, (768, 768), Image.Resampling.BILINEAR)
    return _pytorchfid_299(square.transpose(1, 2, 0))


def _torchfidelity_299(image: Frames) -> Floats:
    """Resize on TensorFlow 1's grid: pixel i comes from i · H / 299, without the half pixel."""
    values = image.astype(np.float32).transpose(2, 0, 1)
    for axis in (1, 2):
        length = values.shape[axis]
        source = np.arange(299, dtype=np.float32) * np.float32(length / 299)
        low = np.floor(source).astype(np.int64)
        share = (source - low).astype(np.float32).reshape(-1, *[1] * (2 - axis))
        high = np.minimum(low + 1, length - 1)
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return (values - 128) / 128


def _fvd_humanvid_224(image: Frames) -> Floats:
    # In this order of the operations: the rounded quotient decides whether a whole number is rounded up.
    size = _shorter(image, 224, lambda shorter, longer: math.ceil(longer * (224 / shorter)))
    resized = _resized(image.astype(np.float32) / 255, size, "bilinear")
    return _cropped(resized, 224, math.floor) * 2 - 1


def _fvd_scail_224(image: Frames) -> Floats:
    """Resize and crop as SCAIL: the longer side is rounded down, and the crop to the nearest even pixel."""
    size = _shorter(image, 224, lambda shorter, longer: math.floor(longer / shorter * 224))
    resized = _resized(image.astype(np.float32) / 255, size, "bilinear")
    return _cropped(resized, 224) * 2 - 1


def _fvd_cdfvd_224(image: Frames) -> Floats:
    return _resized(image.astype(np.float32) / 255, (224, 224), "bilinear") * 2 - 1


def _efficientnet_224(image: Frames) -> Floats:
    """Scale the whole picture to 224 × 224, with antialiasing: (x − 127) / 128 as EfficientNet-Lite was trained."""
    return (_resized(image, (224, 224), "bilinear", antialias=True) - 127) / 128


def _i2v_efficientnet_224(image: Frames) -> Floats:
    """Crop the middle as `i2v_dino_frames` does, with EfficientNet-Lite's scaling."""
    return (_cropped(_resized(image, _shorter(image, 256), "bicubic", antialias=True), 224) - 127) / 128


# name → function of one frame. *_frames are tensors of a video, *_image the reference image, which goes through PIL.
# i2v_*_frames_no_aa is what torchvision before 0.17 made of frames.
PREPROCESSING: dict[str, Callable[[Frames], Floats]] = {
    "dino_frames": _dino_frames,
    "clip_frames": _clip_frames,
    "i2v_dino_frames": _i2v_dino_frames,
    "i2v_dino_frames_no_aa": lambda image: _i2v_dino_frames(image, antialias=False),
    "i2v_dino_image": _i2v_dino_image,
    "i2v_dreamsim_frames": _i2v_dreamsim_frames,
    "i2v_dreamsim_frames_no_aa": lambda image: _i2v_dreamsim_frames(image, antialias=False),
    "i2v_dreamsim_image": _i2v_dreamsim_image,
    "imaging_longer": _imaging_longer,
    "cleanfid_299": _cleanfid_299,
    "pytorchfid_299": _pytorchfid_299,
    "humanvid_fid_299": _humanvid_fid_299,
    "torchfidelity_299": _torchfidelity_299,
    "fvd_humanvid_224": _fvd_humanvid_224,
    "fvd_scail_224": _fvd_scail_224,
    "fvd_cdfvd_224": _fvd_cdfvd_224,
    "efficientnet_224": _efficientnet_224,
    "i2v_efficientnet_224": _i2v_efficientnet_224,
}
