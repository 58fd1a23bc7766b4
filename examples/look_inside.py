"""Inspect the folders of a run: verdicts, the pose of a clip, a cached sample.

python examples/look_inside.py runs/tutorial
"""

import sys
from pathlib import Path

from PIL import Image
from safetensors.numpy import load

from steadydancer.datasets.clips import Clips
from steadydancer.datasets.shards import ShardDataset
from steadydancer.datasets.skeleton import PoseSequence, draw


def main(run: Path) -> None:
    """Print a run's rows and tensors, and write `pose.png`: the first frame of the first accepted clip's pose."""
    clips = Clips(run)
    rows = clips.read().to_pylist()
    for row in rows:
        print(f"{Path(row['source_path']).name:18} {row['verdict']:11} {row['reason'] or '':20} {row['detail'] or ''}")

    accepted = next(row for row in rows if row["verdict"] == "ok")
    pose = PoseSequence.from_bytes(clips.poses([accepted])[accepted["clip_id"]])
    Image.fromarray(draw(pose, accepted["height"], accepted["width"])[0]).save(run / "pose.png")

    shards = ShardDataset(run / "latents")
    sample = shards.read(accepted["clip_id"])
    print(f"\nsample {accepted['clip_id']} in {shards.shard(accepted['clip_id'])}")
    for name, tensor in sorted(load(sample["conditions"]).items()):
        print(f"{name:18} {tensor.dtype!s:9} {list(tensor.shape)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
