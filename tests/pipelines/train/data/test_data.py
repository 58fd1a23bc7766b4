"""Training data as a function of (seed, step): by real processes, from a store that fails now and then, and refused."""

import errno
import http.client
import http.server
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from steadydancer.datasets.artifact import Artifact, ArtifactError, Packet
from steadydancer.datasets.shards import Sample, ShardDataset, null_path, sample_members, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.models.cached_conditions import tensors_of
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data.batches import TrainingData
from steadydancer.pipelines.train.data.draws import simulated_poses
from steadydancer.pipelines.train.data.pose_simulation import PoseSimulation, latent_shape, simulated_pose_bytes
from steadydancer.pipelines.train.data.prefetch import Prefetch
from steadydancer.pipelines.train.run_folder import NonFiniteError

FRAMES, WIDE, TALL = 9, (9, 32, 48), (9, 48, 32)
BUCKETS = {f"clip{i}": WIDE for i in range(5)} | {"clip5": TALL}  # the second is smaller than a batch
STEPS = 7  # three an epoch


def settings(stage: int, **changes: Any) -> dict[str, Any]:
    values = {
        "stage": stage, "num_frames": FRAMES, "steps": STEPS, "seed": 3, "global_batch_size": 4,
        "use_gpu": False, "dtype": "float32", "text_dropout": 0.3, "pose_dropout": 0.3, "validation_share": 0.0,
        "pose_simulation_targets": (2, 3), "evaluation_samples": 3, "trackers": (),
    }  # fmt: skip
    return {**values, **changes}


def config(stage: int, **changes: Any) -> TrainConfig:
    return TrainConfig(**{"num_workers": 1, **settings(stage, **changes)})


def tensors_like(bucket: tuple[int, int, int], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clip = (16, (bucket[0] - 1) // 4 + 1, bucket[1] // 8, bucket[2] // 8)
    shapes = {
        "latents": clip, "image_latents": clip, "pose_latents": clip, "image_embeds": (257, 8),
        "pose_image_embeds": (257, 8), "prompt_embeds": (3 + seed % 4, 8),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}


def write_latents(
    folder: Path,
    change: Callable[[str, dict[str, torch.Tensor]], Any] = lambda key, tensors: None,
    change_null: Callable[[str, dict[str, torch.Tensor]], Any] = lambda key, tensors: None,
) -> Path:
    """A cache of random numbers in two shards; `change` spoils a sample before it is written."""
    for keys in (sorted(BUCKETS)[:3], sorted(BUCKETS)[3:]):
        samples = []
        for key in keys:
            tensors = tensors_like(BUCKETS[key], int(key[-1]))
            change(key, tensors)
            points = 0.2 + 0.5 * np.random.default_rng(int(key[-1])).random((FRAMES, 18, 2)).astype(np.float32)
            hands = np.full((FRAMES, 2, 21, 2), -1, np.float32)
            pose = PoseSequence(points, np.ones((FRAMES, 18), bool), hands, None)
            size = dict(zip(("num_frames", "height", "width"), BUCKETS[key], strict=True))
            meta = {"image_height": size["height"], "image_width": size["width"], "drawing_area_px": 64 * 64}
            row = {"clip_id": key, "source_id": f"source-{key}", "verdict": "ok", **size}
            samples.append(Sample(row, sample_members(meta, save(tensors), pose.to_bytes())))
        write_shard(folder, Packet(f"shard-{keys[0]}", tuple(keys)), samples)
    (folder / "null").mkdir()
    for bucket in (WIDE, TALL):
        null = tensors_like(bucket, 99)
        change_null("null", null)
        null_path(folder, bucket).write_bytes(save(null))  # type: ignore[union-attr]
    counts = {"inputs": 6, "ok": 6, "rejected": 0, "quarantined": 0}
    Artifact(folder).commit({"counts": counts, "encodings": ENCODINGS, "config": {"dtype": "bfloat16"}})
    return folder


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_latents(tmp_path_factory.mktemp("data") / "latents")


def uploaded(latents: Path, bucket: str) -> ObjectPath:
    place = ObjectPath.parse(bucket) / "latents"
    for file in latents.rglob("*"):
        if file.is_file():
            upload_file(file, place / file.relative_to(latents).as_posix())
    return place


# What a training's workers do with their data, in processes of their own, and what came of it: one line a task.
WORKERS = r'''
import hashlib, json, os, signal, sys, tempfile
import torch, torch.distributed as dist
from steadydancer.datasets.shards import ranges
from steadydancer.datasets.storage import location
from steadydancer.models.components import tiny_components
from steadydancer.pipelines.train.data.batches import TrainingData
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data.draws import digest
from steadydancer.pipelines.train.data.pose_simulation import PoseSimulation
from steadydancer.pipelines.train.data.prefetch import Prefetch

torch.set_num_threads(1)
vae = tiny_components(seed=0)["vae"]
encode = PoseSimulation._encode


def name(batch, i):
    """Digest of all that the network is told of a sample; the text as it fills it up."""
    digest = hashlib.sha256()
    c, n = batch.conditions, batch.null
    for text in (c.prompt_embeds, n.prompt_embeds):
        digest.update(torch.nn.functional.pad(text[i], (0, 0, 0, 512 - text.shape[1])).numpy().tobytes())
    for tensor in (batch.latents, batch.noise, batch.sigma, c.image_latents, c.pose_latents, c.image_embeds,
                   c.pose_image_embeds, n.pose_latents, n.pose_image_embeds):
        digest.update(tensor[i].contiguous().numpy().tobytes())
    return digest.hexdigest()


def worker(task, rank, store):
    world = task["world"]
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    steps = {}
    for variant, settings in task["variants"].items():
        config = TrainConfig(**settings, num_workers=world)
        data = TrainingData(location(task["latents"]), config, PoseSimulation(config, vae, location(task["poses"])))
        steps[variant] = []
        with Prefetch(lambda step: data.share(step, rank, world), range(config.steps)) as batches:
            for step in range(config.steps):
                share = batches(step)
                mine = [name(batch, i) for rows, batch in share.micro_batches for i in range(len(rows))]
                gathered = [None] * world
                dist.all_gather_object(gathered, (digest(share.draws), mine))
                assert len({drawn for drawn, _ in gathered}) == 1
                steps[variant].append([gathered[0][0], [one for _, names in gathered for one in names]])
    if rank == 0:
        print(json.dumps([task["name"], steps]), flush=True)
    dist.barrier()


def victim(*arguments):
    """A worker that is killed while it writes."""
    def torn(write):
        def half(*given):
            write(*given)
            file = given[-1] / "bytes" if given[-1].is_dir() else given[0]
            os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return half
    ranges._fetch, os.link = torn(ranges._fetch), torn(lambda aside, file: None)
    worker(*arguments)


def run(task, work):
    def counted(self, *arguments):
        os.write(log, b"x")
        return encode(self, *arguments)
    log = os.open(task["log"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    PoseSimulation._encode = counted
    children = []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(task["world"]):
            if (child := os.fork()) == 0:
                code = 1
                try:
                    work(task, rank, folder + "/store")
                    code = 0
                except BaseException as error:
                    print(repr(error), file=sys.stderr, flush=True)
                finally:
                    os._exit(code)
            children.append(child)
        return [os.waitpid(child, 0)[1] for child in children]


for task in json.loads(sys.argv[1]):
    os.environ.update(task["environment"])
    if task["kill"]:
        assert run({**task, "world": 1, "log": os.devnull}, victim) == [signal.SIGKILL]
    assert run(task, worker) == [0] * task["world"], task["name"]
'''


def work(tasks: list[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Digests of the draws and of every sample's tensors, by task, variant and step."""
    command = [sys.executable, "-c", WORKERS, json.dumps(tasks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(map(json.loads, done.stdout.splitlines()))


def task(folder: Path, name: str, latents: Any, world: int, **changes: Any) -> dict[str, Any]:
    places = {"latents": str(latents), "poses": str(folder / f"{name}-poses"), "log": str(folder / f"{name}.log")}
    values = {"variants": {"1": settings(1)}, "environment": {}, "kill": False}
    return {"name": name, "world": world, **places, **values, **changes}


class FlakyStore:
    """Stands before a store; of the requests for a shard's bytes it answers every other one badly."""

    def __init__(self, endpoint: str) -> None:
        host = endpoint.removeprefix("http://")
        answers = itertools.cycle(["503", "sound", "500", "sound", "cut", "sound"])
        reported, lock = self.reported, _ = [], threading.Lock()  # type: ignore[var-annotated]

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                how = "sound"
                if self.command == "GET" and ".tar" in self.path:
                    with lock:
                        how = next(answers)
                        reported.append((how, self.path))
                upstream = http.client.HTTPConnection(host)
                upstream.request(self.command, self.path, body, dict(self.headers))
                reply = upstream.getresponse()
                status, content = (reply.status, reply.read()) if how in ("sound", "cut") else (int(how), b"")
                self.send_response(status)
                kept = {name: text for name, text in reply.getheaders() if name.lower() not in ("connection", "date")}
                for name, text in {**kept, **({} if status < 500 else {"Content-Length": "0"})}.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if how == "cut" else content)
                self.close_connection = how == "cut"

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def flaky(object_store: str) -> Iterator[FlakyStore]:
    store = FlakyStore(object_store)
    yield store
    store.server.shutdown()
    store.server.server_close()


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_workers_are_told_the_same_to_the_bit(latents: Path, bucket: str, flaky: FlakyStore, tmp_path: Path) -> None:
    """At every world size, from a folder and from a store that fails, with room for few samples, after kills."""
    place = uploaded(latents, bucket)
    sample = sum(len(part) for part in ShardDataset(latents).read("clip0").values() if isinstance(part, bytes))
    variants = {"3": settings(3), "1": settings(1), "2": settings(2)}
    variants["latent"] = settings(3, pose_simulation_unit="latent", pose_simulation_targets=(2,))
    cut = {**variants, "cut": settings(1, gradient_accumulation=2)}

    def there(name: str, limit_bytes: float) -> dict[str, Any]:
        environment = {"AWS_ENDPOINT_URL": flaky.endpoint, "STEADYDANCER_SCRATCH": str(tmp_path / name)}
        environment["STEADYDANCER_SCRATCH_GB"] = str(limit_bytes / 1e9)
        return task(tmp_path, name, place, 4, kill=True, environment=environment)

    steps = work(
        [
            task(tmp_path, "1", latents, 1, variants=cut),
            task(tmp_path, "2", latents, 2, variants=cut, kill=True),
            task(tmp_path, "4", latents, 4, variants=variants, kill=True),
            task(tmp_path, "again", latents, 1, variants={"3": variants["3"]}, poses=str(tmp_path / "1-poses")),
            there("roomy", 1e9),
            there("narrow", 2.5 * sample),
        ]
    )
    for variant, alone in steps["1"].items():
        assert len(alone) == STEPS and len({drawn for drawn, _ in alone}) == STEPS
        assert len({name for _, names in alone for name in names}) == STEPS * 4  # noise is never the same
        assert steps["2"][variant] == alone and steps["4"].get(variant, alone) == alone, variant
    assert steps["1"]["cut"] == steps["1"]["1"] == steps["1"]["2"] == steps["roomy"]["1"] == steps["narrow"]["1"]
    assert steps["again"]["3"] == steps["1"]["3"] and len({repr(reported) for reported in steps["1"].values()}) == 3
    poses_are_whole(latents, tmp_path)

    # One copy of each sample for the machine's four workers, whatever the store answered, and nothing of the killed.
    entries = {name: list((tmp_path / name / "entries").iterdir()) for name in ("roomy", "narrow")}
    assert len(entries["roomy"]) == len(BUCKETS)
    held = sum(file.stat().st_size for entry in entries["narrow"] for file in entry.iterdir())
    assert 0 < held <= (2.5 + 4) * sample  # and what four workers have just fetched
    assert {"503", "500", "cut"} < {how for how, _ in flaky.reported}


def poses_are_whole(latents: Path, folder: Path) -> None:
    """Though workers want the same at once, and one was killed while it wrote."""
    data = TrainingData(latents, config(3))
    rows = [row for step in range(STEPS) for row in data.draws(step) if row.pose_target]
    wanted = {f"{row.key}-{row.pose_target}" for row in rows}
    encoded = {world: (folder / f"{world}.log").stat().st_size for world in (1, 2, 4)}
    assert len(rows) > len(wanted) == encoded[1] and max(encoded.values()) < len(rows)
    for world in encoded:
        poses = folder / f"{world}-poses"
        assert {file.stem for file in poses.glob("*.safetensors")} == wanted
        assert len(list(poses.glob(".*"))) == (world > 1)  # what the killed one has left
    assert (folder / "again.log").stat().st_size == 0


def test_a_store_gives_each_sample_once(bucket: str, latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = uploaded(latents, bucket)
    opened: list[str] = []
    original = ObjectPath.open
    monkeypatch.setattr(ObjectPath, "open", lambda path: (opened.append(path.name), original(path))[1])
    workers = [TrainingData(place, config(1, num_workers=2)) for _ in range(2)]
    opened.clear()
    for step, (rank, data) in itertools.product(range(STEPS), enumerate(workers)):
        data.share(step, rank, 2)
    assert sum(name.endswith(".tar") for name in opened) == len(BUCKETS)


def spoilt(name: str, change: Callable[[torch.Tensor], torch.Tensor | None], key: str = "clip3") -> Any:
    """A change of one tensor of one sample; None: it is left out."""

    def apply(of: str, tensors: dict[str, torch.Tensor]) -> None:
        if of == key:
            changed = change(tensors.pop(name))
            tensors.update({} if changed is None else {name: changed.contiguous()})

    return apply


def infinite(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0, 0] = float("inf")
    return tensor


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("latents", lambda t: t * float("nan"), "latents has values that are not finite"),
        ("prompt_embeds", infinite, "prompt_embeds has values that are not finite"),
        ("pose_latents", lambda t: t[:, :-1], r"pose_latents has shape \(16, 2, 4, 6\), expected \(16, 3, 4, 6\)"),
        ("image_latents", lambda t: t.transpose(2, 3), r"image_latents has shape \(16, 3, 6, 4\), expected"),
        ("image_embeds", lambda t: t[:, :4], r"image_embeds has shape \(257, 4\), expected \(257, 8\)"),
        ("prompt_embeds", lambda t: t[:, :4], r"prompt_embeds has shape \(6, 4\), expected \(None, 8\)"),
        ("latents", lambda t: None, "latents has shape None"),
        ("latents", lambda t: t.double(), ".* conditions: latents is F64; supported types are BF16, F16, F32"),
    ],
    ids=["nan", "infinite", "frames", "turned", "width", "words", "left out", "type"],
)
def test_a_sample_that_is_not_what_it_should_be_is_named(
    tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None], words: str
) -> None:
    """When it is first read, and again whenever it is read; the others are trained on until then."""
    folder = write_latents(tmp_path / "latents", spoilt(name, change))
    data = TrainingData(folder, config(1))
    for step in range(STEPS):
        where = rf"{folder}/shards/shard-clip3\.tar: sample clip3: {words}"
        if any(row.key == "clip3" for row in data.draws(step)):
            with pytest.raises((ArtifactError, NonFiniteError), match=where):
                data.share(step, 0, 1)
        else:
            data.share(step, 0, 1)


@pytest.mark.parametrize("change", [lambda t: t * float("nan"), lambda t: t[:, :-1], lambda t: None])
def test_null_conditions_that_are_not_what_they_should_be_are_named(tmp_path: Path, change: Any) -> None:
    folder = write_latents(tmp_path / "latents", change_null=spoilt("pose_latents", change, "null"))
    with pytest.raises(
        ArtifactError, match=rf"{folder}/null/9x\d+x\d+\.safetensors: pose_latents (has shape|is missing or not finite)"
    ):
        TrainingData(folder, config(1)).share(0, 0, 1)


def test_small_buckets_are_filled_and_counted(latents: Path) -> None:
    """A bucket with fewer samples than a batch is seen more often; it is neither left out nor mixed with others."""
    data = TrainingData(latents, config(1))
    counted = [row.key for step in range(3) for row in data.draws(step)]
    assert {key: counted.count(key) for key in BUCKETS} == {"clip5": 4} | {
        key: counted.count(key) for key in list(BUCKETS)[:5]
    }
    assert len(counted) - len(BUCKETS) == data.sampler.num_repeated == 6


def test_a_batch_is_read_one_step_ahead_and_its_fault_is_told_where_it_is_asked_for() -> None:
    """What nobody asks for any more is not waited for longer than it takes, and not told of."""
    begun: list[int] = []
    go_on = threading.Semaphore(0)

    def load(step: int) -> int:
        begun.append(step)
        assert go_on.acquire(timeout=30)
        if step == 5:
            raise ArtifactError("shard x is missing")
        return step * step

    with Prefetch(load, range(3, 9)) as batches:
        for step in (3, 4):
            go_on.release()
            assert batches(step) == step * step
        go_on.release()
        with pytest.raises(ArtifactError, match="shard x is missing"):
            batches(5)
        go_on.release()
    assert begun in ([3, 4, 5], [3, 4, 5, 6])  # never further than one ahead
    with Prefetch(load, range(9, 9)):
        pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poses are encoded by a stand-in: each latent frame says of which T* it is, by the keypoints that were given."""

    def encode(self: PoseSimulation, pose: PoseSequence, meta: Any, bucket: tuple[int, int, int]) -> torch.Tensor:
        return torch.full(latent_shape(bucket), float(pose.body[1, 0, 0]), dtype=torch.float32)

    monkeypatch.setattr(PoseSimulation, "_encode", encode)


def test_what_simulated_poses_will_weigh_is_known_beforehand(quick: None, latents: Path, tmp_path: Path) -> None:
    stage = config(3)
    data = TrainingData(latents, stage, PoseSimulation(stage, None, tmp_path / "poses"))
    poses = simulated_poses(stage, data.sampler, data.split.training)
    for step in range(STEPS):
        data.share(step, 0, 1)
    data.load(data.evaluation_draws()[:1], torch.device("cpu"))
    for row in data.evaluation_draws():
        data.load([row], torch.device("cpu"))
    files = {file.stem: load_file(file)["pose_latents"] for file in (tmp_path / "poses").glob("*.safetensors")}
    assert files.keys() == {f"{key}-{target}" for key, target in poses} and len(files) > 4
    assert simulated_pose_bytes(stage, poses, data.shards) == sum(tensor.nbytes for tensor in files.values())
    # Rounded as the cache is: a pose that is simulated is not told by its precision.
    assert {tensor.dtype for tensor in files.values()} == {torch.bfloat16}
    assert (
        simulated_pose_bytes(config(3, pose_simulation_unit="latent", pose_simulation_targets=(2,)), poses, data.shards)
        == 0
    )
    assert simulated_poses(config(1), data.sampler, data.split.training) == set()


def test_a_simulated_pose_that_is_no_good_is_not_kept_and_a_kept_one_is_named(
    quick: None, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation, shards = PoseSimulation(config(3), None, tmp_path), ShardDataset(latents)
    plain = tensors_like(WIDE, 0)["pose_latents"]
    with monkeypatch.context() as patched, pytest.raises(NonFiniteError, match=r"sample clip0, .* T\* = 2, are not"):
        patched.setattr(PoseSimulation, "_encode", lambda *_: plain.float() * float("nan"))
        simulation("clip0", 2, shards.read("clip0"), plain, WIDE)
    assert not list(tmp_path.glob("*.safetensors"))
    first = simulation("clip0", 2, shards.read("clip0"), plain, WIDE)
    assert torch.equal(simulation("clip0", 2, {}, plain, WIDE), first) and first.dtype == torch.float32
    file = tmp_path / "clip0-2.safetensors"
    for content in (file.read_bytes()[:-1], save({"pose_latents": plain[:, :1].contiguous()}), save({"other": plain})):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match=f"{file} is not a simulated pose .*delete it"):
            simulation("clip0", 2, shards.read("clip0"), plain, WIDE)
    file.unlink()
    assert torch.equal(simulation("clip0", 2, shards.read("clip0"), plain, WIDE), first)


def test_who_is_first_with_a_simulated_pose_decides_on_its_bits(
    quick: None, latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits; what was left by the killed is swept up when it is old."""
    shards, plain = ShardDataset(latents), tensors_like(WIDE, 0)["pose_latents"]
    young, old = tmp_path / ".clip1-2.0.tmp", tmp_path / ".clip2-2.0.tmp"
    for left in (young, old):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    ours, theirs = (PoseSimulation(config(3), None, tmp_path) for _ in range(2))
    assert young.exists() and not old.exists()
    encode = PoseSimulation._encode
    taken: list[torch.Tensor] = []

    def interrupted(self: PoseSimulation, *given: Any) -> torch.Tensor:
        if self is ours:
            taken.append(theirs("clip0", 2, shards.read("clip0"), plain, WIDE))
        return encode(self, *given) + (self is ours)

    monkeypatch.setattr(PoseSimulation, "_encode", interrupted)
    assert torch.equal(ours("clip0", 2, shards.read("clip0"), plain, WIDE), taken[0])
    assert {file.name for file in tmp_path.iterdir()} == {"clip0-2.safetensors", young.name}
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left") as full:
        patched.setattr("os.fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        ours("clip1", 3, shards.read("clip1"), plain, WIDE)
    assert full.value.filename == str(tmp_path / "clip1-3.safetensors") and len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def train(
    cached: Path, components: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """`steadydancer train --stage 1` as a shell would call it; its status and what it says. Nothing is ever trained."""
    from steadydancer.flows import cli, presets

    def run(latents: Path, base: Path = components, stage1: Any = (), cache: Any = ()) -> tuple[int, str]:
        preset = presets.load("tiny")
        preset = presets.change(presets.change(preset, "stage1", **dict(stage1)), "cache", **dict(cache))
        (tmp_path / "preset.json").write_text(preset.model_dump_json())
        words = ["--preset", tmp_path / "preset.json", "--stage", 1, "--latents", latents, "--base", base]
        monkeypatch.setattr(sys, "argv", ["steadydancer", "train", *map(str, [*words, "--out", tmp_path / "out"])])
        monkeypatch.setattr(sys, "path", list(sys.path))
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not list((tmp_path / "out").rglob("*.safetensors"))  # no checkpoint, no state
        return int(end.value.code or 0), capfd.readouterr().err

    return run


@pytest.fixture
def no_gpu_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested is known before a network is loaded or a worker asked for."""
    monkeypatch.setattr("steadydancer.pipelines.train.job._fit", lambda *_: pytest.fail("workers were started"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(answer: tuple[int, str], *words: Any) -> None:
    """One sentence, status 1, no traceback."""
    code, reported = answer
    assert code == 1 and reported.count("steadydancer: ") == 1 and "Traceback" not in reported, reported
    assert all(str(word) in reported for word in words), reported


def test_bad_shards_end_the_command_before_any_work(
    no_gpu_work: None, train: Any, cached: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(cached, tmp_path / "latents"))
    shard = sorted((copy / "shards").iterdir())[0]
    content, before = shard.read_bytes(), contents(copy)
    for kept, words in ((b"", f"cut short (0 bytes of {len(content)})"), (content[:-1], "cut short")):
        shard.write_bytes(kept)
        refused(train(copy), f"shard {shard} is {words}", "steadydancer repair")
    shard.unlink()
    refused(train(copy), f"shard {shard} is missing", "steadydancer repair")
    shard.write_bytes(content)
    (null,) = (copy / "null").iterdir()
    null.rename(tmp_path / "null")
    refused(train(copy), f"{null} is missing")
    (tmp_path / "null").rename(null)
    part = sorted(copy.glob("part-*"))[0]
    part.rename(tmp_path / "part")
    refused(train(copy), f"{copy}: the index lists 2 usable samples", "counts.ok = 3")
    (tmp_path / "part").rename(part)
    assert contents(copy) == before and not (tmp_path / "out" / "start.json").exists()


def test_a_cache_of_other_weights_sizes_types_or_code_ends_the_command(
    no_gpu_work: None, train: Any, cached: Path, components: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(components, tmp_path / "other"))
    settings_file = other / "vae" / "config.json"
    settings_file.write_text(settings_file.read_text() + " ")
    refused(train(cached, other), f"vae: {cached} was cached with a different VAE")
    refused(
        train(cached, cache={"max_area_px": 96 * 96}),
        f"{cached} was cached with settings that differ",
        "max_area_px: 4096 → 9216",
    )
    refused(train(cached, cache={"dtype": "bfloat16"}), 'dtype: "float32" → "bfloat16"')
    refused(
        train(cached, stage1={"num_frames": 29}), "num_frames: ", "33 frames per clip, but the configuration has 29"
    )
    refused(train(cached, stage1={"validation_share": 0.999}), "validation_share: at 0.999 all 3 sources")
    with monkeypatch.context() as patched:
        patched.setitem(ENCODINGS, "pose_latents", 9)
        refused(train(cached), "encodings.pose_latents: 1 → 9")
    assert not (tmp_path / "out" / "start.json").exists()


def test_what_only_reading_tells_ends_the_command_before_the_step(train: Any, cached: Path, tmp_path: Path) -> None:
    """A changed byte, and numbers that are not finite in an intact shard."""
    flipped = Path(shutil.copytree(cached, tmp_path / "flipped"))
    last = ShardDataset(flipped).keys[-1]  # the first is looked at before work begins
    row = next(row for row in Artifact(flipped).read().to_pylist() if row["clip_id"] == last)
    member = next(member for member in row["members"] if member["name"] == "conditions.safetensors")
    shard = flipped / "shards" / row["shard"]
    content = bytearray(shard.read_bytes())
    content[member["offset"] + 5000] ^= 1
    shard.write_bytes(content)
    where = f"shard {shard} is cut short or damaged at {row['clip_id']}.conditions.safetensors"
    refused(train(flipped, stage1={"evaluation_samples": 0}), where, "steadydancer verify")
    assert not (tmp_path / "out" / "metrics.jsonl").read_text() and contents(flipped)[f"shards/{shard.name}"] == content

    samples = ShardDataset(cached)
    rows = [row for row in Artifact(cached).read().to_pylist() if row["verdict"] == "ok"]
    nan = tmp_path / "nan"
    for row in rows:
        sample = samples.read(row["clip_id"])
        tensors = {name: torch.clone(tensor) for name, tensor in tensors_of(sample["conditions"]).items()}
        tensors["image_embeds"][1, 1] = float("nan")
        members = sample_members(sample["meta"], save(tensors), sample["pose"])
        kept = {name: row[name] for name in ("clip_id", "source_id", "verdict", "num_frames", "height", "width")}
        write_shard(nan, Packet(row["clip_id"], (row["clip_id"],)), [Sample(kept, members)])
    shutil.copytree(cached / "null", nan / "null")
    counts = {"inputs": len(rows), "ok": len(rows), "rejected": 0, "quarantined": 0}
    Artifact(nan).commit({**{k: v for k, v in samples.record.items() if k != "fingerprint"}, "counts": counts})
    answer = train(nan, stage1={"evaluation_samples": 0})
    refused(answer, f"{nan}/shards/", ": sample ", ": image_embeds has values that are not finite")
    assert not (tmp_path / "out" / "metrics.jsonl").read_text()
