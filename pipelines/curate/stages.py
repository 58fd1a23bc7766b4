"""The row stages of a curation, in order, with the tools that each loads and its meter."""

from ...datasets.schema import columns_of
from ...datasets.video import decoding_counts, decoding_seconds
from ..common import device_frames
from ..runtime.stage import Stage
from .config import CurateConfig
from .networks import load_pose_tools, load_score_tools, load_shot_tools
from .steps import estimate_pose, find_shots, probe_source, score_frames

DECODING = "decoding_"


def stages(config: CurateConfig) -> list[Stage]:
    """Return the row stages. With `num_gpus`, the workers of `score` and `pose` hold a share of a GPU each."""
    return [
        Stage("probe", probe_source, ("source_path",), columns_of("probe"), meter=decoding_meter),
        Stage(
            "shots",
            find_shots,
            ("source_path", "source_id"),
            columns_of("shots"),
            load=load_shot_tools,
            meter=decoding_meter,
        ),
        Stage(
            "score",
            score_frames,
            ("source_path", "start_s", "end_s", "height", "width", "camera_motion"),
            columns_of("score"),
            load=load_score_tools,
            num_gpus=config.num_gpus,
            meter=decoding_meter,
        ),
        Stage(
            "pose",
            estimate_pose,
            ("source_path", "start_s", "num_frames", "height", "width"),
            columns_of("pose"),
            load=load_pose_tools,
            num_gpus=config.num_gpus,
            meter=decoding_meter,
        ),
    ]


def decoding_meter() -> dict[str, float]:
    """Read this process's decoding seconds (included in the stages' seconds) and its decoder counters."""
    counts = {**decoding_counts(), **{f"gpu_{name}": count for name, count in device_frames.counts.items()}}
    return {"decode": decoding_seconds(), **{f"{DECODING}{name}": count for name, count in counts.items()}}


def split_meters(numbers: dict[str, float]) -> tuple[dict[str, float], dict[str, int]]:
    """Split the meters' readings into seconds per stage (with `decode`) and decoder counters."""
    counts = {name.removeprefix(DECODING): int(n) for name, n in numbers.items() if name.startswith(DECODING)}
    return {name: n for name, n in numbers.items() if not name.startswith(DECODING)}, counts
