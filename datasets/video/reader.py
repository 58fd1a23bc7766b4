"""Frames by time, in the process that asks: which decoder, what is remembered, and how one is held against the other.

What comes back depends on the file and on what is asked, not on what was asked before.
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
"""Position of a frame in its file → where it is wanted among the frames asked for."""

_MAX_CACHED_BYTES = 256 << 20
"""At most so much of them: one minute of video takes 42 MB. A longer source keeps none: its frames are read again."""

_LOW_RESOLUTION_FILTER = "AREA"
"""The mean of the pixels that a small one covers: three quarters of the time of a bilinear filter as wide."""

_MAX_CACHED_INDICES = 64

CROSS_CHECKED_SHARE = 0.01
_MAX_DIFFERENCE = 1.5
"""Mean over a frame, in levels. Two builds of one scaler differ by 0.7 at most (unscaled by nothing); another frame of
a film in which somebody moves by more."""

_MIN_FRAMES_FOR_DECORD = 8
_PIXELS_PER_SECOND = 50e6
_BYTES_PER_SECOND = 20e6
"""A slow core's: 1080p H.264 takes a fifth of this here."""


class Pictures(NamedTuple):
    """Frames on their way: uint8 [F, H, W, 3] by `shape`, then (indices into F, picture [H, W, 3]) one after another.

    An index may come again: the later picture counts. Taking one may raise `VideoError`.
    """

    shape: tuple[int, ...]
    stream: Iterator[tuple[np.ndarray, np.ndarray]]

    def array(self) -> np.ndarray:
        """All of them."""
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
    """Reads videos. Remembers their indices, the decoders used last, and small frames of low-resolution passes.

    Args:
        expect: told, before the work, how many seconds of CPU time a slow machine takes for it.
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
        """The file's index. Raises `VideoError`."""
        return self._source(path, max_pixels, max_duration_s).index

    def frames(self, path: str | os.PathLike[str], times_s: np.ndarray, size: Size | None) -> Pictures:
        """Frames shown at `times_s`; see `video.decode`."""
        source = self._source(path)
        shown = source.index.positions_at(times_s)
        size = size or (source.index.info.height, source.index.info.width)
        self._expect_decoding(source.index, shown)
        return Pictures((len(shown), *size, 3), self._pictures(source, size, _places(shown)))

    def low_resolution(
        self, path: str | os.PathLike[str], every_s: float, max_side: int, first: int = 0, count: int | None = None
    ) -> tuple[np.ndarray, Pictures]:
        """One pass of small frames, or so many of them from the `first` on (see `video.low_resolution_pieces`).

        Frames for `sparse` are kept on the way. Pieces asked for in their order cost one pass together.
        """
        source = self._source(path)
        times_s = np.arange(0.0, source.index.info.duration_s - 1e-6, every_s)
        size, shown = low_resolution_size(source.index, max_side), source.index.positions_at(times_s)
        piece = slice(first, None if count is None else first + count)
        if len(shown[piece]) == 0:
            return times_s[piece], Pictures((0, *size, 3), iter(()))
        self._expect_decoding(source.index, shown[piece])
        # Each frame that is kept belongs to one piece: the one that passes it.
        after = int(shown[first - 1]) if first else -1
        until = (
            source.index.info.num_frames if piece.stop is None or piece.stop >= len(shown) else int(shown[piece][-1])
        )
        pictures = self._small_pictures(source, size, _places(shown[piece]), range(after + 1, until + 1))
        return times_s[piece], Pictures((len(shown[piece]), *size, 3), pictures)

    def key_frames(
        self, path: str | os.PathLike[str], max_gap_s: float, min_pixels: int, count: int | None = None
    ) -> tuple[np.ndarray, Pictures]:
        """Frames by which a source can be told at a glance; see `video.decode_key_frames`."""
        source = self._source(path)
        index, size = source.index, sparse_size_of(source.index)
        entries = key_frame_entries(index, max_gap_s)
        if index.deinterlacing:  # a deinterlacer needs the frames beside
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
        """A few frames of a span; see `video.decode_sparse`."""
        source = self._source(path)
        times_s = sparse_times(start_s, end_s, num_frames)
        shown, size = source.index.positions_at(times_s), sparse_size_of(source.index)
        self._expect_decoding(source.index, shown)
        return times_s, Pictures((len(shown), *size, 3), self._sparse_pictures(source, size, _places(shown)))

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
        kept: dict[int, np.ndarray] = {}
        self.counts["pyav"] += 1
        for position in sorted({*places, *(one for one in sparse if one in passed)}):
            if position in places:
                yield places[position], self._picture(source, position, size, _LOW_RESOLUTION_FILTER)
            if position in sparse:
                kept[position] = self._picture(source, position, sparse_size)
        self._cache_frames(source.file, {**(self._cached_frames.get(source.file, {}) if passed.start else {}), **kept})

    def _sparse_pictures(self, source: _Source, size: Size, places: Places) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        kept = self._cached_frames.get(source.file, {})
        self.counts["kept" if kept.keys() >= places.keys() else "pyav"] += 1
        for position, where in places.items():
            yield where, kept[position] if position in kept else self._picture(source, position, size)

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

    def _expect_decoding(self, index: VideoIndex, shown: np.ndarray) -> None:
        num_decoded = int(shown.max()) + 1 - index.entry_before(int(shown.min()))
        self._expect(num_decoded * index.info.height * index.info.width / _PIXELS_PER_SECOND)

    def _picture(self, source: _Source, position: int, size: Size, filter_name: str = "BILINEAR") -> np.ndarray:
        """One frame by PyAV, from where it stands."""
        if self._pyav is None or self._pyav[0] != source.file:
            self._pyav = None  # its memory goes before more is taken
            self._pyav = (source.file, PyavCursor(source.path, source.index))
        try:
            return self._pyav[1].picture(position, size, filter_name)
        except VideoError:
            self._pyav = None
            raise

    def _picture_by_decord(self, source: _Source, position: int, size: Size) -> np.ndarray:
        """One frame by decord, in a share of all files held against PyAV's. Raises `DecordRefusal`."""
        picture = self._decord_cursor(source, size, position).picture(position)
        if is_cross_checked(source.index):
            self.counts["cross_checked"] += 1
            difference = np.subtract(picture, self._picture(source, position, size), dtype=np.int16)
            if np.abs(difference).mean() > _MAX_DIFFERENCE:
                self.counts["decord_unfit"] += 1
                raise DecordRefusal(f"frame {position} is another one")
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
        self._cached_frames = {file: frames}  # of one file: its spans are asked for before the next one's pass


def _places(shown: np.ndarray) -> Places:
    """In the order of positions."""
    positions, counts = np.unique(shown, return_counts=True)
    places = np.split(np.argsort(shown, kind="stable"), np.cumsum(counts)[:-1])
    return dict(zip(positions.tolist(), places, strict=True))


def _suits_decord(index: VideoIndex, positions: list[int]) -> bool:
    """Whether most of a run of frames is asked for, and one that has to be read from the start.

    decord converts what it passes over and cannot begin in the middle; elsewhere PyAV takes half of its time.
    """
    dense = 2 * len(positions) > positions[-1] - positions[0] and len(positions) >= _MIN_FRAMES_FOR_DECORD
    return index.suits_decord and dense and index.entry_before(positions[0]) == 0


def is_cross_checked(index: VideoIndex) -> bool:
    """Drawn by what the file holds: the same files are checked in every run, in every process."""
    return crc32(repr(index.info).encode(), crc32(index.pts.tobytes())) < CROSS_CHECKED_SHARE * 2**32
