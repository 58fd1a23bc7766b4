"""Work repeated after a kill: a curation on Ray is killed (-9) after half of its packets and started again.

Every source that a worker starts is recorded. A source recorded twice was repeated; at most one packet per worker may
be repeated. Prints one JSON line.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from steadydancer.datasets.artifact import Artifact, Packet, plan_packets
from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_table
from steadydancer.datasets.toydance import make_toy_clips
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.stages import stages
from steadydancer.pipelines.curate.steps import open_source
from steadydancer.pipelines.runtime.runner import Engine, Job, run_packets
from steadydancer.pipelines.runtime.stage import Stage

CONFIG = CurateConfig(
    num_frames=33, shot_detector="threshold", text_detector="off", person_counter="off", aesthetic_model="off",
    pose_model="supplied", smoothness_model="off", packet_size=4,
)  # fmt: skip


def make_clips(folder: Path, count: int) -> None:
    """Write `count` videos, copies of a few dancers with their keypoints."""
    made = make_toy_clips(folder / "made", num_good=6)[:6]
    (folder / "clips").mkdir()
    for k in range(count):
        source = made[k % len(made)]
        pose = f"{source.stem}.pose.safetensors"
        shutil.copyfile(source, folder / "clips" / f"{k:05d}.mp4")
        shutil.copyfile(source.with_name(pose), folder / "clips" / f"{k:05d}.pose.safetensors")


def packets_of(folder: Path) -> list[Packet]:
    """Plan the packets."""
    return plan_packets(sorted(map(str, (folder / "clips").glob("*.mp4"))), CONFIG.packet_size)


def run(folder: Path) -> None:
    """Run the job, and record every source that is started."""

    def note(row: Row, config: Any, tools: Any) -> Row:
        with (folder / "notes").open("a") as notes:
            notes.write(row["source_path"] + "\n")
        return row

    measured = Artifact(folder / "measured")
    measured.begin({})

    def write(packet: Packet, rows: list[Row]) -> None:
        measured.write_part(packet, to_table(rows))

    row_stages = [Stage("note", note, ("source_path",), ()), *stages(CONFIG)]
    job = Job("curate", row_stages, CONFIG, CLIP_SCHEMA, partial(open_source), write)
    run_packets(job, measured, packets_of(folder), Engine(folder / ".engine"))


def main() -> None:
    """Start the job, kill it halfway, start it again and count repeated sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    if arguments.run:
        run(arguments.run)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        make_clips(folder, arguments.clips)
        packets, measured = packets_of(folder), Artifact(folder / "measured")
        command = [sys.executable, __file__, "--run", scratch]
        first = subprocess.Popen(command)
        while first.poll() is None and len(measured.remaining(packets)) > len(packets) / 2:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
        time.sleep(5)  # until its workers have ended
        done = len(packets) - len(measured.remaining(packets))
        subprocess.run(command, check=True)
        begun = Counter((folder / "notes").read_text().split("\n"))
        begun.pop("", None)
        repeated = sum(count - 1 for count in begun.values())
        num_workers = os.cpu_count() or 1
        print(
            json.dumps(
                {
                    "compared": "a run that was killed at half / an undisturbed one",
                    "clips": arguments.clips,
                    "packets": len(packets),
                    "packets_done_at_the_kill": done,
                    "clips_repeated": repeated,
                    "packets_repeated": -(-repeated // CONFIG.packet_size),
                    "workers": num_workers,
                    "kept_the_bound": repeated <= num_workers * CONFIG.packet_size,
                    "all_there": not measured.remaining(packets) and len(begun) == arguments.clips,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
