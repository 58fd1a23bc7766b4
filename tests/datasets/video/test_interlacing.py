"""Interlaced video comes as frames of one moment each; what is only flagged so, as it is."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from steadydancer.datasets.video import (
    VideoError,
    decode,
    decode_key_frames,
    decode_low_resolution,
    frame_times_s,
    probe,
)
from steadydancer.datasets.video.index import read_index
from steadydancer.datasets.video.interlacing import _field_order
from steadydancer.datasets.video.reader import VideoReader
from steadydancer.datasets.video.stream_headers import h264_fields_possible

HEIGHT, WIDTH, FRAMES = 96, 128, 30


def moments(count: int = 2 * FRAMES, speed: float = 3.0) -> np.ndarray:
    """A grey texture that moves from field to field: [n, H, W, 3]."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    shades = [
        128 + 60 * np.sin((columns - speed * k) / 6) + 40 * np.sin((columns + rows / 2 - speed * k) / 11)
        for k in range(count)
    ]
    return np.repeat(np.rint(np.stack(shades)).astype(np.uint8)[..., None], 3, axis=3)


def woven(fields: np.ndarray, top_first: bool = True) -> np.ndarray:
    frames = fields[0::2].copy()
    later = 1 if top_first else 0
    frames[:, later::2] = fields[1::2][:, later::2]
    return frames


def write(path: Path, frames: np.ndarray, codec: str = "libx264", pixel_format: str = "yuv420p", **options) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def flags(order: str = "tff", more: str = "") -> dict[str, str]:
    return {"x264-params": f"{order}=1:interlaced=1{more}", "qp": "4", "preset": "veryfast"}


CODED = [
    ("clip.mp4", "libx264", "yuv420p", flags(more=":keyint=10"), True),
    ("clip.mp4", "libx264", "yuv420p", flags(), False),  # its flags say the other order
    ("clip.ts", "libx264", "yuv420p", flags("bff"), False),
    ("clip.mpg", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme", "qscale": "2", "qmin": "1", "b": "20M"}, True),
    ("clip.mov", "prores_ks", "yuv422p10le", {"flags": "+ildct+ilme"}, False),
]


@pytest.mark.parametrize(("name", "codec", "pixel_format", "options", "top_first"), CODED)
def test_each_frame_is_of_one_moment(tmp_path, name, codec, pixel_format, options, top_first):
    fields = moments()
    path = write(tmp_path / name, woven(fields, top_first), codec, pixel_format, **options)
    info = probe(path)
    assert info.deinterlaced and info.geometry_changed_by_pictures_2
    assert info.num_frames == FRAMES and info.fps == pytest.approx(25)
    times_s = frame_times_s(path)
    np.testing.assert_allclose(np.diff(times_s), 0.04, atol=1e-3)
    frames = decode(path, times_s).astype(int)
    assert frames.shape == (FRAMES, HEIGHT, WIDTH, 3)
    errors = np.abs(frames - fields[0::2]).mean(axis=(1, 2, 3))
    assert errors[1:-1].max() < 4, errors
    # the field that came first is left as it is
    kept = 0 if top_first else 1
    assert np.abs(frames[1:-1, kept::2] - fields[0::2][1:-1, kept::2]).mean() < 2.5
    assert np.abs(woven(fields, top_first) - fields[0::2].astype(int)).mean() > 9
    # small frames are made of whole ones, and what is asked for alone is what comes on the way
    small = decode_low_resolution(path, 0.04, 128)[1]
    np.testing.assert_array_equal(small, frames)
    for k in (0, 7, 10, 11, 20, 29):  # 10 and 20 are key frames of some: what lies before them counts, too
        np.testing.assert_array_equal(VideoReader().frames(path, times_s[[k]], None).array()[0], frames[k])
    assert len(decode_key_frames(path, 60, 0)[0]) == 0
    used = VideoReader()
    used.frames(path, times_s, None).array()
    assert used.counts == {"pyav": 1}


@pytest.mark.parametrize(("name", "codec", "pixel_format", "options", "_"), CODED)
def test_progressive_frames_that_are_flagged_stay_as_they_are(tmp_path, name, codec, pixel_format, options, _):
    """Broadcast and discs flag films, too; a deinterlacer would take half of their lines."""
    path = write(tmp_path / name, moments()[0::2], codec, pixel_format, **options)
    with av.open(str(path)) as container:
        stored = list(container.decode(video=0))
        assert all(frame.interlaced_frame for frame in stored)
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in stored])
    assert not probe(path).deinterlaced
    np.testing.assert_array_equal(decode(path, frame_times_s(path)[::-1])[::-1], expected)


def test_film_that_was_spread_over_fields_is_woven_in_two_frames_of_five(tmp_path):
    film = moments(48)[::2]
    fields = np.stack([film[k // 5 * 2 + (k % 5 >= 2)] for k in range(60)])  # two fields, three fields
    path = write(tmp_path / "clip.mp4", woven(fields), **flags())
    assert probe(path).deinterlaced
    errors = np.abs(decode(path, np.arange(24) / 25).astype(int) - fields[0:48:2]).mean(axis=(1, 2, 3))
    assert errors[1:].max() < 5


def test_a_still_picture_is_not_changed_by_its_flags(tmp_path):
    still = np.repeat(moments(1), 20, axis=0)
    path = write(tmp_path / "clip.mp4", still, **flags())
    assert np.abs(decode(path, np.arange(20) / 25).astype(int) - still).mean() < 1


def test_a_frame_that_is_sought_is_made_with_the_one_before(tmp_path):
    """Motion ends at the key frame: that it moved is seen in the frame before alone."""
    fields = moments()[np.minimum(np.arange(2 * FRAMES), 40)]
    path = write(tmp_path / "clip.mp4", woven(fields), **flags(more=":keyint=10:scenecut=0:bframes=0"))
    index = read_index(path)
    assert index.entries.tolist() == [0, 10, 20]
    frames = VideoReader().frames(path, index.times_s(), None).array()
    for k in (9, 10, 19, 20, 21):
        alone = VideoReader().frames(path, index.times_s()[[k]], None).array()[0]
        np.testing.assert_array_equal(alone, frames[k])


@pytest.mark.parametrize(
    ("tff", "bff", "progressive", "options"),
    [
        (5, 0, 20, "parity=tff:deint=interlaced"),  # a fifth of what can be told
        (5, 0, 21, ""),
        (0, 2, 0, "parity=bff:deint=interlaced"),
        (1, 0, 0, ""),  # one frame is chance
        (0, 0, 3, ""),
        (0, 0, 0, "parity=auto:deint=interlaced"),  # nothing moves: as it says
        (9, 1, 0, "parity=tff:deint=interlaced"),
        (6, 4, 0, "parity=auto:deint=interlaced"),  # the order changes
    ],
)
def test_what_is_made_of_what_moves(tmp_path, monkeypatch, tff, bff, progressive, options):
    votes = iter(["tff"] * tff + ["bff"] * bff + ["progressive"] * progressive)
    monkeypatch.setattr("steadydancer.datasets.video.interlacing._field_order", lambda *three: next(votes, None))
    assert read_index(write(tmp_path / "clip.mp4", moments(30), **flags())).deinterlacing == options


def test_fields_are_told_by_three_frames():
    fields = moments(12)
    grey = fields[..., 0].astype(np.int16)
    for frames, expected in (
        (woven(fields)[..., 0], "tff"),
        (woven(fields, top_first=False)[..., 0], "bff"),
        (fields[0::2, ..., 0], "progressive"),
        (np.repeat(fields[:1, ..., 0], 6, axis=0), None),
    ):
        assert {_field_order(*frames.astype(np.int16)[k : k + 3]) for k in range(4)} == {expected}
    assert _field_order(*grey[[0, 2, 5]]) == "progressive"  # what speeds up is no field


def test_an_unflagged_file_is_not_looked_at(tmp_path, monkeypatch):
    def never(*arguments):
        raise AssertionError("frames were decoded to look for fields")

    monkeypatch.setattr("steadydancer.datasets.video.interlacing._samples", never)
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx265"), ("a.webm", "libvpx-vp9")):
        options = {"x265-params": "log-level=none"} if codec == "libx265" else {"preset": "veryfast"}
        options = {"deadline": "realtime"} if codec == "libvpx-vp9" else options
        assert read_index(write(tmp_path / name, moments(8), codec, **options)).deinterlacing == ""


def test_fields_that_begin_behind_whole_frames(tmp_path):
    """A programme after a progressive title: the first frame says nothing of it."""
    fields = moments(80)
    head = write(tmp_path / "head.ts", np.repeat(moments(1), 30, axis=0), bf="0", preset="veryfast")
    rest = write(tmp_path / "rest.ts", woven(fields), bf="0", **flags())
    path = tmp_path / "both.ts"
    with av.open(str(path), "w") as container:
        stream, after = None, 0
        for part in (head, rest):
            with av.open(str(part)) as given:
                stream = stream or container.add_stream_from_template(given.streams.video[0])
                for packet in [packet for packet in given.demux(video=0) if packet.size]:
                    packet.stream, packet.pts, packet.time_base = stream, after, Fraction(1, 25)
                    packet.dts, after = packet.pts, after + 1
                    container.mux(packet)
    assert probe(path).deinterlaced
    frames = decode(path, np.arange(70) / 25).astype(int)
    assert np.abs(frames[32:-1] - fields[0::2][2:-1]).mean() < 4
    assert np.abs(frames[:28] - moments(1)).mean() < 3


def test_single_fields_of_hevc_are_refused(tmp_path):
    path = tmp_path / "clip.mp4"
    write(path, moments(8), "libx265", **{"x265-params": "log-level=none:interlace=tff"})
    with pytest.raises(VideoError, match="one field per picture") as refused:
        probe(path)
    assert refused.value.reason == "interlaced"


@pytest.mark.parametrize("profile", ["baseline", "main", "high", "high10", "high422", "high444"])
@pytest.mark.parametrize("size", [(64, 96), (90, 130), (720, 1280)])
def test_the_parameters_of_h264_say_whether_fields_are_possible(tmp_path, profile, size):
    kind = {"high10": "yuv420p10le", "high422": "yuv422p", "high444": "yuv444p"}.get(profile, "yuv420p")
    frames = np.full((2, *size, 3), 90, np.uint8)
    for params, fields in (("", False), (":interlaced=1", True), (":fake-interlaced=1", True), (":cqm=jvt", False)):
        if (profile == "baseline" and params) or (profile == "main" and "cqm" in params) or (size[0] == 90 and params):
            continue  # the encoder takes no such thing
        for suffix in (".mp4", ".h264"):
            path = write(
                tmp_path / f"clip{suffix}", frames, pixel_format=kind, profile=profile, preset="ultrafast",
                **{"x264-params": f"ref=2{params}"},
            )  # fmt: skip
            with av.open(str(path)) as container:
                header = container.streams.video[0].codec_context.extradata
            assert h264_fields_possible(header) == fields, (params, suffix)
    assert not h264_fields_possible(b"")
