"""Every path of every command may lie on a store: from clips to scores, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.storage import local_copy
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.s3 import ObjectPath, listing, upload_file
from steadydancer.datasets.video import decode, frame_times_s
from steadydancer.flows import cli
from steadydancer.flows.commands.options import LOCAL_FOLDER, Name, Place
from steadydancer.flows.presets import change, load

SECRETS = ("AKIATESTKEY", "test-secret")
# All options that name a place, `@` for it.
PATHS = [
    ["curate", "--clips", "@", "--out", "o"],
    ["curate", "--clips", ".", "--out", "@"],
    ["curate", "--clips", ".", "--out", "o", "--exclude", "@"],
    ["curate", "--clips", ".", "--out", "o", "--preset", "@"],
    ["cache", "--clips", "@", "--out", "o"],
    ["cache", "--clips", ".", "--out", "o", "--components", "@"],
    ["cache", "--clips", ".", "--out", "o", "--captioner", "@"],
    ["train", "--latents", "@", "--stage", "1", "--out", "o"],
    ["train", "--latents", ".", "--stage", "1", "--base", "@", "--out", "o"],
    ["train", "--latents", ".", "--stage", "2", "--from", "@", "--out", "o"],
    ["render", "--checkpoint", "@", "--pairs", "p", "--out", "o"],
    ["render", "--checkpoint", ".", "--pairs", "@", "--out", "o"],
    ["render", "--checkpoint", ".", "--image", "@", "--driving", "b", "--out", "o"],
    ["evaluate", "--renders", "@", "--out", "o"],
    ["evaluate", "--renders", ".", "--truth", "@", "--out", "o"],
    ["convert", "--from", "@", "--to", "o"],
    ["convert", "--from", ".", "--to", "@"],
    ["demo", "--clips", "@", "--out", "o"],
    ["demo", "--out", "@"],
]


@pytest.mark.parametrize("words", PATHS, ids=" ".join)
def test_other_schemes_and_credentials_are_refused_for_every_path(call: Any, tmp_path: Path, words: list[str]) -> None:
    for place, said in (
        ("gs://bucket/x", "gs://… is not supported"),
        ("https://host/x?key=test-secret", "https://… is not supported"),
        ("s3://AKIATESTKEY:test-secret@bucket/x", "must not contain credentials"),
        ("s3://bucket/x?secret_key=test-secret", "must not contain credentials"),
    ):
        answer = call(*[place if word == "@" else word for word in words])
        assert answer.code in (1, 2) and said in " ".join(answer.err.split()), answer
        assert not any(secret in answer.err + answer.out for secret in SECRETS), answer
        assert "Traceback" not in answer.err and list(tmp_path.iterdir()) == []


# Options and arguments of free text that name no place. What is new is put here, or given a type that knows places.
WORDS = {
    "--metrics",
    "--mode",
    "--method",
    "name",
    "--preset",
    "--address",
    "--prompt",
    "--protocol",
    "--shard-size",
    "--reason",
    "--set",
    "--mix",
    "--rows",
    "clip",
    "source",
}


def commands(command: click.Command, name: str = "steadydancer") -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for word, one in command.commands.items():
            yield from commands(one, f"{name} {word}")
    else:
        yield name, command


def test_every_option_of_every_command_that_names_a_place_takes_a_store() -> None:
    places = 0
    for name, command in commands(cli.cli):
        for option in command.params:
            if isinstance(option.type, click.types.StringParamType | click.Path) and option.type is not LOCAL_FOLDER:
                assert option.opts[0] in WORDS, f"{name} {option.opts[0]}: is it a path? then FOLDER, FILE or NAME"
            if isinstance(option.type, Place | Name):
                places += 1
                with pytest.raises(click.BadParameter, match="gs://… is not supported"):
                    option.type.convert("gs://bucket/x", option, None)
                if not getattr(option.type, "is_file", False):
                    assert str(option.type.convert("s3://bucket/x", option, None)) == "s3://bucket/x"
    assert places > 20


def test_a_demo_is_made_on_this_machine(call: Any, tmp_path: Path) -> None:
    answer = call("demo", "--out", "s3://bucket/demo")
    assert answer.code == 2 and "s3://bucket/demo is not on this machine; pass a local folder" in answer.err
    assert list(tmp_path.iterdir()) == []


class Store:
    """A bucket with clips, pairs and components, and a preset that names them."""

    def __init__(self, bucket: str, dancers: Path, components: Path, clips: tuple[str, ...]) -> None:
        self.root = ObjectPath.parse(bucket)
        files = [file for name in clips for file in (dancers / "clips").glob(f"{name}.*")]
        files += [file for name in ("images", "driving", "truth") for file in (dancers / name).iterdir()]
        for file in (*files, dancers / "pairs.jsonl"):
            upload_file(file, self.root / file.relative_to(dancers).as_posix())
        for file in components.rglob("*"):
            if file.is_file():
                upload_file(file, self.root / "wan" / file.relative_to(components).as_posix())
        run = change(load("tiny"), "curate", pose_model="supplied")
        run = change(run, "cache", components=f"{self.root}/wan")
        run = change(run, "stage1", steps=2, warmup_steps=0, evaluation_samples=1, global_batch_size=1)
        run = change(run, "render", num_inference_steps=1, num_frames=13, window_frames=13, window_overlap=4,
                     pose_model="supplied")  # fmt: skip
        write_json(self.root / "preset.json", run.model_dump(mode="json"))

    def all_text(self) -> str:
        """What records and pages say."""
        kinds = (".json", ".jsonl", ".html", ".parquet")
        paths = [one.path for one in listing(self.root) if one.path.suffix in kinds]
        return "".join(path.read_bytes().decode(errors="replace") for path in paths)


def test_clips_become_latents_and_a_checkpoint_scored_videos_on_a_store_alone(
    call: Any, bucket: str, dancers: Path, components: Path, checkpoint: Path, tmp_path: Path
) -> None:
    store = Store(bucket, dancers, components, ("dancer_0", "truncated"))
    for file in (checkpoint / "transformer").iterdir():
        upload_file(file, store.root / "stage3" / "checkpoint" / "transformer" / file.name)
    record = {"kind": "checkpoint", "stage": 3, "base": {"path": f"{bucket}/wan"}}
    write_json(store.root / "stage3" / "checkpoint" / "run.json", record)
    commands = {
        "clips: 2 inputs, 1 ok, 0 rejected, 1 quarantined": ("curate", "--clips", f"{bucket}/clips/"),
        "latents: 1 inputs, 1 ok, 0 rejected, 0 quarantined": ("cache", "--clips", f"{bucket}/out"),
        "renders: 1 inputs, 1 ok, 0 rejected, 0 quarantined": (
            *("render", "--checkpoint", f"{bucket}/stage3/checkpoint"),
            *("--pairs", f"{bucket}/pairs.jsonl"),
        ),
        "metrics: 1 inputs, 1 ok, 0 rejected, 0 quarantined": (
            *("evaluate", "--renders", f"{bucket}/out"),
            *("--truth", f"{bucket}/truth"),
        ),
    }
    reported = ""
    for said, words in commands.items():
        options = ("--out", f"{bucket}/out", "--preset", f"{bucket}/preset.json")
        plan = call(*words, *options, "--dry-run")
        assert plan.code == 0 and json.loads(plan.out)["finished"] is False, plan
        answer = call(*words, *options, "--in-process")
        assert (answer.code, answer.out.splitlines()[0]) == (0, f"{bucket}/out/{said}"), answer
        assert json.loads(call(*words, *options, "--dry-run").out)["finished"] is True
        again = call(*words, *options, "--in-process")
        assert again.code == 0 and "already finished" in again.out
        reported += plan.out + answer.out + answer.err + again.err
    (row,) = Artifact(store.root / "out" / "renders").read().to_pylist()
    assert row["image"] == f"{bucket}/images/pair_0.png" and row["video"] == "pair_0.mp4"
    made = json.loads((store.root / "out" / "renders" / "pair_0.json").read_text())
    assert made["video"]["num_frames"] == 13
    page = (store.root / "out" / "report.html").read_text()
    assert "renders/pair_0.mp4" in page and str(tmp_path) not in page
    # Nothing was made on this machine but copies, and nowhere stands who we are.
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert not any(secret in reported + store.all_text() for secret in SECRETS)


def test_a_file_that_is_wrong_on_a_store_is_named_by_its_address(
    call: Any, bucket: str, dancers: Path, components: Path, checkpoint: Path, tmp_path: Path
) -> None:
    root = ObjectPath.parse(bucket)
    (tmp_path / "words.png").write_text("this is no picture")
    upload_file(tmp_path / "words.png", root / "words.png")
    driving = dancers / "driving" / "pair_0.mp4"
    pairs = "image,driving,id\n" + "".join(
        f"{image},{video},{name}\n"
        for image, video, name in (("words.png", driving, "a"), ("gone.png", driving, "b"), ("words.png", "x.mp4", "c"))
    )
    (tmp_path / "pairs.csv").write_text(pairs)
    upload_file(tmp_path / "pairs.csv", root / "pairs.csv")
    answer = call("render", "--checkpoint", checkpoint, "--pairs", root / "pairs.csv", "--out", root / "out",
                  "--preset", "tiny", "--in-process")  # fmt: skip
    assert answer.code == 1 and "no usable output: 3 unreadable_image" in answer.err
    details = {row["id"]: row["detail"] for row in Artifact(root / "out" / "renders").read().to_pylist()}
    assert details["a"].startswith(f"{bucket}/words.png is not a readable image")
    assert details["b"].startswith(f"{bucket}/gone.png: No such file")


def test_a_conversion_from_a_store_to_a_store(
    call: Any, bucket: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steadydancer.models.conversion import convert

    root = ObjectPath.parse(bucket)
    for file in (checkpoint / "transformer").iterdir():
        upload_file(file, root / "dancer" / "transformer" / file.name)
    words = ("convert", "--from", root / "dancer", "--to", root / "official", "--as", "official")
    plan = json.loads(call(*words, "--dry-run").out)
    assert (plan["from"], plan["to"], plan["finished"]) == (f"{bucket}/dancer", f"{bucket}/official", False)

    def broken_off(folder: Path, target: ObjectPath, last: str) -> None:
        upload_file(folder / "config.json", target / "config.json")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(convert, "publish", broken_off)
        assert call(*words).code == 130
    assert not (root / "official" / "run.json").is_file()
    done = call(*words)
    assert done.code == 0 and "already finished" not in done.out, done
    record = json.loads((root / "official" / "run.json").read_text())
    assert record["source"]["path"] == f"{bucket}/dancer"
    call("convert", "--from", checkpoint, "--to", "here", "--as", "official")
    for file in (tmp_path / "here").glob("*.safetensors"):
        assert (root / "official" / file.name).read_bytes() == file.read_bytes()
    again = call(*words)
    assert again.code == 0 and "already finished" in again.out
    other = call("convert", "--from", root / "official", "--to", root / "dancer", "--as", "diffusers")
    assert other.code == 1 and f"{bucket}/dancer exists and was not written by a conversion" in other.err
    back = call("convert", "--from", root / "official", "--to", "back", "--as", "diffusers")
    assert back.code == 0 and (tmp_path / "back" / "transformer" / "config.json").is_file()


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_the_whole_walk_on_a_store_gives_the_videos_of_the_walk_in_folders(
    call: Any, bucket: str, dancers: Path, components: Path, tmp_path: Path
) -> None:
    store = Store(bucket, dancers, components, ("dancer_0", "dancer_1", "dark"))
    config = json.loads((store.root / "preset.json").read_text())
    config["cache"]["components"] = str(components)
    write_json(tmp_path / "preset.json", config)
    for file in [file for name in ("dancer_0", "dancer_1", "dark") for file in (dancers / "clips").glob(f"{name}.*")]:
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / file.name).write_bytes(file.read_bytes())
    sides = ((bucket, bucket), (str(tmp_path), str(dancers)))
    for place, supplied in sides:
        out = ("--out", f"{place}/out", "--preset", f"{place}/preset.json")
        for words in (
            ("curate", "--clips", f"{place}/clips", *out, "--in-process"),
            ("cache", "--clips", f"{place}/out", *out, "--in-process"),
            ("train", "--latents", f"{place}/out/latents", "--stage", 1, "--out", f"{place}/stage1", *out[2:]),
            *(("render", "--checkpoint", f"{place}/stage1/checkpoint", "--pairs", f"{supplied}/pairs.jsonl", *out),),
            ("evaluate", "--renders", f"{place}/out", "--truth", f"{supplied}/truth", *out, "--in-process"),
        ):
            in_process = ("--in-process",) if words[0] == "render" else ()
            answer = call(*words, *in_process)
            assert answer.code == 0, (words, answer)
    weights = "stage1/checkpoint/transformer/diffusion_pytorch_model.safetensors"
    assert (store.root / weights).read_bytes() == (tmp_path / weights).read_bytes()
    # The files differ in what they say of the checkpoint, whose record names places.
    video = "out/renders/pair_0.mp4"
    with local_copy(store.root / video) as copy:
        there, here = (decode(file, frame_times_s(file)) for file in (copy, tmp_path / video))
    assert len(here) == 13 and (there == here).all()
    means = [json.loads((root / "out/metrics/run.json").read_text())["means"] for root in (store.root, tmp_path)]
    assert means[0] == means[1]
    assert not any(secret in store.all_text() for secret in SECRETS)
