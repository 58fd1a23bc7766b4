"""What a job of renders tells its workers, counts as the same job, and records. Nothing is rendered here."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.schema import Row
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.digests import content_digest, json_digest
from steadydancer.models import components as components_module
from steadydancer.models import mode_parts
from steadydancer.models.checkpoints.folders import part_digest
from steadydancer.pipelines.render import denoise, job, steps
from steadydancer.pipelines.render import task as task_module
from steadydancer.pipelines.render.config import FROZEN, RenderConfig
from steadydancer.pipelines.runtime.runner import Engine
from steadydancer.pipelines.runtime.stage import BadClip, Stage

CONFIG = RenderConfig(num_frames=9, seed=4, guidance_scale=3.0, driving_fps=12.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished checkpoint, its components, and three pairs, one of whose images is missing."""
    (tmp_path / "checkpoint/transformer").mkdir(parents=True)
    (tmp_path / "checkpoint/transformer/config.json").write_text("{}")
    write_json(
        tmp_path / "checkpoint/run.json",
        {"kind": "checkpoint", "stage": 2, "base": {"path": str(tmp_path / "parts")}},
    )
    for k, name in enumerate(FROZEN):
        (tmp_path / "parts" / name).mkdir(parents=True)
        (tmp_path / "parts" / name / "config.json").write_text(str(k))
    for k, name in enumerate(("a.png", "b.png", "a.mp4", "b.mp4")):
        (tmp_path / name).write_text(f"content {k}")
    return tmp_path


def pairs_of(folder: Path) -> list[Row]:
    return [
        job.pair(folder / "b.png", folder / "a.mp4", "words", "second"),
        job.pair(folder / "a.png", folder / "b.mp4", "", "first"),
        job.pair(folder / "gone.png", folder / "b.mp4", "", "third"),
    ]


@pytest.fixture
def recorded_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Row, Any]]:
    """The stage is left out; what it is given is kept."""
    seen: list[tuple[Row, Any]] = []

    def render(row: Row, task: Any, tools: Any) -> Row:
        seen.append((dict(row), task))
        if "gone" in row["image"]:
            raise BadClip("unreadable_image", "gone")
        detail = "no pose found in the image" if row["id"] == "first" else None
        return {**row, "video": f"{row['id']}.mp4", "verdict": "ok", "detail": detail, "aligned": not detail}

    made = [Stage("render", render, ("id",), ("video", "verdict", "detail"))]
    monkeypatch.setattr(steps, "stages", lambda config: made)
    return seen


def run(folder: Path, config: RenderConfig = CONFIG, pairs: list[Row] | None = None) -> dict[str, Any]:
    out = folder / "out"
    engine = Engine(out / ".engine", in_process=True)
    return job.run(config, checkpoint=folder / "checkpoint", pairs=pairs or pairs_of(folder), out=out, engine=engine)


def test_workers_are_told_the_pairs_the_model_and_where_to_write(
    folder: Path, recorded_calls: list[tuple[Row, Any]]
) -> None:
    run(folder)
    given = {row["id"]: {name: row[name] for name in ("id", "image", "driving", "prompt")} for row, _ in recorded_calls}
    assert given == {row["id"]: row for row in pairs_of(folder)}
    (task,) = {id(task): task for _, task in recorded_calls}.values()
    digests = {name: part_digest(folder / "parts", name) for name in FROZEN}
    place = steps.CheckpointTask(
        str(folder / "checkpoint"),
        str(folder / "parts"),
        {"checkpoint": content_digest(folder / "checkpoint"), **digests},
        str(folder / "out/renders"),
    )
    assert task == steps.RenderTask(CONFIG, {"": place}, str(folder / "out/work"))
    assert next(iter(place.digests)) == "checkpoint"  # the network's is the one that a file's comment names


def test_the_record_says_what_was_made_of_what_and_the_console_what_is_odd(
    folder: Path, recorded_calls: list[tuple[Row, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    record = run(folder)
    seconds = record.pop("seconds")
    assert seconds.keys() == {"render", "total"}
    files = {"second": ("b.png", "a.mp4"), "first": ("a.png", "b.mp4"), "third": (None, "b.mp4")}
    digested = [
        [row, *(name and content_digest(folder / name) for name in files[row["id"]])] for row in pairs_of(folder)
    ]
    where = {"packet_size", "num_gpus", "components", "motion_workers", "encode_workers", "write_workers"}
    settings = CONFIG.model_dump(mode="json", exclude=where)
    assert record.pop("inputs") == {
        "checkpoint": str(folder / "checkpoint"),
        "digest": content_digest(folder / "checkpoint"),
        "pairs": json_digest(digested),
    }
    assert record.pop("counts") == {"inputs": 3, "ok": 2, "rejected": 0, "quarantined": 1}
    assert (record["kind"], record["config"]) == ("renders", settings)
    assert record["components"]["path"] == str(folder / "parts")
    assert record["rules"].keys() >= {"pictures", "driving_poses", "sidecars"}
    assert [line.message for line in caplog.records] == [
        "first (image a.png, driving b.mp4): no pose found in the image"
    ]  # fmt: skip


@pytest.mark.parametrize("changed", ["b.png", "a.mp4", "parts/vae/config.json", "checkpoint/transformer/config.json"])
def test_a_file_that_changes_is_another_job_whichever_it_is(
    folder: Path, recorded_calls: list[tuple[Row, Any]], changed: str
) -> None:
    run(folder)
    (folder / changed).write_text("other content")
    with pytest.raises(ArtifactError, match="was started with different settings or inputs"):
        run(folder)
    assert len(recorded_calls) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("driving_fps", 24.0), ("fps", 24), ("seed", 5), ("main_person_only", True), ("pose_model", "supplied"),
        ("sound", "keep"), ("max_area_px", 2048), ("negative_prompt", "x"), ("dtype", "float32"), ("solver", "dpm++"),
    ],
)  # fmt: skip
def test_a_setting_that_changes_is_another_job_and_how_many_gpus_is_not(
    folder: Path, recorded_calls: list[tuple[Row, Any]], field: str, value: Any
) -> None:
    record = run(folder)
    elsewhere = {"num_gpus": 0.5, "components": str(folder / "parts"), "encode_workers": 2}
    assert run(folder, CONFIG.model_copy(update=elsewhere)) == record
    with pytest.raises(ArtifactError, match=f"config.{field}: "):
        run(folder, CONFIG.model_copy(update={field: value}))


def test_what_the_version_before_half_made_is_refused_by_the_rules_name(
    folder: Path, recorded_calls: list[tuple[Row, Any]]
) -> None:
    run(folder)
    renders = folder / "out/renders"
    plan = json.loads((renders / "plan.json").read_text())
    del plan["rules"], plan["config"]["sound"]  # as it was written before there were rules
    write_json(renders / "plan.json", plan)
    assert run(folder)["counts"]["ok"] == 2  # finished: it stays as it is
    (renders / "run.json").unlink()
    with pytest.raises(ArtifactError, match=r"driving_poses: version 1 → 2 \(aligned at the first frame"):
        run(folder)
    assert len(recorded_calls) == 3


def test_a_job_killed_before_its_record_only_writes_the_record(
    folder: Path, recorded_calls: list[tuple[Row, Any]]
) -> None:
    record = run(folder)
    (folder / "out/renders/run.json").unlink()
    again = run(folder)
    assert again["counts"] == record["counts"] and len(recorded_calls) == 3


def test_packets_of_some_pairs_are_made_once(folder: Path, recorded_calls: list[tuple[Row, Any]]) -> None:
    config = CONFIG.model_copy(update={"packet_size": 2})
    run(folder, config)
    parts = sorted((folder / "out/renders").glob("part-*.parquet"))
    assert len(parts) == 2 and [row["id"] for row, _ in recorded_calls] == ["first", "second", "third"]
    (folder / "out/renders/run.json").unlink()
    parts[0].unlink()
    run(folder, config)
    assert 4 <= len(recorded_calls) <= 5
    assert Artifact(folder / "out/renders").read(["id"]).num_rows == 3


@pytest.mark.parametrize(
    ("gpus", "dtype", "parked"), [(0, "float32", False), (0.5, "bfloat16", True), (1, "float16", False)]
)
def test_workers_load_the_network_from_the_checkpoint_and_the_rest_from_the_components(
    monkeypatch: pytest.MonkeyPatch, gpus: float, dtype: str, parked: bool
) -> None:
    loaded: list[Any] = []
    done: list[Any] = []
    compiled: list[Any] = []

    def load_components(place: str, names: Any, dtype: Any, device: str) -> dict[str, str]:
        loaded.append((place, tuple(names), dtype, device))
        return {name: f"{name} of {place}" for name in names}

    def pipeline(**parts: str) -> Any:
        return SimpleNamespace(**parts, set_progress_bar_config=lambda disable: done.append(disable))

    for module in (components_module, denoise):
        monkeypatch.setattr(module, "load_components", load_components)
    monkeypatch.setattr(denoise, "SteadyDancerPipeline", pipeline)
    monkeypatch.setattr(denoise, "park_context_projections", lambda network, device: done.append((network, device)))
    # It compiles where a GPU computes, see `models/test_modes`.
    monkeypatch.setattr(mode_parts, "compile_blocks", lambda network, place: compiled.append((network, place)))
    update = {"num_gpus": gpus, "dtype": dtype, "park_context_projections": parked}
    config = CONFIG.model_copy(update=update)
    places = {name: steps.CheckpointTask(f"/{name}", f"/p{name}", {"vae": "same"}, "/out") for name in "ab"}
    task = steps.RenderTask(config, places, "/work")
    denoiser = denoise.Denoiser(task)
    assert loaded == []  # until a pair needs it
    made = denoiser.of("a")
    device = "cuda" if gpus else "cpu"
    number = getattr(torch, dtype)
    assert loaded == [("/a", ("transformer",), number, device), ("/pa", ("scheduler",), number, device)]
    assert (made.transformer, made.scheduler, made.vae) == ("transformer of /a", "scheduler of /pa", None)
    assert done == [*([("transformer of /a", "cpu")] if parked else []), True]
    assert compiled == [("transformer of /a", device)]
    assert denoiser.of("a") is made and denoiser.of("b").transformer == "transformer of /b"
    loaded.clear()
    components = task_module.Components(task)
    for place in places.values():
        assert components.get(place, "vae") == "vae of /pa"  # of the same content
    assert components.get(places["b"], "text_encoder") == "text_encoder of /pb"
    assert loaded == [("/pa", ("vae",), number, device), ("/pb", ("text_encoder",), number, device)]


@pytest.mark.parametrize(
    ("gpus", "shares", "pools"),
    [
        (0, [0, 0, 0, 0], ["motion", "encode", "denoise", "write"]),
        (1, [0, 0.1, 0.8, 0.1], ["motion", "encode", "denoise", "write"]),
        (0.5, [0, 0.05, 0.4, 0.05], ["motion", "encode", "denoise", "write"]),
        (2, [0, 2, 2, 2], ["motion", "denoise", "denoise", "denoise"]),
    ],
)
def test_stages_share_the_configured_gpus(gpus: float, shares: list[float], pools: list[str]) -> None:
    made = steps.stages(CONFIG.model_copy(update={"num_gpus": gpus}))
    assert [stage.name for stage in made] == ["motion", "encode", "denoise", "write"]
    assert [stage.num_gpus for stage in made] == shares and [stage.pool for stage in made] == pools
    in_turn = steps.stages(CONFIG.model_copy(update={"num_gpus": gpus, "mode": "low_memory", "write_workers": 3}))
    assert {stage.pool for stage in in_turn[1:]} == ({"denoise"} if gpus else {"encode", "denoise", "write"})
    assert [stage.num_workers for stage in in_turn] == [None, None, None, None if gpus else 3]
    columns = {name for stage in made for name in (*stage.reads, *stage.adds)}
    assert columns | {"reason", "seed_index", "licence", "consent"} == set(steps.WORK.names)


def test_where_the_components_are_is_said_by_the_configuration_then_the_checkpoint_then_its_record(
    tmp_path: Path,
) -> None:
    record = {"base": {"path": "/base"}}
    assert job.components_of(CONFIG, tmp_path, record) == "/base"
    named = record | {"components": {"path": "/components"}}
    assert job.components_of(CONFIG, tmp_path, named) == "/components"
    of_the_package = record | {"components": {"path": None, "source": "toydance"}}
    assert job.components_of(CONFIG, tmp_path, of_the_package) == "toydance"
    (tmp_path / "model_index.json").write_text("{}")
    assert job.components_of(CONFIG, tmp_path, named) == str(tmp_path)
    assert job.components_of(CONFIG.model_copy(update={"components": "/mine"}), tmp_path, named) == "/mine"


@pytest.mark.parametrize(
    ("update", "windows"),
    [
        ({"num_frames": 81}, 1), ({"num_frames": 85}, 2), ({"num_frames": None}, None), ({"num_frames": 5}, 1),
        ({"num_frames": 33, "window_frames": 17, "window_overlap": 8}, 3),
    ],
)  # fmt: skip
def test_windows_are_counted(update: dict[str, Any], windows: int | None) -> None:
    assert job.num_windows(CONFIG.model_copy(update=update)) == windows


def test_the_settings_are_those_of_the_release_unless_they_are_given() -> None:
    """A row of the table a setting: who changes one says so here."""
    assert RenderConfig().model_dump() == {
        "components": None, "mode": "exact", "distilled_lora": None, "num_frames": 81, "window_frames": 81,
        "window_overlap": 20, "window_opening": "reference", "max_area_px": 1024 * 576,
        "drawing_area_px": 1024 * 576, "num_inference_steps": 40, "guidance_scale": 5.0, "pose_guidance_scale": 1.0,
        "pose_guidance_interval": (0.1, 0.4), "pose_guidance_unit": "step", "negative_pose_shift": False,
        "solver": "unipc", "flow_shift": 5.0,
        "branch_evaluation": "interleaved", "parallel": None, "num_processes": 1,
        "negative_prompt": None, "seed": 106060, "num_seeds": 1, "dtype": "bfloat16", "park_context_projections": False,
        "driving_fps": None, "fps": 16, "crf": 18, "chroma": "4:2:0", "sound": "none", "main_person_only": False,
        "on_missing_reference": "raise", "first_pose": "driving", "pose_model": "auto", "num_gpus": 0.0,
        "packet_size": 1, "motion_workers": None, "encode_workers": None, "write_workers": None,
    }  # fmt: skip
