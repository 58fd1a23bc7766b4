"""Fit the small image tower and text encoder, and the tokenizer: they must tell apart what varies in the world.

Both predict the attributes of a clip, and find each other's clip in a batch, as CLIP does. The tower also predicts the
joints, from dancers and from drawn skeletons, because it encodes the first frame of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ...datasets.toydance.clip import toy_clip
from ..encoders import CLIP_MEAN, CLIP_STD, resize_image
from ..image_encoder import OpenCLIPImageEncoder
from .clips import (
    FILE_SIDES_PX,
    FPS,
    NUM_FRAMES,
    TRAINING_SEED,
    UNSEEN_SEED,
    difficulty_of,
    drawn_skeleton,
    read_clip,
)
from .fitting import fit

IMAGE_SIZES: dict[str, Any] = {
    "image_size": 64, "patch_size": 16, "width": 96, "num_layers": 4, "num_heads": 4, "mlp_ratio": 3.0
}  # fmt: skip
TEXT_SIZES: dict[str, Any] = {"d_model": 64, "d_kv": 16, "d_ff": 160, "num_layers": 2, "num_heads": 4}
NUM_PIECES = 512
BATCH_SIZE = 64
JOINT_DIM = 64  # of the space in which images and texts are compared


@dataclass(frozen=True)
class Still:
    """One frame of a clip as the tower sees it: picture and skeleton [64, 64, 3], joints [18, 2], visibility, texts."""

    picture: np.ndarray
    skeleton: np.ndarray
    joints: np.ndarray
    visible: np.ndarray
    caption: str
    attributes: dict[str, str]


def draw_stills(seed: int) -> list[Still]:
    """Draw clip `seed` and keep its first frame and another one, as a job would read them from a file."""
    clip = toy_clip(seed, difficulty_of(seed), NUM_FRAMES, FILE_SIDES_PX[seed % len(FILE_SIDES_PX)], FPS)
    frames = np.array([0, np.random.default_rng([seed, 6]).integers(1, NUM_FRAMES)])
    side = IMAGE_SIZES["image_size"]
    pictures, skeletons = (
        [resize_image(picture, side, side) for picture in shown]
        for shown in (read_clip(clip.frames[frames]), drawn_skeleton(clip.pose[frames]))
    )
    return [
        Still(
            picture=picture,
            skeleton=skeleton,
            joints=clip.pose.body[frame].astype(np.float32),
            visible=clip.pose.body_visible[frame],
            caption=clip.caption,
            attributes=clip.attributes,
        )
        for frame, picture, skeleton in zip(frames, pictures, skeletons, strict=True)
    ]


def _draw(first_seed: int, num_clips: int) -> list[Still]:
    with ProcessPoolExecutor() as workers:
        drawn = workers.map(draw_stills, range(first_seed, first_seed + num_clips), chunksize=32)
        return [still for stills in drawn for still in stills]


def train_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a Unigram tokenizer whose pieces may span words, so that a caption has few tokens; bytes are the fallback.

    Special ids are T5's: `<pad>` 0, `</s>` 1, `<unk>` 2.
    """
    spaces = pre_tokenizers.Metaspace(split=False)
    learner = Tokenizer(models.Unigram())
    learner.normalizer, learner.pre_tokenizer = normalizers.NFKC(), spaces
    trainer = trainers.UnigramTrainer(
        vocab_size=NUM_PIECES, special_tokens=["<unk>"], unk_token="<unk>", max_piece_length=40
    )
    learner.train_from_iterator(captions, trainer)
    pieces = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    scores = _scores(learner)
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(piece, scores[piece]) for piece, _ in pieces if piece != "<unk>"]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=True))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def _scores(tokenizer: Tokenizer) -> dict[str, float]:
    """Return the log probability of each piece."""
    import json

    return {piece: float(score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]}


class Encoders(nn.Module):
    """Image tower and text encoder with the heads that they are fitted with.

    Args:
        vocabulary_size: number of tokens.
        classes: values of each attribute.
    """

    def __init__(self, vocabulary_size: int, classes: dict[str, list[str]]) -> None:
        super().__init__()
        self.image_encoder = OpenCLIPImageEncoder(**IMAGE_SIZES)
        self.text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=vocabulary_size, **TEXT_SIZES))
        image_dim, text_dim = IMAGE_SIZES["width"], TEXT_SIZES["d_model"]
        self.of_image = nn.ModuleDict({name: nn.Linear(image_dim, len(values)) for name, values in classes.items()})
        self.of_text = nn.ModuleDict({name: nn.Linear(text_dim, len(values)) for name, values in classes.items()})
        self.image_to_joint = nn.Linear(image_dim, JOINT_DIM)
        self.text_to_joint = nn.Linear(text_dim, JOINT_DIM)
        self.joints = nn.Linear(IMAGE_SIZES["width"], 36)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def pooled_image(self, pictures: np.ndarray) -> Tensor:
        """Return the mean of the tower's tokens [B,D] for pictures uint8 [B,64,64,3]."""
        unit = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        return self.image_encoder((unit - mean) / std).mean(dim=1)

    def pooled_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the text features [B,Dt] of the real tokens."""
        features = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def encoders_loss(
    network: Encoders, stills: Sequence[Still], tokenizer: PreTrainedTokenizerFast, classes: dict[str, list[str]]
) -> dict[str, Tensor]:
    """Return the loss of a batch: attributes of both, contrast of image and text, joints of dancer and skeleton."""
    tokens = tokenizer([still.caption for still in stills], padding=True, return_tensors="pt")
    image = network.pooled_image(np.stack([still.picture for still in stills]))
    drawn = network.pooled_image(np.stack([still.skeleton for still in stills]))
    text = network.pooled_text(tokens["input_ids"], tokens["attention_mask"])
    of_image, of_text = [], []
    for name, values in classes.items():
        wanted = torch.tensor([values.index(still.attributes[name]) for still in stills])
        of_image.append(F.cross_entropy(network.of_image[name](image), wanted))
        of_text.append(F.cross_entropy(network.of_text[name](text), wanted))
    similar = F.normalize(network.image_to_joint(image), dim=1) @ F.normalize(network.text_to_joint(text), dim=1).T
    # Captions may be equal: all of the same text are right.
    captions = [still.caption for still in stills]
    same = torch.tensor([[float(a == b) for b in captions] for a in captions])
    same = same / same.sum(1, keepdim=True)
    logits = similar * network.scale.exp()
    contrast = F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)
    joints = torch.from_numpy(np.stack([still.joints for still in stills])).flatten(1)
    seen = torch.from_numpy(np.stack([still.visible for still in stills])).repeat_interleave(2, dim=1)
    errors = [((network.joints(features) - joints).abs() * seen).sum() / seen.sum() for features in (image, drawn)]
    image_loss, text_loss = torch.stack(of_image).mean(), torch.stack(of_text).mean()
    return {
        "loss": image_loss + text_loss + 0.25 * contrast + 10 * sum(errors),
        "image_attributes": image_loss.detach(),
        "text_attributes": text_loss.detach(),
        "contrast": contrast.detach(),
        "joint_error": errors[0].detach(),
        "skeleton_joint_error": errors[1].detach(),
    }


@torch.no_grad()
def evaluate(
    network: Encoders, stills: Sequence[Still], tokenizer: PreTrainedTokenizerFast, classes: dict[str, list[str]]
) -> dict[str, float]:
    """Return the accuracy of the attributes, by image and by text, the mean over attributes, and joint errors."""
    tokens = tokenizer([still.caption for still in stills], padding=True, return_tensors="pt")
    image = network.pooled_image(np.stack([still.picture for still in stills]))
    text = network.pooled_text(tokens["input_ids"], tokens["attention_mask"])
    right: dict[str, list[float]] = {"image": [], "text": []}
    for name, values in classes.items():
        wanted = torch.tensor([values.index(still.attributes[name]) for still in stills])
        for kind, heads, features in (("image", network.of_image, image), ("text", network.of_text, text)):
            right[kind].append((heads[name](features).argmax(1) == wanted).float().mean().item())
    terms = encoders_loss(network, stills, tokenizer, classes)
    rates = {f"unseen_{kind}_accuracy": float(np.mean(values)) for kind, values in right.items()}
    return rates | {f"unseen_{name}": terms[name].item() for name in ("joint_error", "skeleton_joint_error")}


def fit_encoders(
    folder: Path, *, steps: int, learning_rate: float, minutes: float, num_clips: int = 3000
) -> dict[str, Any] | None:
    """Fit tokenizer, text encoder and image tower in `folder`; return the components, or None if time ran out."""
    stills, unseen = _draw(TRAINING_SEED, num_clips), _draw(UNSEEN_SEED, 128)
    names = sorted(stills[0].attributes)
    classes = {name: sorted({still.attributes[name] for still in [*stills, *unseen]}) for name in names}
    tokenizer = train_tokenizer(still.caption for still in stills)
    torch.manual_seed(0)
    network = Encoders(len(tokenizer), classes)

    def loss(_: int, rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = [stills[index] for index in rng.integers(len(stills), size=BATCH_SIZE)]
        return encoders_loss(network, chosen, tokenizer, classes)

    finished = fit(
        network,
        loss,
        folder,
        steps=steps,
        learning_rate=learning_rate,
        elementwise=network.text_encoder.shared.parameters(),
        evaluate=lambda _: evaluate(network, unseen, tokenizer, classes),
        evaluate_every=250,
        minutes=minutes,
    )
    if not finished:
        return None
    return {
        "tokenizer": tokenizer,
        "text_encoder": network.text_encoder.eval(),
        "image_encoder": network.image_encoder.eval(),
    }
