"""Measure what tiles of the autoencoder cost on ToyDance: PSNR with tiles against without, and against the truth.

`low_memory` encodes and decodes pictures above 256 px a side in diffusers' tiles of 256 px with 64 of overlap. Dancers
are drawn at a size that has several tiles; each clip is encoded and decoded whole, then decoded in tiles, then both
ways in tiles. Prints one JSON line per clip, and their means. Without --components, the shipped autoencoder of ToyDance
is measured, which was trained at 96 px: its own loss at another size is in `whole_db`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch

CLIP_SEEDS = 80_000_000  # disjoint from those of training clips and of other benchmarks


def main() -> None:
    """Measure all clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", help="folder of the autoencoder; default: the shipped one of ToyDance")
    parser.add_argument("--side", type=int, default=384, help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=5, help="of each clip, 4k + 1")
    parser.add_argument("--num-clips", type=int, default=2)
    options = parser.parse_args()
    from steadydancer.models.components import load_components
    from steadydancer.models.toydance import components_folder

    torch.set_num_threads(1)
    vae = load_components(options.components or components_folder(), ("vae",), torch.float32)["vae"]
    rows = []
    for index in range(options.num_clips):
        rows.append(measure(vae, CLIP_SEEDS + index, options.side, options.frames))
        print(json.dumps(rows[-1]), flush=True)
    means = {name: round(statistics.fmean(row[name] for row in rows), 2) for name in rows[0]}
    print(json.dumps({"benchmark": "autoencoder_tiles", "clips": len(rows), "side": options.side,
                      "frames": options.frames, **means}))  # fmt: skip


@torch.no_grad()
def measure(vae: Any, seed: int, side: int, num_frames: int) -> dict[str, float]:
    """Measure one clip: PSNR in dB against the truth, and with tiles against without."""
    from steadydancer.datasets.toydance import toy_clip
    from steadydancer.models.encoders import decode_latents, encode_video
    from steadydancer.models.metrics import psnr
    from steadydancer.models.mode_parts import tile

    truth = toy_clip(seed=seed, difficulty="easy", num_frames=num_frames, size=side).frames
    vae.disable_tiling()
    latents = encode_video(vae, truth)
    whole = decode_latents(vae, latents)
    tile(vae)
    decoded_in_tiles = decode_latents(vae, latents)
    all_in_tiles = decode_latents(vae, encode_video(vae, truth))
    vae.disable_tiling()
    values = {
        "whole_db": psnr(whole, truth),
        "tiles_db": psnr(all_in_tiles, truth),
        "decoded_in_tiles_against_whole_db": psnr(decoded_in_tiles, whole),
        "tiles_against_whole_db": psnr(all_in_tiles, whole),
    }
    return {name: round(value, 2) for name, value in values.items()}


if __name__ == "__main__":
    main()
