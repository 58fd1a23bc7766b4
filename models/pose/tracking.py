"""Who is who from frame to frame: boxes of a clip's frames become tracks.

A person keeps the track through crossings and short absences by three signs: where the motion leads, how large the
box is, and the colours of the clothes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...datasets.arrays import Floats

Indices = NDArray[np.int64]

# One unit of cost each. Distances are in box sizes (√ of the area), so that a small person counts like a large one.
STEP, SIZE_CHANGE, COLOUR_CHANGE = 0.3, 0.5, 0.12  # √areas; log of the area; of the colour range
MAX_COST = 12.0  # above it, another person
MAX_GAP_FRAMES = 30  # two seconds of a clip at 16 fps
MAX_GROWTH = 3.0  # an absence widens the search up to so many steps
VELOCITY_DECAY = 0.85  # a frame, while unseen: people stop
MIN_SEEN_FRAMES, MIN_SEEN_SHARE = 3, 0.1
OVERLAP = 0.2  # share of a box that another covers, above which its colours are not believed


@dataclass(frozen=True)
class Detections:
    """What a detector found in one frame.

    Attributes:
        boxes: [N, 4] in pixels, x and y of the upper left and the lower right corner.
        scores: [N] in [0, 1].
        colours: [N, S, 3] in [0, 1], mean colours of S stripes of each.
    """

    boxes: Floats
    scores: Floats
    colours: Floats

    def __len__(self) -> int:
        return len(self.boxes)


def link(frames: Sequence[Detections]) -> Indices:
    """Tracks [P, F]: each frame's index of the detection that shows this person, −1 where unseen.

    The main person is first: the largest sum of area × score over the frames, that is area × duration × score.
    A track of fewer than 3 frames, or of less than a tenth of them, is dropped, the main one excepted. Where no frame
    shows two people, there is nothing to tell apart: all is one track (none where nobody is shown).
    """
    num_seen = [len(frame) for frame in frames]
    if max(num_seen, default=0) <= 1:
        return np.array([[count - 1 for count in num_seen]])[: max(num_seen, default=0)]
    open_tracks: list[_Track] = []
    tracks: list[_Track] = []
    for index, detections in enumerate(frames):
        open_tracks = [track for track in open_tracks if index - track.last_frame <= MAX_GAP_FRAMES]
        matched = _match(open_tracks, detections, index)
        hidden = _covered(detections.boxes) > OVERLAP
        for found in range(len(detections)):
            track = matched.get(found)
            if track is None:
                track = _Track(index, detections, found)
                open_tracks.append(track)
                tracks.append(track)
            else:
                track.follow(index, detections, found, bool(hidden[found]))
    tracks.sort(key=lambda track: track.importance, reverse=True)
    min_seen = min(len(frames), max(MIN_SEEN_FRAMES, int(np.ceil(MIN_SEEN_SHARE * len(frames)))))
    kept = [track for track in tracks if track is tracks[0] or len(track.members) >= min_seen]
    out = np.full((len(kept), len(frames)), -1)
    for row, track in zip(out, kept, strict=True):
        row[list(track.members)] = list(track.members.values())
    return out


def assign(costs: Floats) -> list[tuple[int, int]]:
    """(row, column) pairs of the cheapest assignment of every row to a column of its own, [R, C] with R ≤ C.

    Kuhn's method with shortest augmenting paths: rows and columns carry prices that keep all reduced costs ≥ 0.
    """
    num_rows, num_columns = costs.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)
    row_of = np.full(num_columns, -1)
    for start in range(num_rows):
        distance, came_from = np.full(num_columns, np.inf), np.full(num_columns, -1)
        done = np.zeros(num_columns, bool)
        row, column, reached = start, -1, 0.0
        while True:
            reduced = reached + costs[row] - row_price[row] - column_price
            better = ~done & (reduced < distance)
            distance[better], came_from[better] = reduced[better], column
            column = int(np.where(done, np.inf, distance).argmin())
            reached = distance[column]
            done[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
        passed = done & (row_of >= 0)
        row_price[row_of[passed]] += reached - distance[passed]
        column_price[passed] -= reached - distance[passed]
        row_price[start] += reached
        while column >= 0:  # give each column on the path to the row before it
            before = came_from[column]
            row_of[column] = start if before < 0 else row_of[before]
            column = before
    return [(int(row_of[column]), int(column)) for column in np.flatnonzero(row_of >= 0)]


class _Track:
    """One person so far: where, how fast, how large, in which colours, and in which detections."""

    def __init__(self, frame: int, detections: Detections, found: int) -> None:
        self.members = {frame: found}
        self.last_frame = frame
        self.centre, self.size = _centres_and_sizes(detections.boxes[[found]])
        self.velocity = np.zeros(2)
        self.colours = detections.colours[found]
        self.importance = float(self.size[0] ** 2 * detections.scores[found])

    def follow(self, frame: int, detections: Detections, found: int, hidden: bool) -> None:
        """Take detection `found` of this frame; hidden: another person covers part of it."""
        centre, size = _centres_and_sizes(detections.boxes[[found]])
        step = (centre[0] - self.centre[0]) / (frame - self.last_frame)
        self.velocity = step if len(self.members) == 1 else (self.velocity + step) / 2
        self.centre, self.size, self.last_frame = centre, size, frame
        if not hidden:
            self.colours = 0.8 * self.colours + 0.2 * detections.colours[found]
        self.members[frame] = found
        self.importance += float(size[0] ** 2 * detections.scores[found])

    def costs(self, frame: int, detections: Detections) -> Floats:
        """[N]: how unlike this person each detection is; 0 is exactly what was expected."""
        gap = frame - self.last_frame
        coasted = (1 - VELOCITY_DECAY**gap) / (1 - VELOCITY_DECAY)
        centres, sizes = _centres_and_sizes(detections.boxes)
        away = np.linalg.norm(centres - (self.centre + coasted * self.velocity), axis=1) / np.sqrt(sizes * self.size)
        reach = STEP * min(np.sqrt(gap), MAX_GROWTH)
        growth = 2 * np.log(sizes / self.size)
        repainted = np.sqrt(((detections.colours - self.colours) ** 2).mean(axis=(1, 2)))
        return (away / reach) ** 2 + (growth / SIZE_CHANGE) ** 2 + (repainted / COLOUR_CHANGE) ** 2


def _match(tracks: list[_Track], detections: Detections, frame: int) -> dict[int, _Track]:
    """Detection → track, cheapest in sum; a track may stay without, which costs MAX_COST."""
    if not tracks or not len(detections):
        return {}
    costs = np.stack([track.costs(frame, detections) for track in tracks])
    unseen = np.full((len(tracks), len(tracks)), MAX_COST)
    pairs = assign(np.concatenate([costs, unseen], axis=1))
    return {column: tracks[row] for row, column in pairs if column < len(detections)}


def _centres_and_sizes(boxes: Floats) -> tuple[Floats, Floats]:
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    return (boxes[:, :2] + boxes[:, 2:]) / 2, np.sqrt(extent.prod(axis=1))


def _covered(boxes: Floats) -> Floats:
    """[N]: the share of each box that the one other box that covers most of it covers."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    np.fill_diagonal(shared, 0)
    return np.asarray(shared.max(axis=1, initial=0) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1))
