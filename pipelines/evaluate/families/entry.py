"""What the catalogue states about a metric, and about a group of metrics that are measured together."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", ""]
ARROWS = {"higher": "↑", "lower": "↓", "": ""}  # to the better values
Need = Literal["truth", "driving", "reference", "autoencoder"]


@dataclass(frozen=True)
class Group:
    """Metrics that are measured together.

    Args:
        name: name in `--metrics`, and of the folder of its measurements.
        title: heading of its table.
        weights: rows of `models.weights` that it needs; of each entry any one row, the first that is here.
        estimator: whether it needs a pose estimator, of which several serve.
        version: raised with every change of its values.
    """

    name: str
    title: str
    weights: tuple[tuple[str, ...], ...] = ()
    estimator: bool = False
    version: int = 1


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: name, with the variant in brackets.
        group: name of its group.
        unit: unit or range.
        better: which direction is better; empty for a description or a ceiling.
        meaning: definition, in a phrase.
        needs: what it needs besides the video.
        level: `set`: one value for all videos of a method, from stored features.
        variant: field of the protocol that selects variants, and the variant; None: every protocol has it.
        ceiling_of: the metric whose limit it measures.
        tables: further tables in which it stands.
        is_motion: null for clips in which the estimator cannot measure motion.
        weighted: what a mean over videos is weighted by where the protocol says so: `frames`, or `steps` between them.
    """

    name: str
    group: str
    unit: str
    better: Better
    meaning: str
    needs: tuple[Need, ...] = ()
    level: Literal["video", "set"] = "video"
    variant: tuple[str, str] | None = None
    ceiling_of: str | None = None
    tables: tuple[str, ...] = ()
    is_motion: bool = False
    weighted: Literal["frames", "steps", ""] = ""
