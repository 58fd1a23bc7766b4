"""Read frames by time in this process: choose a decoder, cache frames and indices, compare decord with PyAV.

Results depend on the file and the request only, not on earlier requests.
"""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import numpy as np

from .decoders import DecordCursor, DecordRefusal, PyavCursor, Size, has_decord, key_pictures
from .index import check_limits, read_index
from .info import Identity, VideoError, VideoIndex, identity
from .sampling import SPARSE_EVERY_S, key_frame_entries, low_resolution_size, sparse_size_of, sparse_times

Places = dict[int, np.ndarray]
"""Position of a frame in its file → its indices among the requested frames."""

_MAX_CACHED_BYTES = 256 << 20
"""Limit for cached frames: one minute of video takes 42 MB. Larger sources cache none and are read again."""

_LOW_RESOLUTION_FILTER = "AREA"
"""Mean of the covered pixels. It takes three quarters of the time of a bilinear filter of the same width."""

_MAX_CACHED_INDICES = 64

CROSS_CHECKED_SHARE = 0.01
MAX_DIFFERENCE = 1.5
"""Mean over a frame, in levels. Builds of one scaler differ by at most 0.7 (and by 0 without scaling), different frames
of a moving scene by more."""

_MIN_FRAMES_FOR_DECORD = 8
_PIXELS_PER_SECOND = 50e6
_BYTES_PER_SECOND = 20e6
"""Speeds of a slow core. 1080p H.264 was measured at five times the speed."""


class Pictures(NamedTuple):
    """Stream of frames: the shape of uint8 [F, H, W, 3], and an iterator of (indices into F, picture [H, W, 3]).

    If an index occurs twice, the later picture counts. The iterator may raise `VideoError`.
    """

    shape: tuple[int, ...]
    stream: Iterator[tuple[np.ndarray, np.ndarray]]

    def array(self) -> np.ndarray:
        """Collect all frames in an array."""
        frames = np.empty(self.shape, np.uint8)
        for where, picture in self.stream:
            frames[where] = picture
        return frames


@dataclass(frozen=True)
class _Source:
    path: str | os.PathLike[str]
    file: Identity
    index: VideoIndex


class VideoReader:
    """Reads videos. It caches indices, the last decoders, and small frames of low-resolution passes.

    Args:
        expect: called before each piece of work with the CPU seconds that it takes on a slow machine.
    """

    def __init__(self, expect: Callable[[float], None] = lambda seconds: None) -> None:
        self._expect = expect
        self._indices: OrderedDict[Identity, VideoIndex] = OrderedDict()
        self._cached_frames: dict[Identity, dict[int, np.ndarray]] = {}
        self._rejected_by_decord: set[Identity] = set()
        self._pyav: tuple[Identity, PyavCursor] | None = None
        self._decord: tuple[Identity, DecordCursor] | None = None
        self.counts: Counter[str] = Counter()

    def index(
        self, path: str | os.PathLike[str], max_pixels: int | None = None, max_duration_s: float | None = None
    ) -> VideoIndex:
        """Return the index of a file. Raises `VideoError`."""
        return self._source(path, max_pixels, max_duration_s).index

    def frames(self, path: str | os.PathLike[str], times_s: np.ndarray, size: Size | None) -> Pictures:
        """Decode the frames displayed at `times_s`; see `video.decode`."""
        source = self._source(path)
        positions = source.index.positions_at(times_s)
        size = size or (source.index.info.height, source.index.info.width)
        self._expect_decoding(source.index, positions)
        return Pictures((len(positions), *size, 3), self._pictures(source, size, _places(positions)))

    def low_resolution(
        self, path: str | os.PathLike[str], every_s: float, max_side: int, first: int = 0, count: int | None = None
    ) -> tuple[np.ndarray, Pictures]:
        """Decode small frames in one pass, or only `count` of them from `first` on.

        Frames for `sparse` are cached. Pieces requested in order cost one pass together; see
        `video.low_resolution_pieces`.
        """
        source = self._source(path)
        times_s = np.arange(0.0, source.index.info.duration_s - 1e-6, every_s)
        size, positions = low_resolution_size(source.index, max_side), source.index.positions_at(times_s)
        piece = slice(first, None if count is None else first + count)
        if len(positions[piece]) == 0:
            return times_s[piece], Pictures((0, *size, 3), iter(()))
        self._expect_decoding(source.index, positions[piece])
        # Each cached frame belongs to exactly one piece: the one that decodes its position.
        after = int(positions[first - 1]) if first else -1
        is_last = piece.stop is None or piece.stop >= len(positions)
        until = source.index.info.num_frames if is_last else int(positions[piece][-1])
        pictures = self._small_pictures(source, size, _places(positions[piece]), range(after + 1, until + 1))
        return times_s[piece], Pictures((len(positions[piece]), *size, 3), pictures)

    def key_frames(
        self, path: str | os.PathLike[str], max_gap_s: float, min_pixels: int, count: int | None = None
    ) -> tuple[np.ndarray, Pictures]:
        """Decode a few random access points; see `video.decode_key_frames`."""
        source = self._source(path)
        index, size = source.index, sparse_size_of(source.index)
        entries = key_frame_entries(index, max_gap_s)
        if index.deinterlacing:  # a deinterlacer needs the neighbouring frames
            entries = entries[:0]
        if index.info.num_frames * index.info.width * index.info.height < min_pixels:
            entries = entries[:0]
        entries = entries[:count]
        if len(entries):
            self._expect_decoding(index, entries)
        self.counts["key_frames"] += 1
        places = {int(position): np.array([k]) for k, position in enumerate(entries)}
        pictures = ((places[position], one) for position, one in key_pictures(source.path, index, list(places), size))
        return index.times_s()[entries], Pictures((len(entries), *size, 3), pictures)

    def sparse(
        self, path: str | os.PathLike[str], start_s: float, end_s: float, num_frames: int
    ) -> tuple[np.ndarray, Pictures]:
        """Decode a few frames of a span; see `video.decode_sparse`."""
        source = self._source(path)
        times_s = sparse_times(start_s, end_s, num_frames)
        positions, size = source.index.positions_at(times_s), sparse_size_of(source.index)
        self._expect_decoding(source.index, positions)
        return times_s, Pictures((len(positions), *size, 3), self._sparse_pictures(source, size, _places(positions)))

    def _pictures(self, source: _Source, size: Size, places: Places) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if has_decord() and source.file not in self._rejected_by_decord and _suits_decord(source.index, list(places)):
            try:
                for position, where in places.items():
                    yield where, self._picture_by_decord(source, position, size)
                self.counts["decord"] += 1
                return
            except DecordRefusal:
                self._decord = None
                self._rejected_by_decord.add(source.file)
                self.counts["decord_refused"] += 1
        self.counts["pyav"] += 1
        for position, where in places.items():
            yield where, self._picture(source, position, size)

    def _small_pictures(
        self, source: _Source, size: Size, places: Places, passed: range
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        index, sparse_size = source.index, sparse_size_of(source.index)
        sparse = set(index.positions_at(np.arange(0.0, index.info.duration_s - 1e-6, SPARSE_EVERY_S)).tolist())
        if len(sparse) * 3 * sparse_size[0] * sparse_size[1] > _MAX_CACHED_BYTES:
            sparse = set()
        cached: dict[int, np.ndarray] = {}
        self.counts["pyav"] += 1
        for position in sorted({*places, *(one for one in sparse if one in passed)}):
            if position in places:
                yield places[position], self._picture(source, position, size, _LOW_RESOLUTION_FILTER)
            if position in sparse:
                cached[position] = self._picture(source, position, sparse_size)
        earlier = self._cached_frames.get(source.file, {}) if passed.start else {}
        self._cache_frames(source.file, {**earlier, **cached})

    def _sparse_pictures(self, source: _Source, size: Size, places: Places) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        cached = self._cached_frames.get(source.file, {})
        self.counts["kept" if cached.keys() >= places.keys() else "pyav"] += 1
        for position, where in places.items():
            yield where, cached[position] if position in cached else self._picture(source, position, size)

    def _source(
        self, path: str | os.PathLike[str], max_pixels: int | None = None, max_duration_s: float | None = None
    ) -> _Source:
        file = identity(path)
        index = self._indices.get(file)
        if index is None:
            self._expect(file.num_bytes / _BYTES_PER_SECOND)
            index = self._indices[file] = read_index(path, max_pixels, max_duration_s)
            if len(self._indices) > _MAX_CACHED_INDICES:
                self._indices.popitem(last=False)
        self._indices.move_to_end(file)
        check_limits(index.info, max_pixels, max_duration_s)
        return _Source(path, file, index)

    def _expect_decoding(self, index: VideoIndex, positions: np.ndarray) -> None:
        self._expect(seconds_to_decode(index, positions))

    def _picture(self, source: _Source, position: int, size: Size, filter_name: str = "BILINEAR") -> np.ndarray:
        """Decode one frame with PyAV, starting from the current frame of its decoder."""
        if self._pyav is None or self._pyav[0] != source.file:
            self._pyav = None  # free its memory before the next decoder allocates
            self._pyav = (source.file, PyavCursor(source.path, source.index))
        try:
            return self._pyav[1].picture(position, size, filter_name)
        except VideoError:
            self._pyav = None
            raise

    def _picture_by_decord(self, source: _Source, position: int, size: Size) -> np.ndarray:
        """Decode one frame with decord and, for a share of all files, compare it with PyAV's.

        Raises:
            DecordRefusal: decord fails, or the frames differ.
        """
        picture = self._decord_cursor(source, size, position).picture(position)
        if is_cross_checked(source.index):
            self.counts["cross_checked"] += 1
            difference = np.subtract(picture, self._picture(source, position, size), dtype=np.int16)
            if np.abs(difference).mean() > MAX_DIFFERENCE:
                self.counts["decord_unfit"] += 1
                raise DecordRefusal(f"decord and PyAV return different frames at {position}")
        return picture

    def _decord_cursor(self, source: _Source, size: Size, position: int) -> DecordCursor:
        if self._decord is not None:
            file, cursor = self._decord
            if file == source.file and cursor.size == size and cursor.position <= position:
                return cursor
        self._decord = None
        self._decord = (source.file, DecordCursor(source.path, source.index, size))
        return self._decord[1]

    def _cache_frames(self, file: Identity, frames: dict[int, np.ndarray]) -> None:
        self._cached_frames = {file: frames}  # one file only: its spans are read before the pass of the next file


def seconds_to_decode(index: VideoIndex, positions: np.ndarray) -> float:
    """Return the CPU seconds that a slow core needs for frames, with those before them since a random access point."""
    num_decoded = int(positions.max()) + 1 - index.entry_before(int(positions.min()))
    return num_decoded * index.info.height * index.info.width / _PIXELS_PER_SECOND


def _places(requested: np.ndarray) -> Places:
    """Group the indices of requested positions by position, in order."""
    positions, counts = np.unique(requested, return_counts=True)
    places = np.split(np.argsort(requested, kind="stable"), np.cumsum(counts)[:-1])
    return dict(zip(positions.tolist(), places, strict=True))


def _suits_decord(index: VideoIndex, positions: list[int]) -> bool:
    """Check whether decord is faster: a dense run of frames that must be decoded from the start of the file.

    decord also converts frames that it skips, and cannot start in the middle. For other requests PyAV takes half the
    time.
    """
    dense = 2 * len(positions) > positions[-1] - positions[0] and len(positions) >= _MIN_FRAMES_FOR_DECORD
    return index.suits_decord and dense and index.entry_before(positions[0]) == 0


def is_cross_checked(index: VideoIndex) -> bool:
    """Check whether a file belongs to the cross-checked share, by a hash of its index that is the same in every run."""
    return crc32(repr(index.info).encode(), crc32(index.pts.tobytes())) < CROSS_CHECKED_SHARE * 2**32
