"""CPU time of reading videos: in the decoder process or in this process, and late or early in a source.

The sides alternate; prints one JSON line of CPU seconds per comparison. A 60-second film is made unless `--clip` names
a video. `ratio` is the first side over the second, of medians; `ratio_fastest` of the fastest rounds, which other
programs disturbed least.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from steadydancer.datasets.video import client, decode, decode_low_resolution, probe
from steadydancer.datasets.video.decoders import DecordCursor
from steadydancer.datasets.video.index import read_index
from steadydancer.datasets.video.reader import VideoReader
from steadydancer.pipelines.common.device_frames import DeviceReader

CLIP_S = np.arange(81) / 16


def film(path: Path, seconds: int, height: int, width: int, group: int) -> Path:
    """Write a video of a moving texture at 24 frames per second, with `group` frames per group of pictures."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "veryfast", "g": str(group)})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(24 * seconds):
            shade = (np.sin(columns / 31 + k / 5) + np.sin(rows / 23 - k / 7) + 2) * 60
            pixels = np.stack([shade, 255 - shade, np.roll(shade, 40, axis=1)], axis=-1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cpu_seconds(call: Callable[[], object]) -> float:
    """Measure CPU seconds of this process and its decoder process during a call."""
    start = time.process_time() + _child_seconds()
    call()
    return time.process_time() + _child_seconds() - start


def _child_seconds() -> float:
    pid = client.worker_pid()
    return time.clock_gettime((~pid << 3) | 2) if pid else 0.0  # Linux clock id of another process's CPU time


def compare(what: str, first: Callable[[], object], second: Callable[[], object], rounds: int, **notes: object) -> None:
    """Measure two calls in alternating order and print one line."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            measured = cpu_seconds((first, second)[side])
            if turn:  # the first round starts processes and loads libraries
                seconds[side].append(measured)
    medians = [statistics.median(side) for side in seconds]
    print(
        json.dumps(
            {
                "compared": what,
                "cpu_s": [round(median, 4) for median in medians],
                "ratio": round(medians[0] / medians[1], 3),
                "ratio_fastest": round(min(seconds[0]) / min(seconds[1]), 3),
                "rounds": rounds,
                **notes,
            }
        ),
        flush=True,
    )


def by_decord_from_the_start(path: Path, times_s: np.ndarray, size: tuple[int, int]) -> None:
    """Read sequentially from the start, so that the cost of a clip grows with its position."""
    index = read_index(path)
    cursor = DecordCursor(path, index, size)
    for position in np.unique(index.positions_at(times_s)):
        cursor.picture(int(position))


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a video of at least 20 s")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.clip or film(Path(folder) / "film.mp4", 60, 480, 848, 48)
        info, rounds = probe(path), arguments.rounds
        size, half = (info.height, info.width), (info.height // 2, info.width // 2)
        last_s = info.duration_s - CLIP_S[-1] - 0.1
        note = {"film": f"{info.width}×{info.height}, {info.duration_s:.0f} s", "codec": info.codec}

        reader = VideoReader()
        compare("child / in process, both warm: 81 frames, full size",
                lambda: decode(path, CLIP_S),
                lambda: reader.frames(path, CLIP_S, size).array(), rounds, **note)  # fmt: skip
        compare("child / in process, both warm: low-resolution pass",
                lambda: decode_low_resolution(path, 1 / 16, 128),
                lambda: reader.low_resolution(path, 1 / 16, 128)[1].array(), rounds, **note)  # fmt: skip
        compare("child / in process, both warm: probe",
                lambda: [probe(path) for _ in range(50)],
                lambda: [reader.index(path) for _ in range(50)], rounds, **note)  # fmt: skip
        compare("last clip / first clip, as read now",
                lambda: VideoReader().frames(path, last_s + CLIP_S, size).array(),
                lambda: VideoReader().frames(path, CLIP_S, size).array(), rounds, **note)  # fmt: skip
        compare("last clip / first clip, plain sequential decord",
                lambda: by_decord_from_the_start(path, last_s + CLIP_S, size),
                lambda: by_decord_from_the_start(path, CLIP_S, size), max(2, rounds // 2), **note)  # fmt: skip

        if torch.cuda.is_available():
            on_gpu = DeviceReader("cuda")
            compare("NVDEC / child: 81 frames at half size", lambda: on_gpu.read(path, CLIP_S, *half).sum().item(),
                    lambda: decode(path, CLIP_S, *half), rounds, **note)  # fmt: skip
            on_gpu.close()
        else:
            unmeasured = {"compared": "NVDEC / child: 81 frames at half size", "ratio": None, "why": "no GPU"}
            print(json.dumps(unmeasured), flush=True)

        windows = [start + CLIP_S for start in np.arange(0, last_s, CLIP_S[-1] + 1 / 16)]

        def windows_read_on() -> None:
            reader = VideoReader()
            for times_s in windows:
                reader.frames(path, times_s, size).array()

        compare("all clips of the source / one plain pass over it", windows_read_on,
                lambda: by_decord_from_the_start(path, np.concatenate(windows), size), max(2, rounds // 2),
                clips=len(windows), **note)  # fmt: skip

        def passes(sparse: bool) -> None:
            reader = VideoReader()
            reader.low_resolution(path, 1 / 16, 128)[1].array()
            for times_s in windows:
                spread = np.linspace(times_s[0], times_s[-1], 8)
                if sparse:
                    reader.sparse(path, times_s[0], times_s[-1], 8)[1].array()
                else:
                    reader.frames(path, spread, (256, round(256 * info.width / info.height / 2) * 2)).array()

        compare("shots and scores: kept frames / a second pass", lambda: passes(True), lambda: passes(False),
                max(2, rounds // 2), **note)  # fmt: skip


if __name__ == "__main__":
    main()
