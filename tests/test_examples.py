"""The examples do what they say, on tiny components."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_render_writes_a_video_with_its_record(checkpoint: Path, dancers: Path, tmp_path: Path) -> None:
    from steadydancer.datasets.provenance import read_provenance
    from steadydancer.datasets.toydance import toy_pose
    from steadydancer.datasets.video import frame_times_s
    from steadydancer.models.pose.track import PoseTrack

    class Supplied:
        name, counts_people = "supplied", True

        def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
            pose = toy_pose(1900, len(frames), 16, aspect=frames.shape[2] / frames.shape[1])
            return [PoseTrack(pose, pose.body_visible.astype(np.float32))]

    out = tmp_path / "out.mp4"
    image, driving = dancers / "images" / "pair_0.png", dancers / "driving" / "pair_0.mp4"
    small = {"num_frames": 5, "num_inference_steps": 2, "max_area_px": 64 * 64, "drawing_area_px": 64 * 64}
    record = example("render").render(
        str(checkpoint), str(image), str(driving), str(out), "A dancer.", pose_estimator=Supplied(), **small
    )
    assert len(frame_times_s(out)) == 5
    assert read_provenance(out).items() <= record.items()  # the record beside it also has the file's own digest
    assert record["settings"]["prompt"] == "A dancer." and record["settings"]["pose_estimator"] == "supplied"


def test_strict_gates_are_a_preset_that_the_command_takes() -> None:
    from steadydancer.flows.presets import Run, paper

    words = ["curate", "--preset", "strict_gates:strict", "--print-config"]
    code = "import sys; sys.argv[0] = 'steadydancer'; from steadydancer.flows.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=EXAMPLES, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    strict, usual = Run.model_validate_json(done.stdout).curate.gates, paper().curate.gates
    changed = {name for name in type(usual).model_fields if getattr(strict, name) != getattr(usual, name)}
    assert changed == {"min_subject_height", "max_pose_jerk", "min_sharpness"}
    assert strict.min_subject_height == 0.5


def test_an_objective_of_ones_own_on_a_cached_sample(cached: Path, checkpoint: Path) -> None:
    import torch

    from steadydancer.models.flow_matching import velocity_target

    objective = example("objective")
    batch = objective.cached_batch(str(cached))
    target = velocity_target(batch.latents, batch.noise)

    def off_by(error: float):
        return lambda latents, timestep, conditions: target + error

    huber = objective.huber_supervision(delta=0.5)
    assert huber(off_by(0.0), batch)["loss"] == 0
    assert huber(off_by(0.1), batch)["loss"].item() == pytest.approx(0.005, rel=1e-3)  # error² / 2
    assert huber(off_by(2.0), batch)["loss"].item() == pytest.approx(0.5 * (2.0 - 0.25), rel=1e-4)
    terms = objective.main(str(cached), str(checkpoint))
    assert set(terms) == {"loss", "huber"} and torch.isfinite(torch.tensor(terms["loss"]))


def test_look_inside_prints_verdicts_and_tensors(
    curated: Path, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("clips", "measured"):
        (tmp_path / name).symlink_to(curated / name)
    (tmp_path / "latents").symlink_to(cached)
    example("look_inside").main(tmp_path)
    printed = capsys.readouterr().out
    assert "dark.mp4           rejected    min_brightness" in printed
    assert "latents            float32   [16, 9, 8, 6]" in printed
    pose = np.asarray(Image.open(tmp_path / "pose.png"))
    assert pose.ndim == 3 and pose.any()


def test_make_inputs_makes_what_the_tutorial_begins_with(tmp_path: Path) -> None:
    example("make_inputs").main(tmp_path)
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 7
    assert (tmp_path / "pairs.jsonl").is_file() and (tmp_path / "components" / "model_index.json").is_file()
