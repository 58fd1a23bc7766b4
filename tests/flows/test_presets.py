"""The presets hold the paper's numbers, and a wrong one is refused by the name of its field."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from steadydancer import SteadyDancerError
from steadydancer.flows.presets import MODULES, PRESETS, Run, change, load, load_for_flow


def test_paper_holds_the_papers_numbers() -> None:
    run = load("paper")
    assert run.curate.num_frames == run.stage1.num_frames == run.render.num_frames == 81
    assert (run.curate.num_frames - 1) / run.curate.fps == 5.0  # seconds
    assert run.cache.max_area_px == 640 * 640
    # The paper renders at 768², the release at 1024 × 576: one area.
    assert run.render.max_area_px == 1024 * 576 == 768 * 768
    stages = [run.stage(n) for n in (1, 2, 3)]
    assert [stage.stage for stage in stages] == [1, 2, 3]
    assert [stage.steps for stage in stages] == [12_000, 2_000, 500]
    assert [stage.learning_rate for stage in stages] == [1e-4, 1e-6, 1e-4]
    assert [stage.num_workers for stage in stages] == [8, 8, 8]
    assert [stage.global_batch_size for stage in stages] == [8, 8, 8]
    assert all(stage.use_gpu for stage in stages)
    assert run.samples_drawn == (12_000 + 2_000 + 500) * 8
    assert run.cache.components == "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
    assert (run.render.num_inference_steps, run.render.guidance_scale, run.render.pose_guidance_interval) == (
        40, 5.0, (0.1, 0.4),
    )  # fmt: skip


def test_one_gpu_takes_the_papers_steps_on_one_worker() -> None:
    paper, alone = load("paper"), load("one_gpu")
    for n in (1, 2, 3):
        one = alone.stage(n)
        assert (one.num_workers, one.gradient_accumulation) == (1, 8)
        same = {"num_workers": 8, "gradient_accumulation": 1}
        assert one.model_copy(update=same) == paper.stage(n)


def test_tiny_needs_no_gpu_and_its_jobs_fit_each_other() -> None:
    run = load("tiny")
    assert run.cache.num_gpus == run.render.num_gpus == 0
    stages = [run.stage(n) for n in (1, 2, 3)]
    assert not any(stage.use_gpu for stage in stages)
    assert {run.curate.num_frames, run.render.num_frames, *(stage.num_frames for stage in stages)} == {33}
    assert run.cache.max_area_px == run.render.max_area_px
    assert math.log2(run.cache.max_area_px) == 12


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_its_json(name: str, tmp_path: Path) -> None:
    run = load(name)
    text = run.model_dump_json(indent=2)
    (tmp_path / "mine.json").write_text(text)
    assert load(str(tmp_path / "mine.json")) == load(text) == run


def test_a_function_of_a_module_in_the_current_folder_is_a_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_presets.py").write_text(
        "from steadydancer.flows import presets\n"
        "def longer():\n    return presets.change(presets.tiny(), 'stage1', steps=60)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load("my_presets:longer") == change(load("tiny"), "stage1", steps=60)


def test_a_flow_calls_functions_of_the_modules_that_its_worker_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab_presets.py").write_text("from steadydancer.flows.presets import tiny\nprint('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MODULES, raising=False)
    for preset in ("os:abort", "lab_presets:tiny"):
        with pytest.raises(SteadyDancerError, match=f"a flow calls functions of modules in {MODULES} alone"):
            load_for_flow(preset)
    assert "lab_presets" not in sys.modules
    monkeypatch.setenv(MODULES, "other,lab_presets")
    assert load_for_flow("lab_presets:tiny") == load_for_flow("tiny") == load("tiny")


def wrong(**changes: Any) -> str:
    data = load("tiny").model_dump(mode="json")
    for name, value in changes.items():
        job, field = name.split("__")
        data[job][field] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        (
            "nix",
            "unknown preset nix; choose tiny, tiny_cluster, toydance, toydance_demo, toydance_ablations, one_gpu, "
            "paper",
        ),
        ("nix.json", r"cannot read preset nix\.json: .*No such file"),
        ("no_such_module:run", "cannot read preset no_such_module:run: No module named 'no_such_module'"),
        ("json:nix", "module 'json' has no attribute 'nix'"),
        ("json:JSONDecoder", "json:JSONDecoder is not a valid configuration"),
        ("gs://bucket/run.json", "gs://… is not supported"),
        ("{", "the preset|Invalid JSON"),
        ('{"curate": {}}', r"valid configuration; --print-config prints a complete one:\n  cache: Field required"),
        (wrong(curate__nix=1), r"curate\.nix: Extra inputs are not permitted"),
        (wrong(stage2__steps="many"), r"stage2\.steps: Input should be a valid integer.*got many"),
        (wrong(render__pose_guidance_interval=[0.4, 0.1]), r"render: pose_guidance_interval must be \(low, high\)"),
        (wrong(curate__num_frames=32), r"curate: num_frames must be 4k \+ 1 .*got 32$"),
    ],
)
def test_a_wrong_preset_is_a_sentence_that_names_the_field(preset: str, words: str) -> None:
    with pytest.raises(SteadyDancerError, match=words) as caught:
        load(preset)
    assert len(str(caught.value).splitlines()) <= 9 and len(str(caught.value)) < 700


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    ("field", "place"),
    [
        ('"max_pose_jerk": 0.32', "curate.gates.max_pose_jerk"),
        ('"max_persons": 1', "curate.gates.max_persons"),
        ('"cut_threshold": 0.3', "curate.cut_threshold"),
        ('"learning_rate": 0.002', "stage1.learning_rate"),
        ('"guidance_scale": 5.0', "gallery.guidance_scale"),
    ],
)
def test_numbers_without_an_end_are_refused_by_their_field(field: str, place: str, value: str) -> None:
    text = load("tiny").model_dump_json(indent=1)
    assert field in text
    with pytest.raises(SteadyDancerError, match=rf"{place}: Input should be a (finite number|valid integer)"):
        load(text.replace(field, f"{field.split(':')[0]}: {value}"))


def floats_of(data: Any, place: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(data, dict):
        return [found for name, value in data.items() for found in floats_of(value, (*place, name))]
    if isinstance(data, list):
        return [found for k, value in enumerate(data) for found in floats_of(value, (*place, str(k)))]
    return [place] if isinstance(data, float) else []


def test_every_number_of_every_job_must_be_finite() -> None:
    run = load("paper").model_dump(mode="json")
    places = floats_of(run)
    assert len(places) > 80
    for place in places:
        data: Any = json.loads(json.dumps(run))
        inside = data
        for name in place[:-1]:
            inside = inside[int(name) if isinstance(inside, list) else name]
        inside[int(place[-1]) if isinstance(inside, list) else place[-1]] = math.nan
        with pytest.raises(SteadyDancerError, match="finite number"):
            load(json.dumps(data))
    data = run | {"curate": run["curate"] | {"gates_by_shape": {"square": {"max_pose_jerk": math.inf}}}}
    with pytest.raises(SteadyDancerError, match="square.max_pose_jerk: Input should be a finite number"):
        load(json.dumps(data))
    data = run | {"curate": run["curate"] | {"target": {"num_clips": 2, "mix": {"square": math.nan}}}}
    with pytest.raises(SteadyDancerError, match="mix.square: Input should be a finite number"):
        load(json.dumps(data))


def test_a_preset_function_is_looked_at_although_it_changed_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unchecked.py").write_text(
        "from steadydancer.flows.presets import tiny\n"
        "def run():\n    r = tiny()\n"
        "    return r.model_copy(update={'render': r.render.model_copy(update={'guidance_scale': float('nan')})})\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SteadyDancerError, match=r"render\.guidance_scale: Input should be a finite number"):
        load("unchecked:run")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", ["mine.json", "MINE.JSON"])
def test_a_preset_is_read_as_editors_save_it(tmp_path: Path, name: str, encoding: str) -> None:
    run = change(load("tiny"), "render", negative_prompt="déformé, 模糊")
    (tmp_path / name).write_bytes(run.model_dump_json(indent=2).encode(encoding))
    assert load(str(tmp_path / name)) == run
    (tmp_path / name).write_bytes(run.model_dump_json(indent=2).encode("gb18030"))
    with pytest.raises(SteadyDancerError, match="cannot be read: byte .* is not UTF-8"):
        load(str(tmp_path / name))


def test_a_file_that_is_no_text_is_no_preset(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SteadyDancerError, match=r"x\.json cannot be read"):
        load(str(tmp_path / "x.json"))


def test_change_sets_what_is_given_and_validates_anew() -> None:
    run = load("tiny")
    assert change(run, "curate", num_frames=None) == run
    changed = change(run, "render", num_inference_steps=3, seed=None)
    assert changed == Run(**{**dict(run), "render": run.render.model_copy(update={"num_inference_steps": 3})})
    with pytest.raises(SteadyDancerError, match="this command is not a valid configuration.*\n.*stage1.steps"):
        change(run, "stage1", steps=0)
