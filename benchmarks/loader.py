"""Time to read samples of a cache with our index, with plain webdataset over the same shards, and with bare reads.

Samples are 15.5 MB (81 frames of 640², 150 tokens, bfloat16) of random numbers, read from the page cache into tensors.
The sides alternate; CPU and wall seconds are measured, and `ratio` is webdataset's median CPU seconds over ours. The
first read of a sample verifies its checksums, later reads do not; both are reported. Then memory growth is measured
over `--reads` reads.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import webdataset as wds
from safetensors.torch import load, save

from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.shards import Sample, ShardDataset, sample_members, shard_path, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.models.cached_conditions import tensors_of

CLIP, IMAGE, TEXT = (16, 21, 80, 80), (257, 1280), (150, 4096)


def make_cache(folder: Path, num_samples: int, shards: int) -> list[str]:
    """Write a cache of random numbers; return its shards."""
    shapes = {"latents": CLIP, "image_latents": CLIP, "pose_latents": CLIP, "image_embeds": IMAGE,
              "pose_image_embeds": IMAGE, "prompt_embeds": TEXT}  # fmt: skip
    row = {"verdict": "ok", "num_frames": 81, "height": 640, "width": 640}
    packets = plan_packets([f"{i:016x}" for i in range(num_samples)], -(-num_samples // shards))
    for packet in packets:
        samples = []
        for key in packet.ids:
            tensors = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
            members = sample_members({"clip_id": key}, save(tensors), os.urandom(84_000))
            samples.append(Sample({"clip_id": key, **row}, members))
        write_shard(folder, packet, samples)
    counts = {"inputs": num_samples, "ok": num_samples, "rejected": 0, "quarantined": 0}
    Artifact(folder).commit({"counts": counts, "encodings": ENCODINGS})
    return [str(shard_path(folder, packet)) for packet in packets]


def by_webdataset(shards: list[str]) -> None:
    """Read all samples with webdataset."""
    for sample in wds.WebDataset(shards, shardshuffle=False):
        load(sample["conditions.safetensors"])


def by_index(data: ShardDataset, holds: bool = False) -> None:
    """Read all samples as training does; `holds`: each is kept while the next is read."""
    sample: object = None
    for key in data.keys:
        sample = sample if holds else None
        sample = tensors_of(data.read(key)["conditions"])


def bare(shards: list[str], piece: int) -> None:
    """Read the same bytes without decoding."""
    for shard in shards:
        file = os.open(shard, os.O_RDONLY)
        for offset in range(0, os.fstat(file).st_size, piece):
            os.pread(file, piece, offset)
        os.close(file)


def take_turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Measure CPU and wall seconds of each side per round; the first round warms the page cache."""
    measured = {name: {"cpu_s": [], "wall_s": []} for name in sides}
    for turn in range(rounds + 1):
        for name in sides if turn % 2 else reversed(sides):
            start, cpu = time.perf_counter(), time.process_time()
            sides[name]()
            if turn:
                measured[name]["cpu_s"].append(time.process_time() - cpu)
                measured[name]["wall_s"].append(time.perf_counter() - start)
    return measured


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(data: ShardDataset, reads: int) -> dict[str, object]:
    """Measure memory over many reads, repeating the samples in order."""
    seen = []
    for i in range(reads):
        tensors_of(data.read(data.keys[i % len(data)])["conditions"])
        if i % max(1, reads // 20) == 0:
            seen.append(resident_bytes())
    half = len(seen) // 2
    mean = [statistics.mean(part) / 1e6 for part in (seen[1:half], seen[half:])]
    return {"reads": reads, "resident_mb_first_half": round(mean[0], 1), "resident_mb_second_half": round(mean[1], 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="folder for the shards (0.5 GB)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        latents = Path(folder) / "latents"
        shards = make_cache(latents, arguments.samples, arguments.shards)
        size = sum(Path(shard).stat().st_size for shard in shards)
        later, reused = ShardDataset(latents), ShardDataset(latents, reuse_memory=True)
        sides: dict[str, Callable[[], object]] = {
            "webdataset": lambda: by_webdataset(shards),
            "index, first reading": lambda: by_index(ShardDataset(latents)),
            "index, later": lambda: by_index(later),
            "index, reused memory": lambda: by_index(reused),
            "index, reused memory, last sample held": lambda: by_index(reused, holds=True),
            "bare pread": lambda: bare(shards, size // arguments.samples),
        }
        measured = take_turns(sides, arguments.rounds)
        cpu = {name: statistics.median(times["cpu_s"]) for name, times in measured.items()}
        wall = {name: statistics.median(times["wall_s"]) for name, times in measured.items()}
        for name in sides:
            line = {
                "read": name,
                "gb_per_cpu_s": round(size / 1e9 / cpu[name], 2),
                "gb_per_s": round(size / 1e9 / wall[name], 2),
                "ratio": round(cpu["webdataset"] / cpu[name], 2),
                "ratio_wall": round(wall["webdataset"] / wall[name], 2),
                "share_of_bare": round(cpu["bare pread"] / cpu[name], 2),
                "samples": arguments.samples,
                "rounds": arguments.rounds,
                "load": round(os.getloadavg()[0], 1),
                "cores": os.cpu_count(),
            }
            print(json.dumps(line), flush=True)
        print(json.dumps(growth(later, arguments.reads)), flush=True)


if __name__ == "__main__":
    main()
