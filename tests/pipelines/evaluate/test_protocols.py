"""Protocols: which frames they pick, that every rule is in the digest, and that results of two are told apart."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from steadydancer.models.metrics import SsimVariant
from steadydancer.pipelines.evaluate import protocols
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.protocols import (
    PROTOCOLS,
    Codec,
    Protocol,
    Refused,
    protocol_differences,
    recorded_protocol,
)


def picked(protocol: Protocol, count: int, fps: float = 16) -> list[int]:
    return protocol.select(np.arange(count) / fps).frames.tolist()


def test_todays_protocols_pick_what_they_picked() -> None:
    assert picked(PROTOCOLS["all"], 90) == list(range(90))
    assert picked(PROTOCOLS["first-81"], 90) == list(range(81)) and picked(PROTOCOLS["first-81"], 5) == list(range(5))
    assert PROTOCOLS["all"].truth_positions(50) is None


def test_humanvid_takes_every_third_frame_and_the_middle_of_what_was_predicted() -> None:
    protocol = PROTOCOLS["humanvid-24x3-mid"]
    assert protocol.truth_positions(300).tolist() == list(range(0, 72, 3))
    assert protocol.truth_positions(300)[protocol.reference_index] == 36
    assert protocol.truth_positions(69).tolist() == list(range(0, 48, 2))  # 70 frames are needed at stride 3
    assert protocol.truth_positions(46).tolist() == list(range(24))  # 47 are needed at stride 2
    assert protocol.truth_positions(20).tolist() == list(range(20))
    assert picked(protocol, 24) == list(range(24)) and picked(protocol, 32) == list(range(4, 28))
    model_of_every_frame = PROTOCOLS["humanvid-24x3-i2v"]
    assert picked(model_of_every_frame, 81) == list(range(0, 72, 3)) and picked(model_of_every_frame, 49) == list(
        range(0, 48, 2)
    )
    assert not model_of_every_frame.score_first_frame and protocol.score_first_frame


def test_a_short_clip_and_another_rate_are_treated_as_the_protocol_says() -> None:
    short = {"num_frames": 4, "stride": 2}
    assert picked(Protocol(name="a", **short), 5) == [0, 2, 4]
    assert picked(Protocol(name="a", **short, short_clip="smaller-stride"), 5) == [0, 1, 2, 3]
    with pytest.raises(Refused, match="5 frames, but the protocol a needs 7") as refused:
        picked(Protocol(name="a", **short, short_clip="refuse"), 5)
    assert refused.value.reason == "too_short"
    slower = Protocol(name="b", fps=8)
    assert picked(slower, 9, fps=16) == [0, 2, 4, 6, 8] and picked(slower, 5, fps=8.05) == [0, 1, 2, 3, 4]
    assert picked(slower, 6, fps=4) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert "sampled at 8" in slower.select(np.arange(9) / 16).notes[0]
    with pytest.raises(Refused, match="16 frames per second, but the protocol c wants 8"):
        picked(Protocol(name="c", fps=8, other_fps="refuse"), 9, fps=16)


OTHERS: dict[str, Any] = {
    "name": "other", "version": 2, "description": "x", "clips": ("a",), "num_frames": 3, "position": "middle",
    "stride": 2, "rendered": "scored-frames", "short_clip": "refuse", "fps": 12.0, "other_fps": "refuse",
    "reference_index": 1, "score_first_frame": False, "height": 64, "width": 64, "render_filter": "pil-bicubic",
    "truth_filter": "pil-bilinear", "fit": "crop", "codec": Codec(), "ssim": ("gray-uniform7",),
    "lpips": ("vgg,0-1",), "fid": ("humanvid",), "fvd": (), "antialias": False, "aggregation": "frame",
}  # fmt: skip


def test_every_rule_is_in_the_digest_and_in_the_differences() -> None:
    own = Protocol(name="mine", height=32, width=32)
    assert OTHERS.keys() == Protocol.model_fields.keys()
    for field, value in OTHERS.items():
        other = own.model_copy(update={field: value})
        assert other.digest != own.digest, field
        assert f"  {field}" in protocol_differences(own, other), field
    assert Protocol.model_validate(own.model_dump(mode="json")).digest == own.digest
    assert len({protocol.digest for protocol in PROTOCOLS.values()}) == len(PROTOCOLS)


def test_variants_have_the_names_of_the_formulas() -> None:
    assert get_args(protocols.SsimVariant) == get_args(SsimVariant)


def test_ones_own_protocol_is_read_from_a_file_and_kept_whole(tmp_path: Path) -> None:
    file = tmp_path / "my.json"
    file.write_text(json.dumps({"name": "mine", "num_frames": 7}))
    config = EvaluateConfig(protocol=str(file))
    file.unlink()
    assert config.rules == Protocol(name="mine", num_frames=7)
    assert EvaluateConfig.model_validate_json(config.model_dump_json()) == config
    assert EvaluateConfig(protocol="first-81").protocol == "first-81"
    for fields, said in [
        ({"name": "all", "stride": 2}, "built-in protocol with other rules"),
        ({"name": "x", "frames": 3}, "frames: Extra inputs are not permitted"),
        ({"name": "x", "height": 64}, "height and width together"),
    ]:
        file.write_text(json.dumps(fields))
        with pytest.raises(ValidationError, match=said):
            EvaluateConfig(protocol=str(file))
    for name, said in [("nix", "choose all, first-81"), (str(tmp_path / "no.json"), "cannot be read")]:
        with pytest.raises(ValidationError, match=said):
            EvaluateConfig(protocol=name)


def test_an_older_result_names_its_protocol_only() -> None:
    assert recorded_protocol({"config": {"protocol": "first-81"}}) == PROTOCOLS["first-81"]
    assert recorded_protocol({"config": {"protocol": "gone"}}) is None
    own = Protocol(name="mine", stride=4)
    stored = own.model_dump(mode="json") | {"digest": own.digest}
    assert recorded_protocol({"config": {"protocol": {}}, "protocol": stored}) == own
