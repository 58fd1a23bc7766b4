"""Shots of a source and their spans, from one pass with two minutes of frames in memory."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from ....datasets.arrays import Floats32, Floats64, Frames
from ..config import CurateConfig
from .frame_scores import find_cuts, histogram_change, luma_change

PIECE_FRAMES = 2048  # two minutes at 16 fps: 57 MB
CUT_NEIGHBOURS = 5  # frames after a cut that confirm it
DETECTOR_STEP, DETECTOR_CONTEXT = (
    50,
    25,
)  # TransNetV2 predicts 50 frames at a time with 25 frames of context on each side

Detector = Callable[[Frames], Floats32]


class ShotPass:
    """State of the pass over a source: scores of its frames so far, and the frames still needed.

    Attributes:
        change: `histogram_change` of all frames so far, [n − 1].
        motion: `luma_change` of the same.
        transition: the detector's predictions that later frames cannot change; None without a detector.
    """

    def __init__(self, config: CurateConfig, detector: Detector | None) -> None:
        self.config, self.detector = config, detector
        self.change: Floats64 = np.empty(0)
        self.motion: Floats64 = np.empty(0)
        self.transition: Floats32 | None = None if detector is None else np.empty(0, np.float32)
        self._frames: Frames | None = None
        self._begin = 0  # position of the first frame in memory
        self._shot = 0
        self._next: int | None = None  # start of the shot's next window, once it has one

    def frames(self, start: int, stop: int) -> Frames:
        """Return the frames of a span that `spans` has just yielded."""
        assert self._frames is not None
        return self._frames[start - self._begin : stop - self._begin]

    def spans(self, frames: Frames, ended: bool) -> Iterator[tuple[int, int, int]]:
        """Add frames; yield (shot, first frame, one after the last) of all spans that are final, in order.

        A span is a window of `num_frames`, or a whole shot that is too short for one. The spans do not depend on how
        the source is divided into pieces.
        """
        self._add(frames, ended)
        shots = self._shots(ended)
        length = self.config.num_frames
        while self._shot < len(shots):
            (first, stop), shot = shots[self._shot], self._shot
            # The last shot may continue, and its end may still move by one frame.
            closed = ended or (shot + 1 < len(shots) if self.transition is None else stop + 3 <= len(self.transition))
            begin = first if self._next is None else self._next
            for start in range(begin, stop - (not closed) - length + 1, length):
                self._next = start + length
                yield shot, start, start + length
            if not closed:
                break
            if self._next is None:
                yield shot, first, stop
            self._shot, self._next = shot + 1, None
        self._forget(shots)

    def _add(self, frames: Frames, ended: bool) -> None:
        if self._frames is None:
            new = self._frames = frames
        elif len(frames):
            new = np.concatenate([self._frames[-1:], frames])
            self._frames = np.concatenate([self._frames, frames])
        if len(frames):
            self.change = np.concatenate([self.change, histogram_change(new)])
            self.motion = np.concatenate([self.motion, luma_change(new)])
        if self.detector is None or self.transition is None:
            return
        num_frames, done = len(self.change) + 1, len(self.transition)
        ready = num_frames if ended else max(0, num_frames - DETECTOR_CONTEXT) // DETECTOR_STEP * DETECTOR_STEP
        if ready > done:
            begin = max(0, done - DETECTOR_STEP)
            found = self.detector(self._frames[begin - self._begin :])[done - begin : ready - begin]
            self.transition = np.concatenate([self.transition, found])

    def _shots(self, ended: bool) -> list[tuple[int, int]]:
        """Return the shots of the frames whose scores are final; see `transition_shots` and `find_cuts`."""
        if self.transition is not None:
            if not ended and not (self.transition < self.config.transition_threshold).any():
                return []
            return transition_shots(self.transition, self.config.transition_threshold)
        num_known = len(self.change) + 1 - (0 if ended else CUT_NEIGHBOURS)
        cuts = [cut for cut in find_cuts(self.change, self.config.cut_threshold) if cut < num_known]
        return list(pairwise([0, *cuts, num_known])) if num_known > 0 else []

    def _forget(self, shots: list[tuple[int, int]]) -> None:
        needed = len(self.change)
        if self.transition is not None:
            needed = min(needed, len(self.transition) - DETECTOR_STEP)
        if self._next is not None:
            needed = min(needed, self._next)
        elif self._shot < len(shots):
            needed = min(needed, shots[self._shot][0])
        else:
            needed = min(needed, shots[-1][1] if shots else 0)
        assert self._frames is not None
        if needed > self._begin:
            self._frames = self._frames[needed - self._begin :].copy()
            self._begin = needed


def transition_shots(transition: Floats32, threshold: float) -> list[tuple[int, int]]:
    """Return the first frame of each shot and the one after its last; frames of a dissolve belong to no shot."""
    num_frames = len(transition)
    inside = transition < threshold
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
    shots = [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]
    # A hard cut is marked on the last frame before it, which is intact and belongs to its shot.
    closed = [
        (first, stop + 1 if stop < num_frames and (stop + 1 == num_frames or inside[stop + 1]) else stop)
        for first, stop in shots
    ]
    return closed or [(0, num_frames)]
