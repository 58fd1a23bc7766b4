"""The command line answers at once, refuses in a sentence, and leaves nothing half-made that looks whole."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.artifact import Artifact, exclusive
from steadydancer.flows.presets import Run, change, load, tiny

COMMANDS = ("curate", "cache", "train", "render", "evaluate", "demo")
HEAVY = {"torch", "ray", "prefect", "deepspeed", "pydantic", "pyarrow", "cv2", "numpy"}


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, components: Path) -> Path:
    """`tiny` with supplied keypoints, so that no pose model is loaded."""
    run = change(tiny(), "curate", pose_model="supplied", packet_size=1)
    changed = change(run, "cache", components=str(components))
    file = tmp_path_factory.mktemp("preset") / "preset.json"
    file.write_text(changed.model_dump_json())
    return file


def test_help_answers_without_loading_anything() -> None:
    """All of it in one process: what any help loads would be seen."""
    code = f"""
import contextlib, io, json, sys
from steadydancer.flows.cli import cli
answers = {{}}
for words in {[[], *([name] for name in (*COMMANDS, "weights")), ["weights", "list"], ["weights", "check"]]}:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.main([*words, "--help"], prog_name="steadydancer")
    answers[" ".join(words)] = out.getvalue()
print(json.dumps([answers, sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answers, modules = json.loads(done.stdout)
    assert not HEAVY.intersection(modules)
    assert all(text.startswith(f"Usage: steadydancer {name}".rstrip()) for name, text in answers.items())
    assert all(name in answers[""] for name in COMMANDS)
    for name in COMMANDS[:5]:
        assert all(option in answers[name] for option in ("--preset", "--print-config", "--dry-run", "--address"))
    assert all(("--in-process" in answers[name]) == (name != "train") for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_print_config_is_a_preset(call: Any, command: str, tmp_path: Path) -> None:
    stage = ["--stage", "2"] if command == "train" else []
    first = call(command, *stage, "--preset", "tiny", "--print-config")
    assert first.code == 0 and Run.model_validate_json(first.out) == load("tiny")
    (tmp_path / "mine.json").write_text(first.out)
    assert call(command, *stage, "--preset", "mine.json", "--print-config").out == first.out
    assert [path.name for path in tmp_path.iterdir()] == ["mine.json"]


def test_print_config_shows_what_options_change(call: Any) -> None:
    words = ("--preset", "tiny", "--print-config")
    assert json.loads(call("curate", "--num-frames", "17", *words).out)["curate"]["num_frames"] == 17
    stages = json.loads(call("train", "--stage", "2", "--steps", "7", "--seed", "3", *words).out)
    assert (stages["stage2"]["steps"], stages["stage2"]["seed"], stages["stage1"]["steps"]) == (7, 3, 40)
    rendering = json.loads(call("render", "--steps", "4", "--num-frames", "9", *words).out)["render"]
    assert (rendering["num_inference_steps"], rendering["num_frames"]) == (4, 9)
    assert json.loads(call("evaluate", "--protocol", "first-81", *words).out)["evaluate"]["protocol"] == "first-81"


def test_a_dry_run_prints_json_and_makes_nothing(
    call: Any,
    preset: Path,
    dancers: Path,
    curated: Path,
    cached: Path,
    components: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    pair = ("--image", dancers / "images/pair_0.png", "--driving", dancers / "driving/pair_0.mp4")
    plans = {
        "curate": call("curate", "--clips", dancers / "clips", "--out", "o", "--preset", preset, "--dry-run"),
        "cache": call("cache", "--clips", curated, "--out", "o", "--preset", preset, "--dry-run"),
        "train": call("train", "--latents", cached, "--stage", 1, "--base", components, "--out", "o",
                      "--preset", preset, "--dry-run"),
        "render": call("render", "--checkpoint", checkpoint, *pair, "--out", "o", "--preset", preset, "--dry-run"),
        "demo": call("demo", "--out", "o", "--dry-run"),
    }  # fmt: skip
    for name, answer in plans.items():
        assert answer.code == 0, (name, answer.err)
        assert json.loads(answer.out), name
    assert json.loads(plans["curate"].out)["sources"] == 8
    assert list(tmp_path.iterdir()) == []


FOLDER = "FOLDER"  # replaced by an empty folder


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["curate", "--clips", "nowhere", "--out", "o"], 1, "nowhere does not exist: pass a folder, a glob"),
        (["curate", "--clips", FOLDER, "--out", "o"], 1, "contains no videos (looked for .3gp"),
        (["curate", "--clips", "*.mp4", "--out", "o"], 1, "*.mp4 contains no video"),
        (["curate", "--clips", FOLDER, "--out", "o", "--num-frames", "32"], 1, "num_frames must be 4k + 1"),
        (["curate", "--clips", FOLDER, "--out", "o", "--preset", "nix"], 1, "unknown preset nix"),
        (["curate", "--clips", FOLDER, "--out", "o", "--nix"], 2, "No such option '--nix'"),
        (["curate", "--clips", FOLDER], 2, "Missing option '--out'"),
        (["nix"], 2, "No such command 'nix'"),
        (["cache", "--clips", "nowhere", "--out", "o"], 1, "nowhere does not exist"),
        (["cache", "--clips", FOLDER, "--out", "o"], 1, "is not finished (it has no run.json)"),
        (["train", "--latents", FOLDER, "--stage", "1", "--base", FOLDER, "--out", "o"], 1, ""),
        (["train", "--latents", FOLDER, "--stage", "4", "--out", "o"], 2, "'--stage': 4 is not in the range 1<=x<=3"),
        (["train", "--latents", FOLDER, "--stage", "2", "--out", "o"], 1, "stage 2 requires --from"),
        (["render", "--checkpoint", FOLDER, "--out", "o"], 2, "pass --image and --driving, or --pairs"),
        (["render", "--checkpoint", FOLDER, "--pairs", "nix.csv", "--out", "o"], 2, "'nix.csv' does not exist"),
        (["evaluate", "--renders", "nowhere", "--out", "o"], 1, "nowhere does not exist"),
        (["evaluate", "--renders", FOLDER, "--out", "o", "--protocol", "nix"], 1, "evaluate.protocol: 'nix' is not a"),
        (["demo", "--clips", FOLDER, "--out", "o"], 1, "contains no video"),
        (["weights", "check", "--preset", "nix"], 1, "No weights are listed"),
        (["weights", "list", "--preset", "nix"], 1, "No weights are listed"),
        (["weights", "check"], 1, "needs wan-480p (`hf download Wan-AI/Wan2.1-I2V-14B-480P-Diffusers`)"),
    ],
)  # fmt: skip
def test_bad_input_is_a_sentence_and_makes_nothing(
    call: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, words: list[str], code: int, said: str
) -> None:
    folder = tmp_path_factory.mktemp("empty")
    answer = call(*[folder if word == FOLDER else word for word in words])
    assert answer.code == code and said in answer.err, answer
    assert len(answer.err.splitlines()) <= 4 and "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_jobs_refuse_what_is_not_finished_or_not_there(
    call: Any, preset: Path, dancers: Path, curated: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> None:  # fmt: skip
    begun = tmp_path_factory.mktemp("begun")
    shutil.copytree(checkpoint, begun / "checkpoint")
    (begun / "checkpoint" / "run.json").unlink()
    for name in ("clips", "latents", "renders"):
        (begun / name).mkdir()
    table = begun / "pairs.csv"
    table.write_text(f"image,prompt\n{dancers / 'images/pair_0.png'},words\n")
    pair = ("--image", dancers / "images/pair_0.png", "--driving", dancers / "driving/pair_0.mp4")
    refusals = {
        "clips is not finished": ("cache", "--clips", begun),
        "latents is not finished": ("train", "--latents", begun / "latents", "--stage", 1),
        "checkpoint is not finished": ("render", "--checkpoint", begun / "checkpoint", *pair),
        "renders is not finished": ("evaluate", "--renders", begun),
        "The folder /nowhere does not exist": ("cache", "--clips", curated, "--components", "/nowhere"),
        "row 1: no driving (columns: image, prompt)": ("render", "--checkpoint", checkpoint, "--pairs", table),
    }
    for said, words in refusals.items():
        answer = call(*words, "--out", "o", "--preset", preset)
        assert answer.code == 1 and said in answer.err, answer
        assert len(answer.err.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_another_kind_or_a_file_is_one_sentence_that_says_what_is_there_and_what_to_give(
    call: Any, preset: Path, dancers: Path, curated: Path, cached: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Of every option that takes an artifact: the kind found, the kind wanted, and where that comes from."""
    image, driving = dancers / "images/pair_0.png", dancers / "driving/pair_0.mp4"
    clips, wants_clips = curated / "clips", "not clips: pass the --out of `curate` or `refilter`"
    wants_latents, videos = "not latents: pass OUT/latents of `cache --out OUT`", dancers / "clips"
    wants_stage = "not a checkpoint of a stage: pass OUT/checkpoint of the previous stage"
    wants_any = "not a checkpoint: pass OUT/checkpoint of `train --out OUT`, or the output of `convert`"
    pair = ("--image", image, "--driving", driving)
    refusals: list[tuple[str, tuple[Any, ...]]] = [
        (f"{cached} contains latents, {wants_clips}", ("cache", "--clips", cached, "--out", "o")),
        (f"{cached} contains latents, {wants_clips}", ("export", "--clips", cached, "--out", "o")),
        (f"{cached.parent} contains latents, {wants_clips}", ("refilter", "--clips", cached.parent, "--out", "o")),
        (f"{checkpoint} contains a checkpoint, {wants_clips}", ("report", "--clips", checkpoint)),
        (f"{checkpoint} contains a checkpoint, {wants_clips}", ("explain", "x", "--clips", checkpoint)),
        (f"{checkpoint} contains a checkpoint, {wants_clips}", ("compare", "--clips", curated, "--with", checkpoint)),
        (f"{cached} contains latents, {wants_clips}", ("forget", "x", "--clips", cached, "--out", "o")),
        (f"{cached} contains latents, {wants_clips}", ("curate", "--clips", videos, "--parent", cached, "--out", "o")),
        (f"{cached} contains latents written by this program and no", ("curate", "--clips", cached, "--out", "o")),
        (f"{image} is a file, but a folder with clips is needed", ("cache", "--clips", image, "--out", "o")),
        (f"{clips} contains clips, {wants_latents}", ("verify", "--latents", clips)),
        (f"{clips} contains clips, {wants_latents}", ("repair", "--latents", clips, "--out", "o")),
        (f"{clips} contains clips, {wants_latents}", ("train", "--latents", clips, "--stage", 1, "--out", "o")),
        (f"{clips} contains clips, {wants_latents}", ("explain", "dark.mp4", "--clips", curated, "--latents", clips)),
        (f"from_checkpoint: {clips} contains clips, {wants_stage}",
         ("train", "--latents", cached, "--stage", 2, "--from", clips, "--out", "o")),
        (f"run: {cached} is latents, not a training run: pass the --out of `train`",
         ("pick", "--run", cached, "--steps", 1)),
        (f"{cached} contains latents, {wants_any}", ("render", "--checkpoint", cached, *pair, "--out", "o")),
        (f"{cached} contains latents, not renders: pass the --out of `render`",
         ("evaluate", "--renders", cached, "--out", "o")),
        (f"{clips} contains clips, not metrics: pass the --out of `evaluate`", ("report", "--metrics", clips)),
        (f"{image} is a file, not a folder: pass the --out folder of", ("explain", "x", "--artifact", image)),
        (f"'{image}' is a file; pass a folder", ("cache", "--clips", curated, "--out", image / "run")),
        (f"'{image}' is a file; pass a folder", ("demo", "--out", image / "run", "--dry-run")),
        ("'-1' must be at least 0", ("repair", "--latents", cached, "--out", "o", "--num-gpus", -1)),
        ("exclude: /nowhere does not exist", ("curate", "--clips", videos, "--exclude", "/nowhere", "--out", "o")),
        (f"'{image}' is a file; pass a folder", ("cache", "--clips", curated, "--out", image)),
        (f"'{clips}' is a folder; pass a file",
         ("render", "--checkpoint", checkpoint, "--pairs", clips, "--out", "o")),
    ]  # fmt: skip
    of_jobs = ("cache", "export", "curate", "train", "render", "evaluate")
    for said, words in refusals:
        answer = call(*words, *(("--preset", preset) if words[0] in of_jobs else ()))
        assert answer.code in (1, 2) and said in answer.err, (words, answer)
        assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []
    # The folder that a job was told to make it in will do.
    assert call("verify", "--latents", cached.parent).code == call("verify", "--latents", cached).code == 0


def test_a_home_that_cannot_be_written_is_noticed_before_anything_is_measured(
    call: Any, dancers: Path, preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("")  # a container with a foreign user id has none; root may write to any folder
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "STEADYDANCER_SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    words = ("curate", "--clips", dancers / "clips", "--out", "o", "--preset", preset)
    for more in ("--dry-run", "--in-process"):
        answer = call(*words, more)
        assert answer.code == 1 and "set STEADYDANCER_SCRATCH to a writable folder" in answer.err
        assert f"{tmp_path / 'home'}/.cache/steadydancer" in answer.err and "is not writable" in answer.err
    assert not (tmp_path / "o").exists()
    monkeypatch.setenv("STEADYDANCER_SCRATCH", str(tmp_path / "scratch"))
    assert call(*words, "--dry-run").code == 0


def test_every_clip_rejected_fails_and_counts_the_reasons(
    call: Any, preset: Path, dancers: Path, tmp_path: Path
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("dark.mp4", "truncated.mp4", "cut_short.mp4"):
        shutil.copy(dancers / "clips" / name, clips)
    answer = call("curate", "--clips", clips, "--out", "o", "--preset", preset, "--in-process")
    assert answer.code == 1
    assert answer.out == "o/clips: 4 inputs, 0 ok, 3 rejected, 1 quarantined\n"
    assert "no usable output: 2 too_short, 1 min_brightness, 1 truncated" in answer.err
    assert Artifact(tmp_path / "o" / "clips").record()["counts"]["ok"] == 0
    later = call("cache", "--clips", "o", "--out", "o", "--preset", preset, "--in-process")
    assert later.code == 1 and "has no accepted clip (2 too_short, 1 min_brightness, 1 truncated)" in later.err
    assert not (tmp_path / "o/latents").exists()


def test_two_runs_on_one_folder(call: Any, preset: Path, dancers: Path) -> None:
    words = ("curate", "--clips", dancers / "clips", "--out", "o", "--preset", preset, "--in-process")
    with exclusive("o"):
        answer = call(*words)
    assert answer.code == 75 and f"o is in use by another run (process {os.getpid()})" in answer.err
    assert not Path("o/clips").exists()


def test_a_fault_fits_on_a_screen_and_the_same_command_goes_on(
    call: Any, preset: Path, dancers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steadydancer.pipelines.curate import steps

    whole = steps.technical_scores

    def broken(frames: Any) -> dict[str, float]:
        scores = whole(frames)
        return scores if scores["brightness"] > 0.1 else {"sharpness": 1 / 0}

    words = ("curate", "--clips", dancers / "clips", "--out", "o", "--preset", preset, "--in-process")
    monkeypatch.setattr(steps, "technical_scores", broken)
    answer = call(*words)
    assert answer.code == 1 and len(answer.err.splitlines()) <= 15 and "Traceback" not in answer.err
    assert re.search(r"stage `score` failed on clip [0-9a-f]{16} \(.*/dark\.mp4\)", answer.err)
    assert re.search(r"ZeroDivisionError: division by zero\n  at flows/test_cli\.py:\d+ in broken", answer.err)
    log = re.search(r"full traceback: (\S+)", answer.err)
    assert log and "1 / 0" in Path(log[1]).read_text()
    assert f"steadydancer curate --clips {dancers / 'clips'} --out o" in answer.err
    kept = {path: path.stat().st_mtime_ns for path in Path("o/measured").glob("part-*")}
    assert kept and not Path("o/clips").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    mended = call(*words)
    assert mended.code == 0 and mended.out.splitlines()[:1] == ["o/clips: 10 inputs, 3 ok, 6 rejected, 1 quarantined"]
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    again = call(*words)
    assert again.code == 0 and "already finished" in again.out


def test_an_interrupt_says_how_to_go_on(call: Any, monkeypatch: pytest.MonkeyPatch, dancers: Path) -> None:
    from steadydancer.pipelines.curate import job

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run", interrupted)
    answer = call("curate", "--clips", dancers / "clips", "--out", "o", "--preset", "tiny")
    assert answer.code == 130 and answer.err.strip() == "stopped; run the same command again to resume"


def in_a_small_world(folder: Path, options: str, words: list[Any]) -> subprocess.CompletedProcess[str]:
    """Run a command in a mount namespace of its own where `folder` is a file system of these options."""
    script = (
        f"mount -t tmpfs -o {options} none {folder} && cd / && shift 0; "
        f'"$@"; code=$?; echo LEFT; ls -A {folder} {folder}/out/*; exit $code'
    )
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    if subprocess.run([*shell, "true"], capture_output=True).returncode not in (0, 2):
        pytest.skip("no mount namespaces here")
    command = [sys.executable, "-m", "steadydancer.flows.cli", *map(str, words)]
    return subprocess.run([*shell, *command], capture_output=True, text=True, timeout=250)


@pytest.mark.parametrize(
    ("options", "said"),
    [("ro", "Read-only file system: {folder}/out (choose a writable folder"), ("size=48k", "No space left on device")],
    ids=["read-only", "full"],
)
def test_a_folder_that_takes_nothing_is_a_sentence(
    preset: Path, dancers: Path, tmp_path: Path, options: str, said: str
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["curate", "--clips", dancers / "clips", "--out", folder / "out", "--preset", preset, "--in-process"]
    answer = in_a_small_world(folder, options, words)
    assert answer.returncode == 1, answer
    assert said.format(folder=folder) in answer.stderr and "Traceback" not in answer.stderr
    left = answer.stdout.partition("LEFT")[2]
    assert "run.json" not in left and ".tmp" not in left


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_a_fault_in_a_ray_worker_fits_on_a_screen_and_the_same_command_goes_on(
    preset: Path, dancers: Path, tmp_path: Path
) -> None:
    """The whole of stderr, as a user sees it, with a cluster named in the environment that must not be joined."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import steadydancer.pipelines.curate.scores.frame_scores as scores\n"
        "whole = scores.technical_scores\n"
        "def broken(frames):\n"
        "    scores = whole(frames)\n"
        "    return scores if scores['brightness'] > 0.1 else {'sharpness': 1 / 0}\n"
        "scores.technical_scores = broken\n"
    )
    words = ["curate", "--clips", dancers / "clips", "--out", tmp_path / "out", "--preset", preset]
    command = [sys.executable, "-m", "steadydancer.flows.cli", *map(str, words)]
    mended = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    faulty = {**mended, "PYTHONPATH": str(tmp_path / "broken")}
    answer = subprocess.run(command, capture_output=True, text=True, env=faulty, timeout=400)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) <= 15 and "Traceback" not in answer.stderr, answer.stderr
    assert re.search(r"stage `score` failed on clip [0-9a-f]{16} \(.*/dark\.mp4\)", answer.stderr)
    assert "ZeroDivisionError: division by zero\n  at broken/sitecustomize.py:5 in broken" in answer.stderr
    assert "--in-process\n" in answer.stderr and not (tmp_path / "out" / "clips").exists()
    done = subprocess.run(command, capture_output=True, text=True, env=mended, timeout=400)
    assert done.returncode == 0 and "10 inputs, 3 ok, 6 rejected, 1 quarantined\n" in done.stdout
    assert len(done.stderr.splitlines()) <= 5, done.stderr


@pytest.mark.acceptance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_ray_ends_with_its_driver(preset: Path, dancers: Path, tmp_path: Path, end: signal.Signals) -> None:
    words = ["curate", "--clips", dancers / "clips", "--out", tmp_path / "out", "--preset", preset]
    command = [sys.executable, "-m", "steadydancer.flows.cli", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as run:
        while run.poll() is None and not list((tmp_path / "out").glob("measured/part-*")):
            time.sleep(0.05)
        started = descendants(run.pid)
        run.send_signal(end)
        _, err = run.communicate(timeout=120)
    if end == signal.SIGINT:
        assert run.returncode == 130 and err.splitlines()[-1] == "stopped; run the same command again to resume"
    assert len(started) > 3  # Ray's head and workers
    deadline = time.monotonic() + 180  # after -9 Ray's agents take more than a minute to see it
    while any(alive(process) for process in started) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not [process for process in started if alive(process)]


def alive(process: tuple[int, str]) -> bool:
    return process_start(process[0]) == process[1]


def process_start(pid: int) -> str | None:
    """When a process began, in ticks: a number that was given away again begins anew. None: ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def descendants(pid: int) -> list[tuple[int, str]]:
    """(id, start) of all processes below one."""
    below = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        start = process_start(int(child))
        if start is not None:
            below += [(int(child), start), *descendants(int(child))]
    return below
