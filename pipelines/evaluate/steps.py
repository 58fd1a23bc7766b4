"""The row stage of an evaluation: one video → rows of (group, metric, value); a null has its own reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from ...datasets.schema import Row
from ..runtime.local_files import on_local_copies
from ..runtime.stage import Stage
from .catalogue import METRICS
from .config import EvaluateConfig
from .groups import first_frame, perceptual, pixels, pose, sets, truth, vbench
from .judges import Judges
from .scores import Features, NotMeasured, Outcome, to_bytes
from .video import Rendered, Video

# Columns of the metrics table.
_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("id", "video", "metric")),
    ("value", pa.float64()),
    ("frames_compared", pa.int32()),  # number compared with the truth; null for metrics without a truth
    *((name, pa.string()) for name in ("image", "driving", "truth", "protocol", "verdict", "reason", "detail")),
    ("method", pa.string()),
    ("seed", pa.int32()),  # null: the only one
    ("kinds", pa.string()),  # of misalignment, by the benchmark, with commas between
    ("num_frames", pa.int32()),  # frames that were scored
]
SCHEMA = pa.schema(_FIELDS)
# Columns of the measurements of a group.
MEASURED = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "group", "metric")),
        ("value", pa.float64()),
        *((name, pa.int32()) for name in ("frames_compared", "num_frames")),
        *((name, pa.string()) for name in ("verdict", "reason", "detail")),
        ("features", pa.large_binary()),
    ]
)
_INPUTS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "method", "video", "image", "driving", "truth", "pose_model")),
        ("aligned", pa.bool_()),
        ("groups", pa.string()),  # names of the groups to measure, with spaces between
    ]
)
# Columns of the rows between workers.
WORK = pa.unify_schemas([MEASURED, _INPUTS])


@dataclass(frozen=True)
class EvaluateTask:
    """Input of a worker: the configuration, how each method's videos were rendered, and the device of the judges."""

    config: EvaluateConfig
    methods: Mapping[str, Rendered] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def components(self) -> str | None:
        """Folder of the first method's autoencoder."""
        return next(iter(self.methods.values())).components

    @property
    def driving_fps(self) -> float | None:
        """Rate at which the first method's driving videos were read."""
        return next(iter(self.methods.values())).driving_fps


def load_judges(task: EvaluateTask) -> Judges:
    """Make the judges of a worker; each is loaded when a metric first needs it."""
    return Judges(task.device)


def _first_frame(video: Video, judges: Judges) -> dict[str, Outcome]:
    return first_frame.measure(video, judges, judges.autoencoder(video.rendered.components))


def _efficientnet(video: Video, judges: Judges) -> dict[str, Outcome]:
    out = vbench.measure_efficientnet(video, judges)
    try:
        return out | sets.measure_efficientnet(video, judges)
    except NotMeasured as missing:
        return out | missing.scores(["features"])


# Group → its function. `pose` has another argument, see `measure_group`.
FUNCTIONS: Mapping[str, Callable[[Video, Judges], dict[str, Outcome]]] = {
    "first_frame": _first_frame,
    "truth": truth.measure,
    "pixels": pixels.measure,
    "dino": vbench.measure_dino,
    "clip": vbench.measure_clip,
    "aesthetic": vbench.measure_aesthetic,
    "musiq": vbench.measure_musiq,
    "dreamsim": vbench.measure_dreamsim,
    "amt": vbench.measure_smoothness,
    "raft": vbench.measure_dynamics,
    "efficientnet": _efficientnet,
    "lpips-vgg": partial(perceptual.measure_lpips, network="vgg"),
    "lpips-alex": partial(perceptual.measure_lpips, network="alex"),
    "inception": sets.measure_inception,
    "i3d": partial(sets.measure_i3d, group="i3d"),
    "i3d-videogpt": partial(sets.measure_i3d, group="i3d-videogpt"),
    "face": perceptual.measure_face,
    "person-crop": perceptual.measure_person,
    "background": perceptual.measure_drift,
}


@on_local_copies("video", "image", "truth")
def score_video(row: Row, task: EvaluateTask, judges: Judges) -> list[Row]:
    """Score a video, one row per metric. Input's `reason` and `detail` explain why ground truth is missing."""
    video = Video.read(row, task.config.rules, task.methods[row["method"]])
    out = []
    for group in row["groups"].split():
        for name, outcome in measure_group(group, video, task.config, judges).items():
            out.append({"key": row["key"], "group": group, "metric": name, "verdict": "ok",
                        "num_frames": len(video.frames), **_columns(outcome)})  # fmt: skip
    return out


def _columns(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Features):
        return {"detail": outcome.detail, "features": to_bytes(outcome.rows)}
    return outcome._asdict()


def measure_group(group: str, video: Video, config: EvaluateConfig, judges: Judges) -> dict[str, Outcome]:
    """Measure the metrics of a group; what all of them lack is the reason of each."""
    names = [name for name, metric in METRICS.items() if metric.group == group and metric.level == "video"]
    is_set = any(metric.group == group and metric.level == "set" for metric in METRICS.values())
    try:
        if group == "pose":
            return pose.measure(video, judges, config.pose_model)
        return FUNCTIONS[group](video, judges)
    except NotMeasured as missing:
        return missing.scores([*names, *(["features"] if is_set else [])])


def stages(num_gpus: float) -> list[Stage]:
    """Return the only stage: all metrics share the decoded frames."""
    reads, adds = ("video", "image", "driving", "truth"), ("metric", "value")
    return [Stage("score", score_video, reads, adds, load=load_judges, num_gpus=num_gpus)]
