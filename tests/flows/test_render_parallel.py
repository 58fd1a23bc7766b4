"""`render --parallel` as a person calls it: the command starts another process, and both sample the video of one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from steadydancer.datasets.video import decode
from steadydancer.flows.presets import change, tiny

SMALL: dict[str, Any] = {
    "num_frames": 5, "num_inference_steps": 4, "pose_model": "supplied", "pose_guidance_interval": (0.0, 1.0),
}  # fmt: skip


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_two_processes_render_what_one_renders(
    call: Any, checkpoint: Path, dancers: Path, tmp_path: Path, one_thread: None
) -> None:
    preset = tmp_path / "preset.json"
    preset.write_text(change(tiny(), "render", **SMALL).model_dump_json())
    given = ("render", "--checkpoint", checkpoint, "--pairs", dancers / "pairs.jsonl", "--preset", preset)

    def rendered(name: str, *options: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        answer = call(*given, "--in-process", "--out", tmp_path / name, *options)
        assert answer.code == 0, answer.err
        (kept,) = (tmp_path / name / "work/latents").glob("*.safetensors")
        (video,) = (tmp_path / name / "renders").glob("*.mp4")
        record = json.loads(video.with_suffix(".json").read_text())
        return load_file(kept)["latents"], decode(video, np.arange(5) / 16), record["settings"]["config"]

    latents, frames, _ = rendered("alone")
    for parallel in ("guidance", "context"):
        found = rendered(parallel, "--parallel", parallel, "--num-processes", 2)
        assert np.array_equal(found[0], latents) and np.array_equal(found[1], frames)
        assert (found[2]["parallel"], found[2]["num_processes"]) == (parallel, 2)
    refused = call(*given, "--out", tmp_path / "refused", "--num-processes", 2)
    assert refused.code != 0 and "2 processes need `parallel`" in refused.err
    assert not (tmp_path / "refused").exists()
