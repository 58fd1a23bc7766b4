"""The contract of `decode` on a device: torchcodec on the CPU, which is the same code, and on a GPU if there is one."""

import os
import shutil
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from steadydancer.datasets.video import VideoError, decode, probe
from steadydancer.datasets.video.deadline import Limits
from steadydancer.pipelines.common import device_frames
from steadydancer.pipelines.common.device_frames import DeviceReader

pytest.importorskip("torchcodec")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured"))]
HEIGHT, WIDTH, NUM = 96, 160, 40
TIMES_S = np.array([0.0, 1.21, 0.4, 0.4, 0.999, 7.0])  # in any order, one twice, one after the end


def pictures(num: int = NUM, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """A slope of colours on which a square moves, whose place tells the frame."""
    rows, columns = np.mgrid[0:height, 0:width]
    slope = np.stack([rows * 2, columns, 200 - rows], -1).astype(np.uint8)
    made = [slope.copy() for _ in range(num)]
    for k, picture in enumerate(made):
        picture[20:50, 3 * k : 3 * k + 24] = 240, 40, 60
    return made


def write(path: Path, steps: list[int] | None = None, turn: int = 0, mirror: bool = False, codec: str = "libx264",
          pixel_format: str = "yuv420p", size: tuple[int, int] = (HEIGHT, WIDTH), **options: str) -> Path:  # fmt: skip
    """Write a video at 25 frames per second, or with the given steps between frames in 25ths of a second."""
    shown = pictures(NUM, *size)
    times = np.cumsum([0, *(steps or [1] * (NUM - 1))])
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options={"g": "12", "bf": "2", **options})
        stream.height, stream.width, stream.pix_fmt = *size, pixel_format
        stream.codec_context.time_base = stream.time_base = Fraction(1, 25)
        if turn or mirror:
            stream.set_display_rotation(turn, hflip=mirror)
        for picture, time in zip(shown, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def one_reader(device: str) -> Iterator[DeviceReader]:
    reader = DeviceReader(device)
    yield reader
    reader.close()


@pytest.fixture
def reader(one_reader: DeviceReader, monkeypatch: pytest.MonkeyPatch) -> DeviceReader:
    """Return the shared reader with its counts cleared; to start its process takes seconds."""
    one_reader.counts.clear()
    one_reader._checked_codecs = {"h264", "hevc"}
    monkeypatch.setattr(device_frames, "is_cross_checked", lambda index: False)  # drawn by content
    return one_reader


def assert_alike(frames: torch.Tensor, expected: np.ndarray, levels: float) -> None:
    assert frames.dtype == torch.uint8 and frames.shape == expected.shape
    assert np.abs(frames.cpu().numpy().astype(int) - expected).mean(axis=(1, 2, 3)).max() <= levels


KINDS: dict[str, dict[str, Any]] = {
    "closed groups.mp4": {},
    "open groups.mkv": {"x264-params": "open-gop=1:keyint=12:bframes=3"},
    "h265.mp4": {"codec": "libx265", "x265-params": "log-level=none"},
    "variable rate.mp4": {"steps": [1, 3, 1, 1, 7] * 7 + [1] * 4},
    "turned.mp4": {"turn": 90},
    "turned back.mov": {"turn": 270},
    "upside down.mkv": {"turn": 180},
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_the_cpu(reader: DeviceReader, tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / kind.replace(" ", "_"), **KINDS[kind])
    info = probe(path)
    expected = decode(path, TIMES_S)
    frames = reader.read(path, TIMES_S)
    assert frames.device.type == reader.device
    assert_alike(frames, expected, 0.0 if reader.device == "cpu" else device_frames.MAX_DIFFERENCE)
    small = (info.height // 2, info.width // 2)
    assert_alike(reader.read(path, TIMES_S, *small), decode(path, TIMES_S, *small), 2.0)
    (alone,) = reader.read(path, TIMES_S[1:2])
    assert torch.equal(alone, frames[1])
    assert not torch.equal(frames[0], frames[1])  # else any frame would do
    assert reader.counts == {"device": 3}


UNSUITABLE: dict[str, dict[str, Any]] = {
    "untagged_hd.mp4": {"size": (720, 1280)},
    "444.mp4": {"pixel_format": "yuv444p"},
    "stream.ts": {},
    "mirrored.mp4": {"turn": 90, "mirror": True},
}


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_the_device_does_not_read_comes_from_the_cpu(reader: DeviceReader, tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, **UNSUITABLE[name])
    frames = reader.read(path, TIMES_S)
    assert frames.device.type == reader.device
    assert_alike(frames, decode(path, TIMES_S), 0.0)
    assert reader.counts == {"refused": 1, "host": 1}


def test_a_broken_file_has_the_verdict_of_the_cpu(reader: DeviceReader, tmp_path: Path) -> None:
    good = write(tmp_path / "good.mp4")
    data = bytearray(good.read_bytes())
    place = data.index(b"mdat") + 400
    data[place : place + 3000] = bytes(3000)
    damaged, cut, words = tmp_path / "damaged.mp4", tmp_path / "cut.mkv", tmp_path / "words.mp4"
    damaged.write_bytes(data)
    cut.write_bytes(write(tmp_path / "whole.mkv").read_bytes()[:200])
    words.write_text("no video")
    for path in (damaged, cut, words, tmp_path / "missing.mp4"):
        with pytest.raises(VideoError) as ours:
            decode(path, TIMES_S)
        with pytest.raises(VideoError) as theirs:
            reader.read(path, TIMES_S)
        assert (theirs.value.reason, theirs.value.detail) == (ours.value.reason, ours.value.detail)
    assert torch.equal(
        reader.read(good, TIMES_S).cpu(), torch.from_numpy(decode(good, TIMES_S))
    )  # the process still works


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_crashes_or_hangs_costs_no_frame(
    reader: DeviceReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    path = write(tmp_path / "a.mp4")
    other = Path(shutil.copy(path, tmp_path / "b.mp4"))
    before = reader.read(path, TIMES_S)
    process = reader._process
    assert process is not None
    is_usable = process.is_usable
    monkeypatch.setattr(process, "is_usable", lambda: (is_usable(), os.kill(process._process.pid, number))[0])
    with monkeypatch.context() as patience:
        patience.setattr(device_frames, "LIMITS", Limits(idle_s=1))
        assert torch.equal(reader.read(path, TIMES_S), before)  # by the CPU
    assert reader.counts == {"device": 1, "lost": 1, "refused": 1, "host": 1}
    assert torch.equal(reader.read(other, TIMES_S), before)  # by a new process
    assert reader.counts["device"] == 2


def test_the_first_file_of_a_codec_is_checked(reader: DeviceReader, tmp_path: Path) -> None:
    reader._checked_codecs.clear()
    path = write(tmp_path / "a.mp4")
    for _ in range(2):
        reader.read(path, TIMES_S)
    assert reader.counts == {"cross_checked": 1, "device": 2}
    reader.read(write(tmp_path / "b.mp4", **KINDS["h265.mp4"]), TIMES_S)
    assert reader.counts == {"cross_checked": 2, "device": 3}


def test_frames_that_differ_are_not_used(reader: DeviceReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_frames, "is_cross_checked", lambda index: True)
    path = write(tmp_path / "a.mp4")
    expected = decode(path, TIMES_S)
    assert_alike(reader.read(path, TIMES_S), expected, 0.0)
    assert reader.counts == {"cross_checked": 1, "device": 1}
    frames_of = DeviceReader._frames

    def late(self: DeviceReader, path: str, index: Any, positions: Any, size: Any) -> Any:
        return frames_of(self, path, index, positions + 1, size)

    monkeypatch.setattr(DeviceReader, "_frames", late)
    times_s = TIMES_S[:2]
    assert_alike(reader.read(path, times_s), expected[:2], 0.0)
    assert reader.counts == {"cross_checked": 2, "device": 1, "unfit": 1, "refused": 1, "host": 1}


def test_memory_of_frames_is_given_back(reader: DeviceReader, tmp_path: Path) -> None:
    """Tensors live in shared memory, which is free again once nothing refers to them."""
    path = write(tmp_path / "a.mp4")
    before = len(list(Path("/dev/shm").glob("torch_*")))
    for _ in range(20):
        reader.read(path, TIMES_S)
    assert len(list(Path("/dev/shm").glob("torch_*"))) <= before + 1
