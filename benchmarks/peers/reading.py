"""Samples of a cache read by this project, by Energon, by Mosaic streaming and by plain webdataset.

The same 64 samples of 15.5 MB, random numbers, in four shards: Energon gets the same tars with its own index, Mosaic
the same members in its own format, uncompressed. The page cache is warm; one process without workers. Processes of the
sides take turns, `--rounds` times, each with `--passes` passes of two loops: `held` (a sample's tensors live while the
next is read, as in training) and `dropped`. What each side checks: this project sizes at every reading, webdataset the
headers of the tar, the others nothing. `ratio` is this project's median bytes per CPU second over the side's.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from environment import python_of  # noqa: E402
from loader import make_cache  # noqa: E402
from readers import SIDES  # noqa: E402

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


def prepare(cache: Path, environments: Path, samples: int) -> dict[str, Path]:
    """Write the cache in each format; return the interpreter of each side."""
    make_cache(cache / "latents", samples, 4)
    energon, mosaic = (python_of(name, environments) for name in ("energon", "mosaic"))
    shutil.copytree(cache / "latents/shards", cache / "energon")
    subprocess.run(
        [energon.with_name("energon"), "prepare", cache / "energon", "--non-interactive", "--no-progress",
         "--split-parts", "train:.*", "--sample-type", "CrudeWebdataset", "--num-workers", "1"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    subprocess.run([mosaic, "-c", WRITE_MDS, cache], check=True)
    special = {"energon": energon, "mosaic": mosaic, "mosaic_iteration": mosaic}
    return {side: special.get(side, Path(sys.executable)) for side in SIDES}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for the samples (three copies; 3 GB)")
    parser.add_argument("--environments", type=Path, default=HERE.parents[1] / "build" / "peers")
    arguments = parser.parse_args()
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        cache = Path(folder)
        pythons = prepare(cache, arguments.environments, arguments.samples)
        for turn in range(arguments.rounds):
            for side in list(SIDES) if turn % 2 == 0 else reversed(SIDES):
                command = [pythons[side], "-P", HERE / "readers.py", side, cache, "--passes", str(arguments.passes)]
                done = subprocess.run(
                    [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                for line in map(json.loads, filter(lambda text: text.startswith("{"), done.stdout.splitlines())):
                    if line["samples"] != arguments.samples:
                        raise SystemExit(f"{side} read {line['samples']} of {arguments.samples} samples")
                    rates[side, line["loop"]].append(line["bytes"] / 1e9 / line["cpu_s"])
    for (side, loop), each in sorted(rates.items(), key=lambda one: (one[0][1], one[0][0])):
        ours = statistics.median(rates["steadydancer", loop])
        print(
            json.dumps(
                {
                    "read": side,
                    "loop": loop,
                    "gb_per_cpu_s": round(statistics.median(each), 2),
                    "range": [round(min(each), 2), round(max(each), 2)],
                    "ratio": round(ours / statistics.median(each), 2),
                    "runs": len(each),
                    "load": round(os.getloadavg()[0], 1),
                    "cores": os.cpu_count(),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
