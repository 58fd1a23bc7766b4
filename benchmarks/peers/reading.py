"""Samples of a cache read by this project, by Energon, by Mosaic streaming and by plain webdataset.

The same 64 samples of 15.5 MB, random numbers, in four shards. Energon reads the cache itself by the index that we
write for it, Mosaic the same members in its own format, uncompressed. Four ways to read (`--how`):

warm     from the page cache, in one process; two loops: `held` (a sample's tensors live while the next one is read, as
         in training) and `dropped`
cold     the page cache is emptied of the samples before each pass
workers  each library's own loader with four processes, all of them counted
store    16 samples from an S3 server on this machine (moto), with nothing on the local disk at first

Processes of the sides take turns, `--rounds` times. Every side ends in the same tensors by one parser; warm and cold
passes check that all read the same bytes. At every reading this project checks sizes, webdataset the headers of the
tar, the others nothing. `ratio` is this project's median over the side's: of bytes per CPU second, and by the clock
(`ratio_wall`).
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import readers  # noqa: E402
import store  # noqa: E402
import workers  # noqa: E402
from environment import python_of  # noqa: E402
from loader import make_cache  # noqa: E402

from steadydancer.datasets.shards import write_energon_index  # noqa: E402

SIDES = {"warm": readers.SIDES, "cold": readers.SIDES, "workers": workers.SIDES, "store": store.SIDES}
STORE_SAMPLES = 16
WRITE_MDS = """
import sys, tarfile
from pathlib import Path
from streaming import MDSWriter
cache = Path(sys.argv[1])
with MDSWriter(out=str(cache / "mosaic"), columns={"json": "bytes", "conditions": "bytes", "pose": "bytes"},
               compression=None, hashes=[], size_limit=1 << 28) as out:
    for shard in sorted((cache / "latents/shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            sample = {}
            for member in tar:
                sample[member.name.split(".")[1]] = tar.extractfile(member).read()
                if len(sample) == 3:
                    out.write(sample)
                    sample = {}
"""


def prepare(cache: Path, mosaic: Path, samples: int) -> None:
    """Write the cache, Energon's index, and a copy in Mosaic's format."""
    make_cache(cache / "latents", samples, 4)
    write_energon_index(cache / "latents")
    subprocess.run([mosaic, "-P", "-c", WRITE_MDS, cache], check=True)


def read(how: str, side: str, python: Path, cache: Path, passes: int, environ: dict[str, str]) -> list[dict[str, Any]]:
    """Read with one side in a process of its own; return its lines, or the reason why there are none."""
    command = [python, "-P", HERE / "readers.py", side, cache, "--how", how, "--passes", passes]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{side} ({how}) ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return lines


def report(how: str, lines: dict[str, list[dict[str, Any]]]) -> None:
    """Print one line a side and loop; refuse sides that read other bytes."""
    digests = {line["digest"] for side in lines if side != "pread" for line in lines[side] if "digest" in line}
    numbers = {line["samples"] for each in lines.values() for line in each}
    if len(digests) > 1 or len(numbers) != 1:
        raise SystemExit(f"the sides did not read the same: samples {sorted(numbers)}, checksums {sorted(digests)}")
    rates: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for side, each in lines.items():
        for line in each:
            rate = rates[line.get("loop", "held"), side]
            rate["cpu"].append(line["bytes"] / 1e9 / line["cpu_s"])
            rate["wall"].append(line["bytes"] / 1e9 / line["wall_s"])
            if "first_s" in line:
                rate["first"].append(line["first_s"])
    for (loop, side), rate in sorted(rates.items()):
        ours = rates[loop, "steadydancer"]
        cpu, wall = (statistics.median(rate[clock]) for clock in ("cpu", "wall"))
        line = {
            "read": side, "how": how, "loop": loop, "gb_per_cpu_s": round(cpu, 2),
            "range": [round(min(rate["cpu"]), 2), round(max(rate["cpu"]), 2)],
            "ratio": round(statistics.median(ours["cpu"]) / cpu, 2), "gb_per_s": round(wall, 2),
            "ratio_wall": round(statistics.median(ours["wall"]) / wall, 2),
            **({"first_sample_s": round(statistics.median(rate["first"]), 2)} if rate["first"] else {}),
            "runs": len(rate["cpu"]), "load": round(os.getloadavg()[0], 1), "cores": os.cpu_count(),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--how", nargs="*", choices=SIDES, default=[*SIDES])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for the samples (two copies; 2 GB)")
    parser.add_argument("--environments", type=Path, default=HERE.parents[1] / "build" / "peers")
    arguments = parser.parse_args()
    pythons = {name: python_of(name, arguments.environments) for name in ("energon", "mosaic")}
    pythons["mosaic_iteration"] = pythons["mosaic"]
    for how in arguments.how:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, contextlib.ExitStack() as stack:
            cache = Path(folder)
            prepare(cache, pythons["mosaic"], STORE_SAMPLES if how == "store" else arguments.samples)
            environ = stack.enter_context(store.served(cache)) if how == "store" else {}
            lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for turn in range(arguments.rounds):
                for side in list(SIDES[how]) if turn % 2 == 0 else reversed(SIDES[how]):
                    python = pythons.get(side, Path(sys.executable))
                    lines[side] += read(how, side, python, cache, arguments.passes, environ)
            report(how, lines)


if __name__ == "__main__":
    main()
