"""The stages of a rendering job: motion, encode, denoise, write; each has workers and resources of its own."""

from ..runtime.stage import Stage
from .config import RenderConfig
from .denoise import Denoiser, denoise_pair
from .encode import encode_pair
from .motion import find_motion, load_motion_tools
from .task import SCHEMA, WORK, CheckpointTask, Components, RenderTask
from .write import write_pair

__all__ = ["SCHEMA", "WORK", "CheckpointTask", "RenderTask", "stages"]

# Shares of a GPU: encoders and decoder use theirs for seconds, while the network computes for minutes.
ENCODE_SHARE, DENOISE_SHARE, WRITE_SHARE = 0.1, 0.8, 0.1


def stages(config: RenderConfig) -> list[Stage]:
    """Return the stages; together, one worker of each needs `gpus_per_worker` GPUs.

    Up to one GPU, encoding, denoising and writing have workers of their own that share it. With several GPUs per
    worker, or a mode that offloads weights, one worker does all three on the same GPUs.
    """
    gpus, in_turn = config.gpus_per_worker, config.works_in_turn
    shares = (1, 1, 1) if in_turn else (ENCODE_SHARE, DENOISE_SHARE, WRITE_SHARE)
    pools = ("denoise",) * 3 if in_turn else ("encode", "denoise", "write")
    encode, denoise, write = (round(gpus * share, 4) for share in shares)
    encoders, writers = (None, None) if in_turn else (config.encode_workers, config.write_workers)
    found = ("image_digest", "driving_digest", "changes", "notes", "motion")
    row = ("id", "image", "driving", "prompt", "seed", "checkpoint")
    return [
        Stage("motion", find_motion, row, (*found, "pose_model", "aligned", "pose_start_frame"),
              load=load_motion_tools, pool="motion", num_workers=config.motion_workers),
        Stage("encode", encode_pair, (*row, *found), ("encoded", "latents"),
              load=Components, num_gpus=encode, pool=pools[0], num_workers=encoders),
        Stage("denoise", denoise_pair, (*row, *found[:2], "encoded", "latents"), (),
              load=Denoiser, num_gpus=denoise, pool=pools[1], is_bottleneck=True),
        Stage("write", write_pair, (*row, *found, "key", "latents", "pose_model"),
              ("video", "sound", "height", "width", "num_frames", "verdict", "detail"),
              load=Components, num_gpus=write, pool=pools[2], num_workers=writers),
    ]  # fmt: skip
