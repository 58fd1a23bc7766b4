"""A tiny model of a real class says the same words of the same pictures, and nothing in its folder is run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from steadydancer.models.checkpoints.folders import ComponentsError
from steadydancer.models.curation.captioner import INSTRUCTION, MAX_NEW_TOKENS, Captioner, captioner_digest

WORDS = ["a", "person", "dances", "in", "red", "room", "slowly", "turns", "arms", "up"]
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    names = ["<unk>", "<pad>", "<s>", "</s>", "<image>", "<answer>", *WORDS]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>", "<answer>"],
    )  # fmt: skip


def save_tiny_captioner(folder: Path, chat_template: str | None = TEMPLATE) -> Path:
    """LLaVA with random weights: pictures of 28² in 4 patches."""
    words = tokenizer()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=words, patch_size=14, vision_feature_select_strategy="default", chat_template=chat_template,
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, bos_token_id=2, eos_token_id=3, pad_token_id=1,
        ),
        image_token_index=4,
        vision_feature_layer=-1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.5)
    model.generation_config.do_sample = True  # as chat models come: the captioner must not roll dice
    model.generation_config.temperature = 1.5
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("captioner"))


def frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (9, 40, 30, 3), np.uint8)


def test_the_same_frames_get_the_same_words_and_others_may_get_others(folder: Path) -> None:
    captioner, again = Captioner(str(folder)), Captioner(str(folder))
    said = [captioner(frames(seed)) for seed in range(4)]
    assert said == [again(frames(seed)) for seed in range(4)]
    assert len(set(said)) > 1, "it did not look at the pictures"
    for words in said:
        assert words and set(words.split()) <= {*WORDS, "<unk>"} and len(words.split()) <= MAX_NEW_TOKENS
        assert "<image>" not in words and INSTRUCTION not in words  # the answer alone


def test_few_frames_are_looked_at_evenly(folder: Path) -> None:
    captioner, shown = Captioner(str(folder)), []
    process = captioner.processor

    class Spy:
        chat_template = TEMPLATE
        apply_chat_template = staticmethod(process.apply_chat_template)
        decode = staticmethod(process.decode)

        def __call__(self, **words: Any) -> Any:
            shown.append((words["images"], words["text"]))
            return process(**words)

    captioner.processor = Spy()
    clip = np.repeat(np.arange(81, dtype=np.uint8)[:, None, None, None], 3, axis=3).repeat(8, 1).repeat(8, 2)
    captioner(clip)
    captioner(clip[:1])
    (pictures, text), (one, _) = shown
    assert [np.asarray(picture)[0, 0, 0] for picture in pictures] == [0, 27, 53, 80] and len(one) == 1
    assert text.count("<image>") == 4 and INSTRUCTION in text


def test_what_is_no_captioner_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ComponentsError, match=r"is not a captioner: pass a folder .* its safetensors"):
        Captioner(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ComponentsError, match="cannot be loaded as a captioner"):
        Captioner(str(tmp_path))


def test_a_model_that_cannot_be_asked_is_said(tmp_path: Path) -> None:
    with pytest.raises(ComponentsError, match="has no chat template"):
        Captioner(str(save_tiny_captioner(tmp_path, chat_template=None)))


def test_a_digest_names_what_is_read(folder: Path, tmp_path: Path) -> None:
    digest = captioner_digest(str(folder))
    assert digest == captioner_digest(str(save_tiny_captioner(tmp_path))) and len(digest) == 64
    (tmp_path / "README.md").write_text("not read")
    assert captioner_digest(str(tmp_path)) == digest
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    assert captioner_digest(str(tmp_path)) != digest


def test_clips_without_a_prompt_are_captioned_and_counted(
    folder: Path, components: Path, dancers: Path, tmp_path: Path
) -> None:
    """Through the whole job: what was supplied stays, the rest is captioned, embedded, and said in index and meta."""
    from safetensors.torch import load

    from steadydancer.datasets.artifact import Artifact, ArtifactError
    from steadydancer.datasets.shards import ShardDataset
    from steadydancer.flows.presets import tiny
    from steadydancer.pipelines.cache import job
    from steadydancer.pipelines.curate import job as curate_job
    from steadydancer.pipelines.curate.config import CurateConfig
    from steadydancer.pipelines.runtime.runner import Engine

    clips = tmp_path / "clips"
    clips.mkdir()
    for file in (dancers / "clips").glob("dancer_*"):
        if file.name != "dancer_0.txt":
            (clips / file.name).symlink_to(file)
    engine = Engine(tmp_path / ".engine", in_process=True)
    small = CurateConfig(
        num_frames=13, max_clips_per_source=1, pose_model="supplied", shot_detector="threshold", text_detector="off"
    )
    curate_job.run(small, clips=str(clips), out=tmp_path, engine=engine)
    config = tiny().cache.model_copy(update={"components": str(components), "captioner": str(folder)})
    record = job.run(config, clips=tmp_path, out=tmp_path / "with", engine=engine)
    assert record["prompts"] == {"supplied": 1, "captioner": 1, "none": 0}
    assert record["components"]["digests"]["captioner"] == captioner_digest(str(folder))
    shards = ShardDataset(tmp_path / "with" / "latents")
    reported = {sample["meta"]["prompt_from"]: sample for sample in map(shards.read, shards.keys)}
    caption = reported["captioner"]["meta"]["prompt"]
    assert set(caption.split()) <= {*WORDS, "<unk>"} and "dancer_0" in reported["captioner"]["meta"]["source_path"]
    # The byte tokenizer spells it, and ends it.
    assert len(load(reported["captioner"]["conditions"])["prompt_embeds"]) == min(512, len(caption) + 1)

    plain = job.run(config.model_copy(update={"captioner": None}), clips=tmp_path, out=tmp_path / "no", engine=engine)
    assert plain["prompts"] == {"supplied": 1, "captioner": 0, "none": 1}
    assert plain["fingerprint"] != record["fingerprint"]
    index = Artifact(tmp_path / "no" / "latents").read(["prompt_from"])["prompt_from"].to_pylist()
    assert sorted(index) == ["none", "supplied"]
    other = save_tiny_captioner(tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    with pytest.raises(ArtifactError, match=r"components\.captioner: "):
        changed = config.model_copy(update={"captioner": str(other)})
        job.run(changed, clips=tmp_path, out=tmp_path / "with", engine=engine)
