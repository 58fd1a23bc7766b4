"""The tokenizer keeps any text in few tokens; the loss of the encoders is small only for features that are right."""

import numpy as np
import pytest
import torch
from torch import Tensor

from steadydancer.models.toydance import encoders
from steadydancer.models.toydance.encoders import Encoders, Still, draw_stills, encoders_loss, train_tokenizer


@pytest.fixture(scope="module")
def stills() -> list[Still]:
    return [still for seed in range(40, 64) for still in draw_stills(seed)]


def test_captions_have_few_tokens_and_any_text_is_kept(stills: list[Still]) -> None:
    captions = sorted({still.caption for still in stills})
    tokenizer = train_tokenizer(captions[:-4])
    counts = [len(tokenizer(caption)["input_ids"]) for caption in captions]
    assert np.mean(counts) < 0.25 * np.mean([len(caption) for caption in captions])
    for text in [*captions, "Füße – 踊る 🕺", "a  b", ""]:
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id == 1 and tokenizer.pad_token_id == 0
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert 2 not in tokenizer("Füße – 踊る 🕺")["input_ids"]  # nothing is unknown: bytes stand in


def test_stills_are_the_first_frame_and_a_later_one(stills: list[Still]) -> None:
    first, later = stills[0], stills[1]
    assert first.caption == later.caption and first.attributes == later.attributes
    assert first.picture.shape == first.skeleton.shape == (64, 64, 3)
    assert not np.array_equal(first.joints, later.joints) and not np.array_equal(first.picture, later.picture)
    # The skeleton is drawn where the joints are: its pixels lie around their mean.
    rows, columns = np.nonzero(first.skeleton.max(axis=-1) > 60)
    centre = first.joints[first.visible].mean(axis=0) * 64
    assert np.abs(np.array([columns.mean(), rows.mean()]) - centre).max() < 6


class Known(Encoders):
    """Give each still the features that a table holds."""

    def __init__(self, image: Tensor, text: Tensor, drawn: Tensor, classes: dict[str, list[str]]) -> None:
        super().__init__(300, classes)
        self._tables, self._text = [image, drawn], text

    def pooled_image(self, pictures: np.ndarray) -> Tensor:
        table = self._tables.pop(0)
        self._tables.append(table)
        return table

    def pooled_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self._text


def test_each_term_of_the_loss_falls_when_its_features_are_right(stills: list[Still]) -> None:
    chosen = stills[:8:2]
    names = ["hair"] if "hair" in chosen[0].attributes else sorted(chosen[0].attributes)[:1]
    classes = {name: sorted({still.attributes[name] for still in stills}) for name in names}
    tokenizer = train_tokenizer(still.caption for still in stills)
    image_dim, text_dim = encoders.IMAGE_SIZES["width"], encoders.TEXT_SIZES["d_model"]
    joints = torch.from_numpy(np.stack([still.joints for still in chosen])).flatten(1)
    image, text = torch.zeros(4, image_dim), torch.zeros(4, text_dim)
    image[:, :36] = joints
    wanted = [classes[names[0]].index(still.attributes[names[0]]) for still in chosen]
    for k, value in enumerate(wanted):
        image[k, 40 + value], text[k, value], image[k, 60 + k], text[k, 30 + k] = 30, 30, 30, 30

    def terms(image: Tensor, text: Tensor, drawn: Tensor) -> dict[str, float]:
        network = Known(image, text, drawn, classes)
        with torch.no_grad():
            for layer in (network.of_image[names[0]], network.of_text[names[0]], network.joints,
                          network.image_to_joint, network.text_to_joint):  # fmt: skip
                layer.weight.zero_()
                layer.bias.zero_()
            count = len(classes[names[0]])
            network.of_image[names[0]].weight[:, 40 : 40 + count] = torch.eye(count)
            network.of_text[names[0]].weight[:, :count] = torch.eye(count)
            network.joints.weight[:, :36] = torch.eye(36)
            network.image_to_joint.weight[:4, 60:64] = torch.eye(4)
            network.text_to_joint.weight[:4, 30:34] = torch.eye(4)
            network.scale.fill_(4.0)
            return {name: float(term) for name, term in encoders_loss(network, chosen, tokenizer, classes).items()}

    right = terms(image, text, image)
    assert all(value < 1e-3 for value in right.values()), right
    turned = torch.roll(image, 1, dims=0)
    assert terms(turned, text, image)["contrast"] > 5 and terms(turned, text, image)["joint_error"] > 0.001
    assert terms(image, text, turned)["skeleton_joint_error"] > 0.001
    assert terms(image.roll(1, 1), text, image)["image_attributes"] > 0.1
    assert terms(image, text.roll(1, 1), image)["text_attributes"] > 0.1
