"""What a group of metrics returns for a video: values with reasons for nulls, and features for metrics of the set."""

import io
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ...datasets.arrays import Floats, Floats32


class Score(NamedTuple):
    """A metric of one video, or the reason why it has no value; `detail` of a value is a remark on it."""

    value: float | None
    reason: str | None = None
    detail: str | None = None
    frames_compared: int | None = None


class Features(NamedTuple):
    """Rows of a network's features [N, D] of one video, from which a metric of the set is computed."""

    rows: Floats32
    detail: str | None = None


Outcome = Score | Features


class NotMeasured(Exception):
    """A reason why all metrics of a group have no value for a video.

    Args:
        reason: reason code.
        detail: explanation.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def scores(self, names: Iterable[str]) -> dict[str, Outcome]:
        """Return a null with this reason for each metric."""
        return dict.fromkeys(names, Score(None, self.reason, self.detail))


def score(value: float, reason: str, why: str, detail: str | None = None, frames: int | None = None) -> Score:
    """Return a score; NaN becomes null with `reason` and `why`."""
    if math.isfinite(value):
        return Score(float(value), None, detail, frames)
    return Score(None, reason, why)


def scores(values: Mapping[str, float], reason: str, why: str) -> dict[str, Score]:
    """Return the scores of several metrics whose NaN has the same reason."""
    return {name: score(value, reason, why) for name, value in values.items()}


def to_bytes(rows: Floats) -> bytes:
    """Serialise features in float32."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(rows, np.float32), allow_pickle=False)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Floats32:
    """Read the output of `to_bytes`."""
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float32)
