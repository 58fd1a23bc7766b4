"""MUSIQ (Ke et al., "Multi-scale Image Quality Transformer", ICCV 2021), trained on SPAQ: VBench's imaging_quality.

The network is IQA-PyTorch's port, with the parameter names of its `musiq_spaq_ckpt-358bb6af.pth`. A picture is cut
into patches of 32 × 32 at three scales (longer side 224, 384, and as it is); each patch is one token.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ....datasets.arrays import Floats32, Frames
from ..preprocessing import preprocess
from .parameters import file_of, in_batches, load_parameters, read_parameters

_PATCH = 32
_LONGER_SIDES = (224, 384)  # and the picture's own
_GRID = 10  # patches share the embeddings of a grid of 10 × 10 positions
_WIDTH, _HIDDEN, _HEADS, _LAYERS = 384, 1152, 6, 14
_ROOT, _STEM = 64, 256  # channels before and after the residual block
_BATCH = 4


class _StandardisedConv(nn.Conv2d):
    """Convolution without bias whose filters are standardised, padded as TensorFlow's "SAME"."""

    def __init__(self, width: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(width, out, kernel, stride, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(_pad_same(values, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gn1 = _StandardisedConv(_ROOT, _ROOT, 1), nn.GroupNorm(32, _ROOT, eps=1e-4)
        self.conv2, self.gn2 = _StandardisedConv(_ROOT, _ROOT, 3), nn.GroupNorm(32, _ROOT, eps=1e-4)
        self.conv3, self.gn3 = _StandardisedConv(_ROOT, _STEM, 1), nn.GroupNorm(32, _STEM, eps=1e-4)
        self.conv_proj, self.gn_proj = _StandardisedConv(_ROOT, _STEM, 1), nn.GroupNorm(32, _STEM, eps=1e-4)

    def forward(self, values: Tensor) -> Tensor:
        hidden = F.relu(self.gn1(self.conv1(values)))
        hidden = F.relu(self.gn2(self.conv2(hidden)))
        return F.relu(self.gn_proj(self.conv_proj(values)) + self.gn3(self.conv3(hidden)))


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(_WIDTH, _WIDTH) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        layers = self.query, self.key, self.value
        heads = [layer(tokens).unflatten(-1, (_HEADS, -1)).transpose(1, 2) for layer in layers]
        attended: Tensor = self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return attended


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(_WIDTH, eps=1e-6), nn.LayerNorm(_WIDTH, eps=1e-6)
        self.attention = _Attention()
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(_WIDTH, _HIDDEN), "fc2": nn.Linear(_HIDDEN, _WIDTH)})

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        hidden: Tensor = self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))
        return tokens + hidden


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.posembed_input = nn.ParameterDict({"position_emb": 0.02 * torch.randn(1, _GRID**2, _WIDTH)})
        self.scaleembed_input = nn.ParameterDict({"scale_emb": 0.02 * torch.randn(len(_LONGER_SIDES) + 1, _WIDTH)})
        self.cls = nn.Parameter(torch.zeros(1, 1, _WIDTH))
        self.transformer = nn.ModuleDict({f"encoderblock_{index}": _Block() for index in range(_LAYERS)})
        self.encoder_norm = nn.LayerNorm(_WIDTH, eps=1e-6)

    def forward(self, tokens: Tensor, positions: Tensor, scales: Tensor) -> Tensor:
        embedding = self.posembed_input["position_emb"][0, positions] + self.scaleembed_input["scale_emb"][scales]
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens + embedding], dim=1)
        for block in self.transformer.values():
            tokens = block(tokens)
        quality: Tensor = self.encoder_norm(tokens[:, 0])
        return quality


class MultiScaleQuality(nn.Module):
    """MUSIQ with one output, the mean opinion score."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_root, self.gn_root = _StandardisedConv(3, _ROOT, 7, 2), nn.GroupNorm(32, _ROOT, eps=1e-6)
        self.block1 = _Residual()
        self.embedding = nn.Linear(_STEM * (_PATCH // 4) ** 2, _WIDTH)
        self.transformer_encoder = _Encoder()
        self.head = nn.Linear(_WIDTH, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Score pictures [B, 3, H, W] in [0, 1]: [B, 1], about 0…100 with the published parameters.

        The published code also pads the tokens of each scale to a fixed number and masks them, which changes nothing.
        """
        pictures = 2 * pictures - 1
        scaled = [_resized(pictures, side) for side in (*_LONGER_SIDES, None)]
        cut = [_patches(picture, scale) for scale, picture in enumerate(scaled)]
        patches = torch.cat([part[0] for part in cut], dim=1)
        positions, scales = (torch.cat([part[index] for part in cut]) for index in (1, 2))
        hidden = F.relu(self.gn_root(self.conv_root(patches.flatten(0, 1))))
        hidden = self.block1(F.max_pool2d(_pad_same(hidden, 3, 2), 3, 2))
        # Channels last, the order that the parameters had in TensorFlow.
        tokens = self.embedding(hidden.permute(0, 2, 3, 1).flatten(1)).unflatten(0, patches.shape[:2])
        score: Tensor = self.head(self.transformer_encoder(tokens, positions, scales))
        return score


class Musiq:
    """MUSIQ-SPAQ.

    Args:
        weights: the published `musiq_spaq_ckpt-358bb6af.pth`, its parameters as `.safetensors`, or the folder of
            either; None: random.
        device: device of the network, which computes in float32.

    Raises:
        WeightsError: the file is missing or contains other parameters (MUSIQ's AVA file has ten outputs).
    """

    name = "musiq-spaq"

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        self._device = device
        self._network = MultiScaleQuality()
        if weights is not None:
            file = file_of(weights, ("musiq_spaq_ckpt-358bb6af.pth", "musiq_spaq_ckpt-358bb6af.safetensors"))
            load_parameters(self._network, read_parameters(file), file, "MUSIQ-SPAQ")
        self._network.to(device).eval()

    def scores(self, frames: Frames) -> Floats32:
        """Score frames [F, H, W, 3], scaled down to a longer side of 512 if they are larger: [F] in about 0…100."""

        def compute(batch: Frames) -> Tensor:
            scores: Tensor = self._network(torch.from_numpy(preprocess(batch, "imaging_longer")).to(self._device))
            return scores

        scores: Floats32 = in_batches(frames, _BATCH, compute, 1)[:, 0]
        return scores


def _resized(pictures: Tensor, longer_side: int | None) -> Tensor:
    """Resize bicubically, without antialiasing, to a longer side, up or down; None: leave as it is."""
    if longer_side is None:
        return pictures
    height, width = pictures.shape[2:]
    ratio = longer_side / max(height, width)
    return F.interpolate(pictures, (round(height * ratio), round(width * ratio)), mode="bicubic", align_corners=False)


def _patches(pictures: Tensor, scale: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut [B, 3, H, W] into patches [B, N, 3, 32, 32], row by row; also return their positions and scales [N]."""
    padded = _pad_same(pictures, _PATCH, _PATCH)
    rows, columns = (side // _PATCH for side in padded.shape[2:])
    patches = padded.unflatten(3, (columns, _PATCH)).unflatten(2, (rows, _PATCH))
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    grid = torch.arange(float(_GRID), device=pictures.device)[None, None]
    row, column = (F.interpolate(grid, count, mode="nearest")[0, 0].long() for count in (rows, columns))
    positions = (_GRID * row[:, None] + column).flatten()
    return patches, positions, torch.full_like(positions, scale)


def _pad_same(values: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad with zeros so that a window of `kernel` fits ⌈side / stride⌉ times; the odd one goes right and below."""
    rows, columns = ((math.ceil(side / stride) - 1) * stride + kernel - side for side in values.shape[2:])
    return F.pad(values, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
