"""One video while it is scored: its frames, its ground truth and its reference, each read once for all metrics."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image

from ...datasets.arrays import Floats64, Frames, Integers
from ...datasets.images import ImageError, read_image
from ...datasets.schema import Row
from ...datasets.video import decode, encode, frame_times_s, probe
from ...models.encoders import resize_image
from ..runtime.local_files import reading_video
from ..runtime.stage import BadClip
from .comparison import Clock, Compared, NotComparable, truth_frames
from .protocols import Codec, Protocol, Refused
from .scores import NotMeasured

T = TypeVar("T")


@dataclass(frozen=True)
class Rendered:
    """How a method's videos were rendered, from its record; the defaults are of videos without a record.

    Args:
        driving_fps: rate at which driving videos were read; None: every frame.
        main_person_only: whether only the main person was driven.
        fps: rate of the written videos.
        crf: of the codec.
        chroma: of the codec.
        has_record: whether there was a record.
        components: folder of the autoencoder; None: unknown.
    """

    driving_fps: float | None = None
    main_person_only: bool = False
    fps: float = 16
    crf: int = 18
    chroma: Any = "4:2:0"
    has_record: bool = False
    components: str | None = None


class Pair(NamedTuple):
    """The render's frames and the truth's, of equal shape, remarks, and the times in the truth in s [F]."""

    render: Frames
    truth: Frames
    detail: str | None
    truth_times_s: Floats64


@dataclass
class Video:
    """A video and what is compared with it.

    Args:
        row: its row, with local paths.
        protocol: rules of the comparison.
        rendered: how it was rendered.
        frames: scored frames, uint8 [F, H, W, 3].
        times_s: [n], times of all frames of the render.
        positions: [F], positions of the scored frames among them.
        notes: remarks on the selection.
    """

    row: Row
    protocol: Protocol
    rendered: Rendered
    frames: Frames
    times_s: Floats64
    positions: Integers
    notes: tuple[str, ...] = ()
    _kept: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, row: Row, protocol: Protocol, rendered: Rendered) -> "Video":
        """Read the protocol's frames.

        Raises:
            BadClip: the video cannot be read, or the protocol does not admit it.
        """
        path = Path(row["video"])
        with reading_video(path):
            probe(path)
            times_s = frame_times_s(path)
            try:
                positions, notes = protocol.select(times_s)
            except Refused as refused:
                raise BadClip(refused.reason, refused.detail) from refused
            frames = _read_sized(path, times_s[positions], protocol)
        return cls(row, protocol, rendered, frames, times_s, positions, notes)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.frames.shape[1:3]
        return height, width

    @property
    def fps(self) -> float:
        """Frames per second of the scored frames; the writing rate for a single frame."""
        times = self.times_s[self.positions]
        return float((len(times) - 1) / (times[-1] - times[0])) if len(times) > 1 else self.rendered.fps

    @property
    def image(self) -> Frames:
        """The reference picture in its own size [h, w, 3].

        Raises:
            NotMeasured: there is none, or it cannot be read.
        """
        return self.once("image", self._read_image)

    @property
    def reference(self) -> Frames:
        """The reference picture at the size of the video [H, W, 3], resized as a pipeline does.

        Raises:
            NotMeasured: as `image`.
        """
        return self.once("reference", lambda: resize_image(self.image, *self.size))

    @property
    def pair(self) -> Pair:
        """The scored frames and the truth's.

        Raises:
            NotMeasured: there is no truth, or it cannot be compared.
        """
        return self.once("pair", self._compare)

    @property
    def compared(self) -> Pair:
        """As `pair`, without frame 0 if the protocol does not score it.

        Raises:
            NotMeasured: as `pair`, or only frame 0 remains.
        """
        render, truth, detail, times_s = self.pair
        if self.protocol.score_first_frame:
            return self.pair
        if len(truth) < 2:
            raise NotMeasured("too_short", "only frame 0 has a ground truth, and the protocol does not score it")
        detail = "; ".join([*([detail] if detail else []), "frame 0 is not scored"])
        return Pair(render[1:], truth[1:], detail, times_s[1:])

    def require_side(self, pixels: int) -> None:
        """Check that a network can take the frames.

        Raises:
            NotMeasured: a side has fewer pixels.
        """
        height, width = self.size
        if min(height, width) < pixels:
            raise NotMeasured("too_small", f"{width}×{height} px, but sides of {pixels} are needed")

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` returned, or raise the `NotMeasured` that it raised, the first time."""
        if name not in self._kept:
            try:
                self._kept[name] = make()
            except NotMeasured as missing:
                self._kept[name] = missing
        kept = self._kept[name]
        if isinstance(kept, NotMeasured):
            raise kept
        value: T = kept
        return value

    def _read_image(self) -> Frames:
        file = self.row["image"]
        if not file:
            index = self.protocol.reference_index
            if index is not None and index < len(self.pair.truth):
                return self.pair.truth[index]
            raise NotMeasured("no_image", "no reference image was given")
        try:
            return read_image(Path(file)).pixels
        except ImageError as error:
            raise NotMeasured("unreadable_image", f"the reference image cannot be read: {error}") from error

    def _compare(self) -> Pair:
        row = self.row
        if not row["truth"]:
            raise NotMeasured(row["reason"] or "no_truth", row["detail"] or "no ground truth was given")
        clock = Clock(self.times_s, row["driving"], self.rendered.driving_fps)
        try:
            image_size = self.image.shape[:2] if row["image"] else None
        except NotMeasured:
            image_size = None
        try:
            compared = truth_frames(Path(row["truth"]), clock, self.size, image_size, self.protocol, self.positions)
        except NotComparable as error:
            raise NotMeasured(error.reason, error.detail) from error
        if self.protocol.codec:
            coded = through_codec(compared.frames, self.fps, self.protocol.codec)
            note = f"the ground truth passed through {self.protocol.codec.name}, crf {self.protocol.codec.crf}"
            compared = Compared(coded, "; ".join(filter(None, [compared.detail, note])), compared.times_s)
        detail = "; ".join([*self.notes, *filter(None, [compared.detail])]) or None
        return Pair(self.frames[: len(compared.frames)], compared.frames, detail, compared.times_s)


def through_codec(frames: Frames, fps: float, codec: Codec) -> Frames:
    """Encode and decode frames [F, H, W, 3]; an odd side is padded by its last row or column for the codec."""
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coded.mp4"
        encode(padded, path, fps, crf=codec.crf, chroma=codec.chroma)
        return decode(path, frame_times_s(path)[: len(frames)])[:, :height, :width]


def resized(frames: Frames, size: tuple[int, int], name: str) -> Frames:
    """Resize frames to (height, width) by one of PIL's filters; aspect is not kept."""
    if frames.shape[1:3] == size:
        return frames
    resample = Image.Resampling.BILINEAR if name == "pil-bilinear" else Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], resample)) for frame in frames])


def shrunk(frames: Frames, longest_px: int) -> Frames:
    """Scale frames down to a longer side of `longest_px`, by areas; smaller frames stay."""
    height, width = frames.shape[1:3]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return frames
    size = (round(width * scale / 2) * 2, round(height * scale / 2) * 2)
    return np.stack([np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8) for frame in frames])


def _read_sized(path: Path, times_s: Floats64, protocol: Protocol) -> Frames:
    if protocol.height is None or protocol.width is None:
        return decode(path, times_s)
    if protocol.render_filter == "decoder":
        return decode(path, times_s, protocol.height, protocol.width)
    return resized(decode(path, times_s), (protocol.height, protocol.width), protocol.render_filter)
