"""Overhead of Ray: the packets of a curation on a private Ray, compared with a plain pool of two processes.

Each side curates the same small procedural clips (500 by default) in each round. Prints one JSON line of medians: CPU
seconds of this process and its descendants, and wall seconds, both from the first finished packet to the last. Start-up
time, before the first packet is finished, is reported separately.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from steadydancer.datasets.artifact import Artifact, Packet, plan_packets
from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_ipc, to_table
from steadydancer.datasets.toydance import make_toy_clips
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.stages import stages
from steadydancer.pipelines.curate.steps import open_source
from steadydancer.pipelines.runtime.packets import PacketWorker
from steadydancer.pipelines.runtime.runner import Engine, Job, run_packets

CONFIG = CurateConfig(
    num_frames=33, shot_detector="threshold", text_detector="off", person_counter="off", aesthetic_model="off",
    pose_model="supplied", smoothness_model="off", packet_size=5,
)  # fmt: skip
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_worker: PacketWorker | None = None


def make_clips(folder: Path, count: int) -> None:
    """Write `count` videos, copies of a few dancers with their keypoints."""
    made = make_toy_clips(folder / "made", num_good=6)[:6]
    (folder / "clips").mkdir()
    for k in range(count):
        source = made[k % len(made)]
        shutil.copyfile(source, folder / "clips" / f"{k:05d}.mp4")
        shutil.copyfile(source.with_name(f"{source.stem}.pose.safetensors"),
                        folder / "clips" / f"{k:05d}.pose.safetensors")  # fmt: skip


def write(measured: Artifact, packet: Packet, rows: list[Row]) -> None:
    """Write the part of a packet."""
    measured.write_part(packet, to_table(rows))


def _start(out: Path) -> None:
    global _worker
    _worker = PacketWorker(stages(CONFIG), CONFIG, CLIP_SCHEMA, partial(write, Artifact(out)))


def _work(packet: Packet) -> str:
    assert _worker is not None
    rows = to_ipc(map(open_source, packet.ids), CLIP_SCHEMA)
    _worker({"packet": packet.id, "ids": list(packet.ids), "rows": rows, "seconds": "{}", "fault": ""})
    return packet.id


def in_a_pool(packets: list[Packet], out: Path) -> None:
    """Run packets in a pool of two processes."""
    with multiprocessing.get_context("spawn").Pool(2, _start, (out,)) as pool:
        list(pool.imap_unordered(_work, packets))


def on_ray(packets: list[Packet], out: Path) -> None:
    """Run packets on Ray, like the job."""
    job = Job("curate", stages(CONFIG), CONFIG, CLIP_SCHEMA, open_source, partial(write, Artifact(out)))
    run_packets(job, Artifact(out), packets, Engine(out / ".engine"))


class Descendants(threading.Thread):
    """Sample the CPU seconds of this process and its descendants, twice per second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, float]] = []
        self._ended = threading.Event()

    def run(self) -> None:
        """Sample until `end`."""
        most: dict[int, float] = {}
        while not self._ended.wait(0.5):
            parents, seconds = {}, {}
            for stat in Path("/proc").glob("[0-9]*/stat"):
                try:
                    fields = stat.read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(stat.parent.name)] = int(fields[1])
                seconds[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND
            ours = {os.getpid()}
            while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
                ours |= more
            for pid in ours & seconds.keys():
                most[pid] = seconds[pid]
            self.seen.append((time.time(), sum(most.values())))

    def end(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self.join()

    def at(self, moment: float) -> float:
        """Return the CPU seconds used until a moment."""
        return max((seconds for when, seconds in self.seen if when <= moment), default=0.0)


def measure(run: Any, packets: list[Packet], out: Path) -> dict[str, float]:
    """Measure start-up, and the time from the first finished packet to the last."""
    Artifact(out).begin({})
    watch = Descendants()
    watch.start()
    start = time.time()
    run(packets, out)
    watch.end()
    ended = sorted(Artifact(out).part(packet).stat().st_mtime for packet in packets)
    return {
        "start_up_s": ended[0] - start,
        "clock_s": ended[-1] - ended[0],
        "cpu_s": watch.at(ended[-1]) - watch.at(ended[0]),
    }


def main() -> None:
    """Measure both sides alternately."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")  # otherwise other processes starve the workers
    found: dict[str, list[dict[str, float]]] = {"pool": [], "ray": []}
    with tempfile.TemporaryDirectory() as scratch:
        make_clips(Path(scratch), arguments.clips)
        packets = plan_packets(sorted(map(str, (Path(scratch) / "clips").glob("*.mp4"))), CONFIG.packet_size)
        for turn in range(arguments.rounds):
            for name, run in (("pool", in_a_pool), ("ray", on_ray))[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(measure(run, packets, Path(scratch) / f"{name}{turn}"))
    middle = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in found.items()
    }
    print(
        json.dumps(
            {
                "compared": "Ray / a pool of two processes",
                "clips": arguments.clips,
                "cpu_ratio": round(middle["ray"]["cpu_s"] / middle["pool"]["cpu_s"], 3),
                "clock_ratio": round(middle["ray"]["clock_s"] / middle["pool"]["clock_s"], 3),
                **{name: {key: round(value, 1) for key, value in one.items()} for name, one in middle.items()},
                "load": round(os.getloadavg()[0], 1),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
