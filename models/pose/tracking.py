"""Link the boxes in the frames of a clip into tracks.

Tracks survive crossings and short absences. Detections are matched by three features: the position predicted from the
motion, the size of the box, and the colours of the clothes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...datasets.arrays import Floats, Integers

# Differences that cost one unit. Distances are in box sizes (√ of the area), independent of a person's size.
STEP, SIZE_CHANGE, COLOUR_CHANGE = 0.3, 0.5, 0.12  # √areas; log of the area; of the colour range
MAX_COST = 12.0  # above it, a detection is another person
MAX_GAP_FRAMES = 30  # two seconds of a clip at 16 fps
MAX_GROWTH = 3.0  # maximum factor by which an absence widens the search
VELOCITY_DECAY = 0.85  # per frame without a detection, because people stop
MIN_SEEN_FRAMES, MIN_SEEN_SHARE = 3, 0.1
OVERLAP = 0.2  # covered share of a box, above which its colours are ignored


@dataclass(frozen=True)
class Detections:
    """Detections in one frame.

    Attributes:
        boxes: [N, 4] in pixels, x and y of the upper left and the lower right corner.
        scores: [N] in [0, 1].
        colours: [N, S, 3] in [0, 1], mean colours of S stripes of each box.
    """

    boxes: Floats
    scores: Floats
    colours: Floats

    def __len__(self) -> int:
        return len(self.boxes)


def link(frames: Sequence[Detections]) -> Integers:
    """Link detections into tracks [P, F]: the index of the person's detection in each frame, −1 if there is none.

    The main person is first: the largest sum of area × score over the frames, that is area × duration × score.
    A track of fewer than 3 frames, or of less than a tenth of all frames, is dropped, except the main one. If no frame
    has two detections, they form a single track (none if there are no detections).
    """
    num_seen = [len(frame) for frame in frames]
    if max(num_seen, default=0) <= 1:
        return np.array([[count - 1 for count in num_seen]])[: max(num_seen, default=0)]
    open_tracks: list[_Track] = []
    tracks: list[_Track] = []
    for index, detections in enumerate(frames):
        open_tracks = [track for track in open_tracks if index - track.last_frame <= MAX_GAP_FRAMES]
        matched = _match(open_tracks, detections, index)
        hidden = _covered_shares(detections.boxes) > OVERLAP
        for found in range(len(detections)):
            track = matched.get(found)
            if track is None:
                track = _Track(index, detections, found)
                open_tracks.append(track)
                tracks.append(track)
            else:
                track.add(index, detections, found, bool(hidden[found]))
    tracks.sort(key=lambda track: track.importance, reverse=True)
    min_seen = min(len(frames), max(MIN_SEEN_FRAMES, int(np.ceil(MIN_SEEN_SHARE * len(frames)))))
    long_tracks = [track for track in tracks if track is tracks[0] or len(track.members) >= min_seen]
    out = np.full((len(long_tracks), len(frames)), -1)
    for row, track in zip(out, long_tracks, strict=True):
        row[list(track.members)] = list(track.members.values())
    return out


def assign(costs: Floats) -> list[tuple[int, int]]:
    """Assign every row of costs [R, C], R ≤ C, to a different column at minimum cost; return (row, column) pairs.

    This is Kuhn's method with shortest augmenting paths: prices of rows and columns keep all reduced costs ≥ 0.
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
        while column >= 0:  # assign each column on the path to the previous row
            before = came_from[column]
            row_of[column] = start if before < 0 else row_of[before]
            column = before
    return [(int(row_of[column]), int(column)) for column in np.flatnonzero(row_of >= 0)]


class _Track:
    """State of a track: position, velocity, size, colours, and detections so far."""

    def __init__(self, frame: int, detections: Detections, found: int) -> None:
        self.members = {frame: found}
        self.last_frame = frame
        self.centre, self.size = _centres_and_sizes(detections.boxes[[found]])
        self.velocity = np.zeros(2)
        self.colours = detections.colours[found]
        self.importance = float(self.size[0] ** 2 * detections.scores[found])

    def add(self, frame: int, detections: Detections, found: int, hidden: bool) -> None:
        """Add detection `found` of a frame; `hidden`: another box covers part of it."""
        centre, size = _centres_and_sizes(detections.boxes[[found]])
        step = (centre[0] - self.centre[0]) / (frame - self.last_frame)
        self.velocity = step if len(self.members) == 1 else (self.velocity + step) / 2
        self.centre, self.size, self.last_frame = centre, size, frame
        if not hidden:
            self.colours = 0.8 * self.colours + 0.2 * detections.colours[found]
        self.members[frame] = found
        self.importance += float(size[0] ** 2 * detections.scores[found])

    def costs(self, frame: int, detections: Detections) -> Floats:
        """Compute the cost [N] of each detection for this person; 0 is exactly as predicted."""
        gap = frame - self.last_frame
        coasted = (1 - VELOCITY_DECAY**gap) / (1 - VELOCITY_DECAY)
        centres, sizes = _centres_and_sizes(detections.boxes)
        away = np.linalg.norm(centres - (self.centre + coasted * self.velocity), axis=1) / np.sqrt(sizes * self.size)
        reach = STEP * min(np.sqrt(gap), MAX_GROWTH)
        growth = 2 * np.log(sizes / self.size)
        recoloured = np.sqrt(((detections.colours - self.colours) ** 2).mean(axis=(1, 2)))
        return (away / reach) ** 2 + (growth / SIZE_CHANGE) ** 2 + (recoloured / COLOUR_CHANGE) ** 2


def _match(tracks: list[_Track], detections: Detections, frame: int) -> dict[int, _Track]:
    """Match detections to tracks at minimum total cost; a track without a detection costs MAX_COST."""
    if not tracks or not len(detections):
        return {}
    costs = np.stack([track.costs(frame, detections) for track in tracks])
    unseen = np.full((len(tracks), len(tracks)), MAX_COST)
    pairs = assign(np.concatenate([costs, unseen], axis=1))
    return {column: tracks[row] for row, column in pairs if column < len(detections)}


def _centres_and_sizes(boxes: Floats) -> tuple[Floats, Floats]:
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    return (boxes[:, :2] + boxes[:, 2:]) / 2, np.sqrt(extent.prod(axis=1))


def _covered_shares(boxes: Floats) -> Floats:
    """Compute the largest share [N] of each box that another box covers."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    np.fill_diagonal(shared, 0)
    return np.asarray(shared.max(axis=1, initial=0) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1))
