"""The job on Ray: its pools overlap, and a job killed three times ends as one that was left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.schema import Row, to_table
from steadydancer.pipelines.render.config import RenderConfig
from steadydancer.pipelines.render.steps import SCHEMA, WORK, stages
from steadydancer.pipelines.runtime.runner import Engine, Job, run_packets

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

PAIRS, DENOISE_S = 50, 4.0  # so long that the start of the workers is a small part
SECONDS = {"motion": 0.6, "encode": 0.5, "denoise": DENOISE_S, "write": 0.7}


@pytest.fixture
def own_ray(tmp_path: Path) -> Iterator[None]:
    from ray import cloudpickle

    from steadydancer.pipelines.runtime.local_ray import local_ray

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    with local_ray(tmp_path / "ray"):
        yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def fake(name: str) -> Any:
    """A stage that takes its seconds without computing, and notes when."""

    def wait(row: Row, folder: str, tools: None) -> Row:
        start = time.time()
        time.sleep(SECONDS[name])
        with open(f"{folder}/{name}", "a") as file:  # noqa: PTH123 - nothing of this file's imports is needed there
            file.write(f"{start} {time.time()}\n")
        return {**row, "verdict": "ok"} if name == "write" else row

    return wait


def test_fifty_pairs_take_little_longer_than_their_denoising(own_ray: None, tmp_path: Path) -> None:
    """The stages, pools and shares are the job's; only what they do is replaced."""
    made = [replace(stage, function=fake(stage.name), load=None) for stage in stages(RenderConfig())]
    artifact = Artifact(tmp_path / "out")
    artifact.begin({"x": 1})

    def write_packet(packet: Any, rows: list[Row]) -> None:
        artifact.write_part(packet, to_table(({name: row.get(name) for name in SCHEMA.names} for row in rows), SCHEMA))

    job = Job("render", made, str(tmp_path), WORK, lambda name: {"id": name, "key": name}, write_packet)
    run_packets(job, artifact, plan_packets([f"{k:02d}" for k in range(PAIRS)], 1), Engine(tmp_path / "state"))
    spans = {
        name: [tuple(map(float, line.split())) for line in (tmp_path / name).read_text().splitlines()]
        for name in SECONDS
    }
    assert {name: len(each) for name, each in spans.items()} == dict.fromkeys(SECONDS, PAIRS)
    own = sum(end - start for start, end in spans["denoise"])
    wall = max(end for _, end in spans["write"]) - min(start for start, _ in spans["motion"])
    print(f"wall {wall:.1f} s, denoiser {own:.1f} s, ratio {wall / own:.3f}")
    assert wall <= 1.1 * own


# A process is killed once so many of these files are there.
MOMENTS = (("work/text/*.safetensors", 1), ("work/latents/*.safetensors", 1), ("renders/part-*.parquet", 2))


def command(checkpoint: Path, pairs: Path, preset: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    words = ["render", "--checkpoint", checkpoint, "--pairs", pairs, "--preset", preset, "--out", out, *options]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "steadydancer.flows.cli", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "127.0.0.1:1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_job_killed_three_times_ends_as_one_that_was_left_alone(
    checkpoint: Path, dancers: Path, tmp_path: Path
) -> None:
    from steadydancer.flows.presets import change, tiny

    small: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 2, "num_seeds": 4, "pose_model": "supplied"}
    preset = tmp_path / "preset.json"
    preset.write_text(change(tiny(), "render", **small).model_dump_json())
    given = (checkpoint, dancers / "pairs.jsonl", preset)
    out = tmp_path / "killed"
    for pattern, least in MOMENTS:
        with command(*given, out) as run:
            while run.poll() is None and len(list(out.glob(pattern))) < least:
                time.sleep(0.02)
            assert run.poll() is None, run.stdout and run.stdout.read()
            run.send_signal(signal.SIGKILL)
            run.wait()
        assert not (out / "renders/run.json").exists()
    kept = {file: file.stat().st_mtime_ns for file in (out / "work/latents").iterdir() if file.name[0] != "."}
    for folder, options in ((out, ()), (tmp_path / "whole", ("--in-process",))):
        with command(*given, folder, *options) as run:
            text, _ = run.communicate(timeout=1200)
        assert run.returncode == 0, text
    assert kept and {file: file.stat().st_mtime_ns for file in kept} == kept
    names = [f"pair_0-{k}.{suffix}" for k in range(4) for suffix in ("json", "mp4")]
    for name in names:
        assert (out / "renders" / name).read_bytes() == (tmp_path / "whole/renders" / name).read_bytes(), name
    assert not list((out / "renders").rglob(".*.tmp*"))
