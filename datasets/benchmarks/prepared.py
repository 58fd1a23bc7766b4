"""Make a video of each folder of frames, and an image of each reference that is a frame of a video."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from tqdm import tqdm

from ..arrays import Frames
from ..file_names import file_stem
from ..images import ImageError, read_image
from ..local_copies import local_copy
from ..storage import Location
from ..storage.atomic import atomic_write, begin_folder, ordered_write
from ..video import VideoError, decode, encode, frame_times_s
from .layouts import Draft, Found

FOLDER = "prepared"
FRAME_FOLDER_FPS = 30  # TikTok's frames; One-to-All's test set assumes the same
_AT_A_TIME = 16


class PreparationError(Exception):
    """A frame or a video of one pair cannot be read; the message names it."""


def first_frame(num_frames: int) -> int:
    """Return 0: the reference of an image-to-video model is the frame at which its video starts."""
    return 0


def humanvid_reference(num_frames: int) -> int:
    """Return the 13th of 24 frames with the largest stride up to 3, as HumanVid's evaluation does.

    A clip of fewer than 24 frames, which HumanVid skips, gives its middle frame.
    """
    stride = min(3, num_frames // 24)
    return 12 * stride if stride else num_frames // 2


def prepare(found: Found, folder: Location, name: str, reference: Callable[[int], int] = first_frame) -> list[Draft]:
    """Replace folders of frames by videos and frames by images, written to `folder/prepared/NAME` unless they exist.

    Videos are lossless, at 30 frames per second; an odd side loses its last row or column. A pair whose frames cannot
    be read keeps the path that its video would have, and says why in `problems`.

    Args:
        found: pairs of a layout.
        folder: of the benchmark.
        name: of the benchmark.
        reference: number of frames → index of the reference, for the clips without a reference image.
    """
    if not any(draft.driving in found.sequences or draft.has_own_reference for draft in found.drafts):
        return list(found.drafts)
    begin_folder(folder / FOLDER / name)
    return [
        _prepared(draft, found.sequences.get(draft.driving or ""), folder, name, reference)
        for draft in tqdm(found.drafts, desc="preparing", unit=" clips", disable=None)
    ]


def _prepared(
    draft: Draft, frames: Sequence[str] | None, folder: Location, name: str, reference: Callable[[int], int]
) -> Draft:
    out, problems = f"{FOLDER}/{name}/{file_stem(draft.name)}", list(draft.problems)
    image, driving, truth = draft.image, draft.driving, draft.truth
    try:
        if frames is not None:
            driving = truth = f"{out}.mp4"
            if draft.has_own_reference:
                own = frames[reference(len(frames))]
                image = out + PurePosixPath(own).suffix
                _copy(folder / own, folder / image)
            problems += _write_video(folder, frames, driving)
        elif draft.has_own_reference and driving is not None:
            image = f"{out}.png"
            _write_reference(folder / driving, reference, folder / image)
    except PreparationError as error:
        problems.append(str(error))
    return Draft(draft.name, image, driving, draft.prompt, truth, False, tuple(problems))


def _write_video(folder: Location, frames: Sequence[str], name: str) -> list[str]:
    """Write a lossless video of image files unless it exists; return remarks.

    Raises:
        PreparationError: a frame cannot be read, or has another size than the first.
    """
    first = _read(folder / frames[0])
    height, width = first.shape[:2]
    odd = [f"frames of {width}×{height} lost their last row or column, as videos have even sides"]
    odd = odd if height % 2 or width % 2 else []
    if (folder / name).is_file():
        return odd
    parent, file = name.rsplit("/", 1)
    with ordered_write(folder / parent, [file]) as local:
        encode(_pieces(folder, frames, (height, width)), local / file, FRAME_FOLDER_FPS, lossless=True)
    return odd


def _pieces(folder: Location, frames: Sequence[str], size: tuple[int, int]) -> Iterator[Frames]:
    height, width = (side // 2 * 2 for side in size)
    for start in range(0, len(frames), _AT_A_TIME):
        some = []
        for name in frames[start : start + _AT_A_TIME]:
            picture = _read(folder / name)
            if picture.shape[:2] != size:
                raise PreparationError(
                    f"{name} is {picture.shape[1]}×{picture.shape[0]}, the first frame {size[1]}×{size[0]}"
                )
            some.append(picture[:height, :width])
        yield np.stack(some)


def _read(place: Location) -> Frames:
    with local_copy(place) as file:
        try:
            return read_image(file).pixels
        except ImageError as error:
            raise PreparationError(f"a frame is not readable: {error}") from error


def _copy(place: Location, to: Location) -> None:
    """Copy a frame beside its video, so that the folder of frames is not needed any more."""
    if not to.is_file():
        with local_copy(place) as file, atomic_write(to) as aside:
            shutil.copyfile(file, aside)


def _write_reference(video: Location, reference: Callable[[int], int], image: Location) -> None:
    """Write a frame of a video as PNG unless the image exists.

    Raises:
        PreparationError: the video cannot be read.
    """
    if image.is_file():
        return
    from PIL import Image

    with local_copy(video) as file:
        try:
            times_s = frame_times_s(file)
            index = reference(len(times_s))
            pixels = decode(file, times_s[index : index + 1])[0]
        except VideoError as error:
            raise PreparationError(f"the reference frame cannot be read: {video.name}: {error}") from error
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    with atomic_write(image) as aside:
        aside.write_bytes(data.getvalue())
