"""The process behind `device_frames`: decodes with torchcodec and sends frames as shared memory of the device."""

from __future__ import annotations

from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing

if TYPE_CHECKING:
    from torch import Tensor
    from torchcodec.decoders import VideoDecoder

    from ...datasets.video.info import Identity

MAX_TIME_DIFFERENCE_S = 2e-3


def serve(descriptor: int, device: str) -> None:
    """Answer requests until the other side closes: `("frames", tensor)` or `("refused", why)`."""
    torch.set_num_threads(1)
    torch.multiprocessing.set_sharing_strategy("file_system")  # of tensors on the host: needs no common key
    connection = Connection(descriptor)
    opened: tuple[Identity, int, VideoDecoder] | None = None  # a file, the last position read, and its decoder
    while True:
        try:
            request = ForkingPickler.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            from torchcodec.decoders import VideoDecoder

            path, file, mappings = (request.pop(name) for name in ("path", "file", "mappings"))
            first, last = min(request["positions"]), max(request["positions"])
            # A decoder that seeks backward has returned a wrong frame of H.265 (torchcodec #1339).
            if opened is None or opened[0] != file or first < opened[1]:
                opened = None  # its memory is free before the next decoder allocates
                decoder = VideoDecoder(path, device=device, custom_frame_mappings=mappings)
                if device != "cpu" and decoder.cpu_fallback:
                    raise ValueError(f"not by the device: {decoder.cpu_fallback}")
            else:
                decoder = opened[2]
            answer: tuple[str, Any] = ("frames", frames_of(decoder, **request))
            opened = file, last, decoder
        except Exception as error:  # torchcodec's errors have no common type; PyAV decides about the file
            answer, opened = ("refused", f"{type(error).__name__}: {error}"), None
        connection.send_bytes(ForkingPickler.dumps(answer))


def frames_of(
    decoder: VideoDecoder,
    num_frames: int,
    positions: list[int],
    times_s: list[float],
    whole: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Return uint8 [F, H, W, 3] of the frames at some positions, upright, resized from `whole` to `size`.

    Raises:
        ValueError: the decoder has another number of frames, other times, or frames of another size.
    """
    if len(decoder) != num_frames:
        raise ValueError(f"{len(decoder)} frames, the packets have {num_frames}")
    batch = decoder.get_frames_at(positions)
    begin_s = decoder.metadata.begin_stream_seconds or 0.0
    difference_s = (batch.pts_seconds - begin_s - torch.tensor(times_s, dtype=torch.float64)).abs().max()
    if float(difference_s) > MAX_TIME_DIFFERENCE_S:
        raise ValueError(f"times differ from those of the packets by {float(difference_s):.3f} s")
    if tuple(batch.data.shape[-2:]) != tuple(whole):
        raise ValueError(f"frames of {tuple(batch.data.shape[-2:])}, not {tuple(whole)}")
    return resized(batch.data, size).permute(0, 2, 3, 1).contiguous()


def resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 [F, 3, H, W] bilinearly with a filter as wide as the reduction, as swscale does."""
    if frames.shape[-2:] == torch.Size(size):
        return frames
    parts = [
        torch.nn.functional.interpolate(part.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)
        for part in frames.split(8)  # float frames at full size are four times as large
    ]
    return torch.cat(parts)
