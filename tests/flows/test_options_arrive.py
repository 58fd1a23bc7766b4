"""Every option of every command arrives where it is meant to: in the configuration, or at the job."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from steadydancer.datasets import clips as datasets_clips
from steadydancer.datasets.artifact import Artifact
from steadydancer.flows.cli import cli
from steadydancer.flows.presets import tiny
from steadydancer.models.conversion import convert
from steadydancer.pipelines.cache import job as cache_job
from steadydancer.pipelines.cache import repair as repair_job
from steadydancer.pipelines.curate import job as curate_job
from steadydancer.pipelines.curate import refilter as refilter_job
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.evaluate import job as evaluate_job
from steadydancer.pipelines.evaluate.imported import ScoreFile
from steadydancer.pipelines.evaluate.sources import Source
from steadydancer.pipelines.export import job as export_job
from steadydancer.pipelines.forget import job as forget_job
from steadydancer.pipelines.render import job as render_job
from steadydancer.pipelines.train import job as train_job


class Reached(Exception):
    """A job was begun."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What jobs were begun with; none runs."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run(*arguments: Any, **named: Any) -> None:
        calls.append((arguments, named))
        raise Reached

    jobs = (cache_job, curate_job, evaluate_job, export_job, refilter_job, render_job, train_job, forget_job)
    for job in jobs:
        monkeypatch.setattr(job, "run", run)
    monkeypatch.setattr(render_job, "run_checkpoints", run)
    monkeypatch.setattr(repair_job, "repair", run)
    monkeypatch.setattr(convert, "convert", run)
    monkeypatch.setattr(Artifact, "committed", False)
    return calls


def arguments_of(begun: list[Any], *words: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the job of a command was begun with."""
    answer = CliRunner().invoke(cli, [str(word) for word in words])
    assert isinstance(answer.exception, Reached), (answer.output, answer.exception)
    arguments, named = begun.pop()
    return arguments, {name: value for name, value in named.items() if name not in ("engine", "advance")}


CONFIGURED: dict[tuple[str, str], tuple[tuple[str, ...], dict[str, Any]]] = {
    ("curate", "curate"): (
        ("--num-frames", "17", "--exclude", "/sets", "--trust"),
        {"num_frames": 17, "exclude": "/sets", "trust": True},
    ),
    ("cache", "cache"): (
        ("--components", "/wan", "--captioner", "/says"),
        {"components": "/wan", "captioner": "/says"},
    ),
    ("train", "stage2"): (
        ("--stage", "2", "--steps", "7", "--seed", "3", "--num-workers", "2", "--bundle"),
        {"steps": 7, "seed": 3, "num_workers": 2, "bundle": True},
    ),
    ("render", "render"): (
        (
            *("--components", "/wan", "--num-frames", "9", "--steps", "4", "--seed", "0", "--sound", "keep"),
            *("--window-opening", "tail", "--num-seeds", "3", "--parallel", "context"),
            *("--num-processes", "2"),
            *("--mode", "low_memory:2", "--distilled-lora", "/few"),
        ),
        {
            "mode": "low_memory:2",
            "branch_evaluation": "sequential",  # of the mode
            "distilled_lora": "/few",
            "components": "/wan",
            "num_frames": 9,
            "num_inference_steps": 4,
            "seed": 0,
            "num_seeds": 3,
            "sound": "keep",
            "window_opening": "tail",
            "parallel": "context",
            "num_processes": 2,
        },
    ),
    ("evaluate", "evaluate"): (
        ("--protocol", "first-81", "--metrics", "pose", "--metrics", "psnr,ssim"),
        {"protocol": "first-81", "metrics": ["pose", "psnr,ssim"]},
    ),
}


@pytest.mark.parametrize(("command", "job"), CONFIGURED)
def test_an_option_changes_its_own_field_of_its_own_job_and_nothing_else(command: str, job: str) -> None:
    words, changed = CONFIGURED[command, job]
    printed = json.loads(CliRunner().invoke(cli, [command, *words, "--preset", "tiny", "--print-config"]).output)
    wanted = tiny().model_dump(mode="json")
    wanted[job] |= changed
    assert printed == wanted


def test_inputs_of_a_job_are_those_that_were_given(begun: list[Any], tmp_path: Path) -> None:
    image, driving = tmp_path / "a.png", tmp_path / "b.mp4"
    for file in (image, driving):
        file.touch()
    run = tiny()
    there = ("--out", tmp_path / "o", "--preset", "tiny", "--in-process")
    _, reported = arguments_of(begun, "curate", "--clips", "some/*.mp4", "--parent", "/before", *there)
    assert reported == {"clips": "some/*.mp4", "out": tmp_path / "o", "parent": Path("/before")}
    _, reported = arguments_of(begun, "cache", "--clips", "/c", *there)
    assert reported == {"clips": Path("/c"), "out": tmp_path / "o", "samples_drawn": run.samples_drawn}
    _, reported = arguments_of(
        begun, "render", "--checkpoint", "/k", "--image", image, "--driving", driving, "--prompt", "she turns", *there
    )
    pairs = [render_job.pair(image, driving, "she turns")]
    assert reported == {"checkpoint": Path("/k"), "pairs": pairs, "out": tmp_path / "o"}
    assert pairs[0]["prompt"] == "she turns"
    words = ("--checkpoint", "ours=/k", "--checkpoint", "/run/checkpoint", "--work", tmp_path / "w")
    _, reported = arguments_of(begun, "render", *words, "--image", image, "--driving", driving, *there)
    assert reported == {
        "checkpoints": {"ours": Path("/k"), "run": Path("/run/checkpoint")},
        "pairs": [render_job.pair(image, driving)], "out": tmp_path / "o", "work": tmp_path / "w",
    }  # fmt: skip
    _, reported = arguments_of(begun, "evaluate", "--renders", "/r", "--truth", "/t", *there)
    assert reported == {"renders": Path("/r"), "truth": Path("/t"), "out": tmp_path / "o"}
    words = ("--videos", "ours=/r", "--videos", "/a/b=c", "--benchmark", "x-dance", "--scores", f"ours={image}")
    _, reported = arguments_of(begun, "evaluate", *words, *there)
    assert reported == {
        "renders": None, "truth": None, "out": tmp_path / "o", "benchmark": "x-dance",
        "videos": [Source("ours", Path("/r")), Source(None, Path("/a/b=c"))], "scores": [ScoreFile("ours", image)],
    }  # fmt: skip
    words = ("--stage", 2, "--latents", "/l", "--base", "/b", "--from", "/f", "--fork", "/other", "--address", "auto")
    (config,), reported = arguments_of(begun, "train", *words, *there[:-1])
    assert config == run.stage2 and reported == {
        "latents": Path("/l"), "base": "/b", "out": tmp_path / "o", "from_checkpoint": Path("/f"), "address": "auto",
        "fork": Path("/other"), "wait_for_nodes_s": run.cluster.wait_for_nodes_s,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((), {"layout": "mp4+jsonl", "max_area_px": 64 * 64, "lossless": False}),
        (("--area", 4096 * 2, "--as", "musubi"), {"layout": "musubi", "max_area_px": 8192, "lossless": False}),
        (("--size", "source", "--lossless"), {"layout": "mp4+jsonl", "max_area_px": None, "lossless": True}),
    ],
)
def test_an_export_is_of_the_size_and_kind_that_was_asked_for(
    words: tuple[object, ...], wanted: dict[str, Any], begun: list[Any], tmp_path: Path
) -> None:
    there = ("--clips", "/c", "--out", tmp_path / "o", "--preset", "tiny", "--in-process")
    (config,), reported = arguments_of(begun, "export", *there, *words)
    assert config.model_dump(exclude={"packet_size"}) == wanted
    assert reported == {"clips": Path("/c"), "out": tmp_path / "o"}


def test_a_removal_is_asked_of_everything_that_was_named(
    begun: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("forget", "somebody", "--clips", "/c1", "--clips", "/c2", "--latents", "/l1", "--latents", "/l2",
             "--exports", "/e1", "--exports", "/e2", "--out", tmp_path / "o")  # fmt: skip
    (request,), _ = arguments_of(begun, *words)
    places = [[Path(f"/{kind}{number}") for number in (1, 2)] for kind in "cle"]
    assert request == forget_job.Request("somebody", places[0], tmp_path / "o", places[1], places[2])
    (request,), _ = arguments_of(begun, *words, "--reason", "a letter", "--with-copies")
    assert (request.reason, request.with_copies) == ("a letter", True)
    planned: list[Any] = []
    monkeypatch.setattr(forget_job, "plan", lambda one: planned.append(one) or {})
    assert CliRunner().invoke(cli, [*map(str, words), "--with-copies", "--dry-run"]).exit_code == 0
    assert [one.with_copies for one in planned] == [True]


def test_a_repair_looks_where_it_is_told_to(begun: list[Any], tmp_path: Path) -> None:
    words = ("repair", "--latents", "/l", "--out", tmp_path / "o", "--in-process")
    arguments, reported = arguments_of(begun, *words)
    assert arguments[:2] == (Path("/l"), tmp_path / "o")
    assert reported == dict.fromkeys(("clips", "components", "captioner", "num_gpus"))
    _, reported = arguments_of(
        begun, *words, "--clips", "/c", "--components", "/wan", "--captioner", "/says", "--num-gpus", "0.5"
    )
    assert reported == {"clips": Path("/c"), "components": "/wan", "captioner": "/says", "num_gpus": 0.5}


def test_a_conversion_is_of_the_form_that_was_asked_for(begun: list[Any], tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    words = ("convert", "--from", tmp_path / "w.safetensors", "--to", tmp_path / "o")
    arguments, reported = arguments_of(begun, *words)
    assert arguments == (tmp_path / "w.safetensors", tmp_path / "o", "diffusers")
    defaults = {"dtype": None, "shard_size": "5GB", "lora_layout": "diffusers", "kind": None, "source_name": None}
    assert reported == defaults
    arguments, reported = arguments_of(
        begun, *words, "--as", "lora", "--dtype", "float16", "--shard-size", "1GiB", "--layout", "comfyui"
    )
    assert arguments[2] == "lora"
    assert reported == {**defaults, "dtype": "float16", "shard_size": "1GiB", "lora_layout": "comfyui"}
    _, reported = arguments_of(begun, *words, "--quantise", "int8")
    assert reported == {**defaults, "kind": "int8"}


BEFORE = CurateConfig.model_validate(
    {
        "gates": {"min_brightness": 0.2},
        "gates_by_shape": {"vertical": {"max_noise": 0.5}, "square": {"max_blur": 0.4}},
        "quotas": {"max_accepted_by_shape": {"square": 9}},
        "target": {"num_clips": 40, "mix": {"vertical": 0.5}},
    }
)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ((), {}),
        (("--max-per-source", 2), {"quotas": {"max_accepted_per_source": 2}}),
        (
            ("--preset", '{"curate": {"quotas": {"max_accepted_by_shape": {"square": 5}}}}', "--max-per-source", 2),
            {"quotas": {"max_accepted_per_source": 2, "max_accepted_by_shape": {"square": 5}}},
        ),
        (("--target", 7), {"target": {"num_clips": 7, "mix": {}}}),
        (("--target", 0), {"target": None}),
        (("--mix", "square=0.25"), {"target": {"num_clips": 40, "mix": {"square": 0.25}}}),
        (
            ("--target", 7, "--mix", "square=0.25", "--mix", "vertical=0.5"),
            {"target": {"num_clips": 7, "mix": {"square": 0.25, "vertical": 0.5}}},
        ),
        (
            ("--set", "vertical.max_blur=0.3", "--set", "vertical.min_contrast=off", "--set", "max_noise=0.1"),
            {
                "gates": {"max_noise": 0.1},
                "gates_by_shape": {
                    "vertical": {"max_noise": 0.5, "max_blur": 0.3, "min_contrast": None},
                    "square": {"max_blur": 0.4},
                },
            },
        ),
    ],
)
def test_a_selection_changes_what_was_asked_for_and_keeps_the_rest_of_its_parents(
    words: tuple[object, ...], changed: dict[str, Any], begun: list[Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = BEFORE.model_dump(mode="json")
    monkeypatch.setattr(datasets_clips, "Clips", lambda place: SimpleNamespace(record={"config": before}))
    decisions = tmp_path / "mine.csv"
    decisions.touch()
    (config,), reported = arguments_of(
        begun, "refilter", "--clips", "/c", "--out", tmp_path / "o", "--decisions", decisions, *words
    )
    wanted = {**before, **{name: changed[name] for name in changed.keys() - {"gates", "quotas"}}}
    for name in ("gates", "quotas"):
        wanted[name] = {**before[name], **changed.get(name, {})}
    assert config.model_dump(mode="json") == wanted
    assert reported == {"clips": Path("/c"), "out": tmp_path / "o", "decisions": decisions}


def test_no_option_was_forgotten_here() -> None:
    """Whoever adds an option to a command must add it to a test above."""
    text = Path(__file__).read_text()
    elsewhere = {
        *("preset", "print_config", "dry_run", "help", "json_wanted"),  # asked for in `test_cli.py`
        *("tflops", "gpu_memory_gb"),  # of a plan, in `test_train_preflight.py`
        "benchmark",  # in `test_benchmarks.py`, with the options of `xdance build` and `stitch`
        *("pairs", "yes"),  # in `test_render_pairs.py`, `test_export_forget.py`
        "list_metrics",  # in `pipelines/evaluate/test_catalogue.py`
    }
    for name in ("curate", "cache", "train", "render", "evaluate", "export", "forget", "repair", "convert", "refilter"):
        for param in cli.commands[name].params:
            if isinstance(param, click.Option) and param.name not in elsewhere:
                assert f'"{param.opts[0]}"' in text, (name, param.opts)
