"""Memory growth of a curation of 2,000 clips in one process: resident memory of the process and of its decoder.

Uses small procedural clips and reads memory after every packet. Prints one JSON line with the slope of a line through
the second half, in MB per hundred clips, for both processes. The decoder is recycled after 1,000 requests, so its
memory rises and falls.
"""

import argparse
import json
import mmap
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from steadydancer.datasets.artifact import plan_packets
from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_ipc
from steadydancer.datasets.toydance import make_toy_clips
from steadydancer.datasets.video import client
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.stages import stages
from steadydancer.pipelines.curate.steps import open_source
from steadydancer.pipelines.runtime.packets import PacketWorker

CONFIG = CurateConfig(
    num_frames=33, shot_detector="threshold", text_detector="off", person_counter="off", aesthetic_model="off",
    pose_model="supplied", smoothness_model="off",
)  # fmt: skip


def make_clips(folder: Path, count: int) -> list[str]:
    """Write `count` videos, copies of a few dancers with their keypoints."""
    made = make_toy_clips(folder / "made", num_good=6)[:6]
    (folder / "clips").mkdir()
    paths = []
    for k in range(count):
        source, path = made[k % len(made)], folder / "clips" / f"{k:05d}.mp4"
        shutil.copyfile(source, path)
        pose = source.with_name(f"{source.stem}.pose.safetensors")
        shutil.copyfile(pose, path.with_name(f"{path.stem}.pose.safetensors"))
        paths.append(str(path))
    return paths


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE / 1e6


def growth_mb(values: list[float]) -> float | None:
    """Return the growth per hundred clips over the second half, from one value per packet; None for fewer than two."""
    half = np.array(values[len(values) // 2 :])
    if len(half) < 2:
        return None
    return round(float(np.polyfit(np.arange(len(half)), half, 1)[0]) * 100 / CONFIG.packet_size, 3)


def main() -> None:
    """Curate and measure memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    arguments = parser.parse_args()

    def discard(packet: object, rows: list[Row]) -> None:
        assert all(row.get("source_id") for row in rows)

    worker = PacketWorker(stages(CONFIG), CONFIG, CLIP_SCHEMA, discard)
    ours, decoders = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for packet in plan_packets(make_clips(Path(scratch), arguments.clips), CONFIG.packet_size):
            rows = to_ipc(map(open_source, packet.ids), CLIP_SCHEMA)
            worker({"packet": packet.id, "ids": list(packet.ids), "rows": rows, "seconds": "{}", "fault": ""})
            ours.append(resident_mb(os.getpid()))
            pid = client.worker_pid()
            if pid:
                decoders.append(resident_mb(pid))
    print(
        json.dumps(
            {
                "measured": "resident memory of a curation",
                "clips": arguments.clips,
                "mb_a_hundred_clips": growth_mb(ours),
                "decoder_mb_a_hundred_clips": growth_mb(decoders),
                "mb": [round(ours[len(ours) // 2]), round(ours[-1])],
                "most_mb": round(max(ours)),
                "decoder_most_mb": round(max(decoders)) if decoders else None,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
