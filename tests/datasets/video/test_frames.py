"""Every frame is the right one: however a file is coded and asked for, it equals a plain read from its start."""

import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from steadydancer.datasets.video import VideoError, decode, encode, frame_times_s, probe
from steadydancer.datasets.video import reader as reader_module
from steadydancer.datasets.video.decoders import DecordCursor, PyavCursor
from steadydancer.datasets.video.index import _check_times, read_index
from steadydancer.datasets.video.reader import VideoReader, is_cross_checked
from steadydancer.datasets.video.sampling import sparse_times

NUM_FRAMES = 90
HEIGHT, WIDTH = 64, 96


def moving_noise(num_frames: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth texture that moves: no two frames are alike, and neighbours predict each other."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin(columns / 7 + k / 3) + np.sin(rows / 5 - k / 4) + np.sin((rows + columns) / 11 + k) for k in
             range(num_frames)]  # fmt: skip
    shades = (np.stack(waves) + 3) / 6 * 255
    return np.stack([shades, 255 - shades, np.roll(shades, 9, axis=2)], axis=-1).astype(np.uint8)


def write(
    path: Path,
    codec: str,
    *,
    pixel_format: str = "yuv420p",
    rotation: int = 0,
    pts: list[int] | None = None,
    aspect: Fraction | None = None,
    colour: dict[str, int] | None = None,
    num_frames: int = NUM_FRAMES,
    **options: str,
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixel_format
        if codec != "mpeg2video":  # which knows rates of television only
            stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for name, value in (colour or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation:
            stream.set_display_rotation(rotation)
        for k, pixels in enumerate(moving_noise(num_frames)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = (40 * k if pts is None else pts[k]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut_with_an_edit_list(source: Path, path: Path) -> Path:
    """What `ffmpeg -ss 1.0 -c copy` makes: packets from the key frame on, the first of them before time zero."""
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(video=0) if packet.size]
        start = next(k for k in range(24, len(packets)) if packets[k].is_keyframe)
        zero = sorted(packet.pts for packet in packets[start:])[5]
        for packet in packets[start:]:
            packet.stream, packet.pts, packet.dts = stream, packet.pts - zero, packet.dts - zero
            container.mux(packet)
    return path


def reference(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times [n] from the first frame and all frames, by a plain loop without any of ours."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = list(container.decode(stream))
        times_s = np.array([float(frame.pts * frame.time_base) for frame in frames])
        pictures = [
            np.rot90(frame.reformat(format="rgb24", interpolation="BILINEAR").to_ndarray(), round(frame.rotation / 90))
            for frame in frames
        ]
    return times_s - times_s[0], np.stack(pictures)


VARIABLE = (700 + np.cumsum(np.random.default_rng(0).choice([20, 33, 120], NUM_FRAMES))).tolist()

# name, codec, options, whether decoding may begin in the middle
CODED = [
    ("closed.mp4", "libx264", {"g": "12", "bf": "2"}, True),
    ("closed.mkv", "libx264", {"g": "12", "bf": "2"}, True),
    ("closed.ts", "libx264", {"g": "12", "bf": "2"}, True),
    ("open.mp4", "libx264", {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}, False),
    ("open.mkv", "libx264", {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"}, False),
    ("pyramid.mp4", "libx264", {"x264-params": "bframes=5:b-pyramid=normal:ref=5:keyint=30"}, True),
    ("refresh.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}, False),
    ("one_group.mp4", "libx264", {"g": "300", "sc_threshold": "0"}, False),
    ("all_key.mp4", "libx264", {"g": "1"}, True),
    ("variable.mp4", "libx264", {"g": "12", "pts": VARIABLE}, True),
    ("turned.mov", "libx264", {"g": "12", "rotation": 90}, True),
    ("ten_bits.mp4", "libx264", {"g": "12", "pixel_format": "yuv420p10le"}, True),
    ("full_colour.mp4", "libx264", {"g": "12", "pixel_format": "yuv444p"}, True),
    ("hevc_closed.mp4", "libx265", {"x265-params": "log-level=none:keyint=12:open-gop=0:bframes=3"}, True),
    ("hevc_open.mp4", "libx265", {"x265-params": "log-level=none:keyint=12:min-keyint=12:open-gop=1:bframes=4"}, False),
    ("hevc_default.mp4", "libx265", {"x265-params": "log-level=none:keyint=25"}, False),
    ("hevc_ten_bits.mkv", "libx265",
     {"x265-params": "log-level=none:keyint=12:open-gop=0", "pixel_format": "yuv420p10le"}, True),
    ("vp9.webm", "libvpx-vp9", {"g": "12", "lag-in-frames": "16", "auto-alt-ref": "1", "deadline": "realtime"}, True),
    ("vp8.webm", "libvpx", {"g": "24", "lag-in-frames": "16", "auto-alt-ref": "1", "deadline": "good", "cpu-used": "4",
                            "b": "200k"}, True),
    ("av1.mp4", "libsvtav1", {"g": "16", "preset": "12", "svtav1-params": "irefresh-type=2"}, True),
    ("mpeg4.avi", "mpeg4", {"g": "12"}, False),
    ("mpeg2.mpg", "mpeg2video", {"g": "12", "bf": "2"}, False),
    ("motion.mov", "mjpeg", {"pixel_format": "yuvj420p"}, False),
]  # fmt: skip


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    made = {}

    def make(name: str) -> Path:
        if name not in made:
            _, codec, options, _ = next(entry for entry in CODED if entry[0] == name)
            made[name] = write(folder / name, codec, **options)
        return made[name]

    return make


@pytest.mark.parametrize(("name", "seekable"), [(name, seekable) for name, _, _, seekable in CODED])
def test_every_frame_in_every_order_equals_a_plain_read(coded, name, seekable):
    path = coded(name)
    times_s, expected = reference(path)
    assert len(expected) == NUM_FRAMES
    index = read_index(path)
    np.testing.assert_allclose(index.times_s(), times_s, atol=2e-3)
    assert (index.info.height, index.info.width) == expected.shape[1:3]
    assert (len(index.entries[index.entries > 0]) > 0) == seekable
    size = expected.shape[1:3]
    # each frame as the first one that is asked for
    for position in range(NUM_FRAMES):
        if position % 7 == 0 or position in index.entries or position - 1 in index.entries:
            assert_same(PyavCursor(path, index).picture(position, size), expected[position])
    chance = np.random.default_rng(1)
    reader = VideoReader()
    for positions in (
        np.arange(NUM_FRAMES),
        np.arange(NUM_FRAMES)[::-1],
        chance.permutation(NUM_FRAMES),
        np.linspace(0, NUM_FRAMES - 1, 16).round().astype(int),
    ):
        frames = reader.frames(path, index.times_s()[positions], None).array()
        assert_same(frames, expected[positions])
    for first in range(0, NUM_FRAMES - 20, 20):  # windows, one after another
        assert_same(
            reader.frames(path, index.times_s()[first : first + 20], None).array(), expected[first : first + 20]
        )


@pytest.mark.parametrize(
    ("is_corrupt", "late", "reason", "words"),
    [
        (False, 0, None, ""),
        (True, 0, "corrupt_frames", "frame 4 is damaged"),
        (False, 1, "corrupt_frames", "frame 4 is missing"),
        (False, -1, "vfr_bad_ts", "frame 4 has an earlier timestamp"),
    ],
)
def test_each_decoded_frame_is_held_against_the_index(coded, is_corrupt, late, reason, words):
    """A decoder that leaves a frame out, or gives another one, says nothing of it."""
    index = read_index(coded("all_key.mp4"))
    frames = [SimpleNamespace(is_corrupt=False, pts=int(pts)) for pts in index.pts[2:7]]
    frames[2].is_corrupt, frames[2].pts = is_corrupt, frames[2].pts + late
    checked = PyavCursor(coded("all_key.mp4"), index)._checked(iter(frames), 2)
    if reason is None:
        assert list(checked) == frames
        return
    assert [next(checked), next(checked)] == frames[:2]
    with pytest.raises(VideoError, match=words) as refused:
        next(checked)
    assert refused.value.reason == reason


def test_a_stream_that_ends_early_is_damaged(coded):
    index = read_index(coded("closed.mp4"))
    more = replace(index, pts=np.append(index.pts, index.pts[-1] + 1), info=replace(index.info, num_frames=91))
    cursor = PyavCursor(coded("closed.mp4"), more)
    cursor.picture(89, (32, 48))
    with pytest.raises(VideoError, match="ended after 90 of 91") as refused:
        cursor.picture(90, (32, 48))
    assert refused.value.reason == "corrupt_frames"


def test_packets_of_vp8_that_are_not_shown_are_no_frames(coded, tmp_path):
    """An encoder sends pictures to predict from alone: here one that was to be shown is made such."""
    path = tmp_path / "hidden.webm"
    with av.open(str(coded("vp8.webm"))) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for k, packet in enumerate(packet for packet in given.demux(video=0) if packet.size):
            data = bytearray(bytes(packet))
            data[0] &= 0xFF if k != 30 else 0xEF  # show_frame (RFC 6386, 9.1)
            other = av.Packet(bytes(data))
            other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
            other.stream, other.is_keyframe = stream, packet.is_keyframe
            container.mux(other)
    times_s, expected = reference(path)
    assert len(expected) == NUM_FRAMES - 1
    index = read_index(path)
    assert index.info.num_frames == NUM_FRAMES - 1
    np.testing.assert_allclose(index.times_s(), times_s, atol=2e-3)
    assert_same(VideoReader().frames(path, times_s, None).array(), expected)


@pytest.mark.parametrize(
    ("steps", "decoded", "words"),
    [
        ([0] * 5 + [40] * 95, None, None),  # five of a hundred, and one frame more
        ([0] * 6 + [40] * 94, None, "6 of 101 frames have the same timestamp as another"),
        ([1] * 100, None, None),
        ([1] * 99 + [0], None, "1010 frames per second"),
        ([40] * 99 + [10_000], None, None),
        ([40] * 99 + [10_001], None, "10.0 s between frames 99 and 100"),
        ([200] * 99 + [15_000], None, None),  # seldom pictures are as far from each other
        ([40] * 100, [0, 2000, 1000, 3000], None),
        ([40] * 100, [0, 2000, 999, 3000], "decreases by 1.0 s"),
    ],
)
def test_times_that_are_refused_and_their_bounds(steps, decoded, words):
    pts = np.concatenate([[500], 500 + np.cumsum(steps)]).astype(np.int64)
    packets = [SimpleNamespace(dts=time) for time in (pts.tolist() if decoded is None else decoded)]
    if words is None:
        _check_times(pts, packets, Fraction(1, 1000))
        return
    with pytest.raises(VideoError, match=words) as refused:
        _check_times(pts, packets, Fraction(1, 1000))
    assert refused.value.reason == "vfr_bad_ts"


def assert_same(frames: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(frames.shape, expected.shape)
    # 10 bits: two builds of one scaler dither differently; a neighbouring frame differs by 15 and more
    assert np.abs(np.subtract(frames, expected, dtype=np.int16)).mean() <= 0.5


@pytest.mark.parametrize("name", ["closed.mp4", "hevc_open.mp4", "open.mp4"])
def test_a_cut_that_begins_before_zero(coded, tmp_path, name):
    path = cut_with_an_edit_list(coded(name), tmp_path / "cut.mp4")
    times_s, expected = reference(path)
    index = read_index(path)
    np.testing.assert_allclose(index.times_s(), times_s, atol=1e-3)
    reader = VideoReader()
    for positions in (np.arange(len(expected)), np.arange(len(expected))[::-5]):
        assert_same(reader.frames(path, times_s[positions], None).array(), expected[positions])


def test_a_clip_costs_what_its_group_costs_and_windows_one_pass(coded, monkeypatch):
    decoded = []
    advance = PyavCursor._advance

    def counted(self, target):
        before = self._position
        advance(self, target)
        decoded.append(self._position - before if self._position > before else 1)

    monkeypatch.setattr(PyavCursor, "_advance", counted)
    path = coded("closed.mp4")
    index = read_index(path)
    late = index.entry_before(80)
    assert 60 < late <= 80
    seeks = []
    seek = PyavCursor._seek
    monkeypatch.setattr(PyavCursor, "_seek", lambda self, target: (seeks.append(target), seek(self, target)))
    VideoReader().frames(path, index.times_s()[80:83], None).array()
    assert seeks == [80]
    path = coded("one_group.mp4")
    index, reader = read_index(path), VideoReader()
    seeks.clear()
    decoded.clear()
    for first in range(0, 90, 9):
        reader.frames(path, index.times_s()[first : first + 9 : 2], None).array()
    assert sum(decoded) <= 90 and seeks == []


def test_what_was_asked_before_changes_nothing(coded):
    path = coded("pyramid.mp4")
    index, used = read_index(path), VideoReader()
    chance = np.random.default_rng(2)
    for _ in range(30):
        start = chance.uniform(0, 3)
        times_s = start + np.arange(chance.integers(1, 14)) * chance.choice([0.04, 0.0625, 0.3])
        size = [None, (32, 48), (40, 60)][chance.integers(3)]
        np.testing.assert_array_equal(
            used.frames(path, times_s, size).array(),
            VideoReader().frames(path, times_s, size).array(),
            err_msg=f"{times_s} {size}",
        )
        if chance.random() < 0.2:
            used.low_resolution(path, 0.1, 48)[1].array()
    assert index.info.num_frames == NUM_FRAMES and {"decord", "pyav"} <= used.counts.keys()


def test_a_low_resolution_pass_keeps_what_sparse_scores_ask_for(tmp_path):
    path = tmp_path / "clip.mp4"
    encode(moving_noise(80, 320, 480), path)
    fresh, used = VideoReader(), VideoReader()
    times_s, pictures = used.low_resolution(path, 1 / 16, 60)
    small = pictures.array()
    assert small.shape == (80, 40, 60, 3) and len(times_s) == 80
    np.testing.assert_array_equal(small[20:28], VideoReader().low_resolution(path, 1 / 16, 60)[1].array()[20:28])
    for span in ((0.0, 4.9), (1.1, 3.6), (2.0, 2.25)):
        times_s, pictures = used.sparse(path, *span, 4)
        frames = pictures.array()
        np.testing.assert_array_equal(frames, fresh.sparse(path, *span, 4)[1].array())
        np.testing.assert_array_equal(fresh.sparse(path, *span, 4)[0], times_s)
        assert frames.shape == (len(times_s), 256, 384, 3)
        assert span[0] <= times_s[0] and times_s[-1] <= span[1]
    assert used.counts["kept"] == 2 and fresh.counts["kept"] == 0


def test_sparse_times_are_spread_over_the_span_on_the_grid():
    np.testing.assert_allclose(sparse_times(0, 5, 8), [0, 0.5, 1.5, 2, 3, 3.5, 4.5, 5])
    np.testing.assert_allclose(sparse_times(0.3, 2.8, 8), [0.5, 1, 1.5, 2, 2.5])
    np.testing.assert_allclose(sparse_times(0.55, 0.95, 3), [0.55, 0.75, 0.95])


def test_decord_is_held_against_pyav_and_given_up_where_it_differs(coded, monkeypatch, caplog):
    path = coded("closed.mp4")
    _, expected = reference(path)
    times_s = read_index(path).times_s()
    monkeypatch.setattr(reader_module, "CROSS_CHECKED_SHARE", 1.0)
    honest = VideoReader()
    assert_same(honest.frames(path, times_s, None).array(), expected)
    assert honest.counts == {"cross_checked": 90, "decord": 1}
    picture = DecordCursor.picture
    monkeypatch.setattr(DecordCursor, "picture", lambda self, k: picture(self, k + (k == 60)))  # one frame is another
    reader = VideoReader()
    np.testing.assert_array_equal(reader.frames(path, times_s, None).array(), expected)
    assert reader.counts == {"cross_checked": 61, "decord_refused": 1, "decord_unfit": 1, "pyav": 1}
    np.testing.assert_array_equal(reader.frames(path, times_s[:9], None).array(), expected[:9])
    assert reader.counts["pyav"] == 2 and "decord" not in reader.counts


@pytest.mark.parametrize("size", [None, (46, 70)])
def test_without_decord_pyav_reads_the_same_frames(coded, monkeypatch, size):
    path = coded("closed.mp4")
    times_s = read_index(path).times_s()
    with_decord = VideoReader()
    expected = with_decord.frames(path, times_s, size).array()
    assert with_decord.counts["decord"] == 1
    monkeypatch.setitem(sys.modules, "decord", None)  # as where it is not installed
    reader = VideoReader()
    frames = reader.frames(path, times_s, size).array()
    assert reader.counts == {"pyav": 1}
    assert frames.shape == expected.shape and frames.dtype == expected.dtype
    if size is None:
        np.testing.assert_array_equal(frames, expected)
    difference = np.abs(frames.astype(int) - expected).mean(axis=(1, 2, 3))  # scaled: two builds of one scaler
    to_the_next = np.abs(np.diff(expected.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert difference.max() < to_the_next.min() / 4


def test_the_share_that_is_checked_is_drawn_by_content(tmp_path, monkeypatch):
    one, same, other = (tmp_path / f"{name}.mp4" for name in ("one", "same", "other"))
    encode(moving_noise(5), one)
    encode(moving_noise(5), same)
    encode(moving_noise(6), other)
    drawn = []
    for share in np.linspace(0, 1, 101):
        monkeypatch.setattr(reader_module, "CROSS_CHECKED_SHARE", share)
        drawn.append([is_cross_checked(read_index(path)) for path in (one, same, other)])
    assert all(first == second for first, second, _ in drawn)
    assert 0 < sum(first for first, _, _ in drawn) < 101
    assert any(first != third for first, _, third in drawn)


def test_one_file_of_a_hundred_is_checked(coded):
    index = read_index(coded("closed.mp4"))
    drawn = [is_cross_checked(replace(index, pts=index.pts + k)) for k in range(5000)]
    assert 25 < sum(drawn) < 90


@pytest.mark.parametrize(
    ("pixel_format", "colour", "words"),
    [
        ("yuv420p10le", {"color_trc": 16, "color_primaries": 9, "colorspace": 9}, "10 bits, PQ"),
        ("yuv420p10le", {"color_trc": 18, "color_primaries": 9, "colorspace": 9}, "10 bits, HLG"),
        ("yuv420p10le", {"color_primaries": 9, "colorspace": 9}, "BT.2020"),
        ("yuv420p10le", {"color_trc": 1, "color_primaries": 1, "colorspace": 1}, None),
        ("yuv420p", {"color_primaries": 9, "colorspace": 9}, None),
    ],
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_high_dynamic_range_is_refused(tmp_path, pixel_format, colour, words, name):
    params = {"x265-params": "log-level=none"}
    path = write(tmp_path / name, "libx265", pixel_format=pixel_format, colour=colour, num_frames=5, **params)
    if words is None:
        assert probe(path).num_frames == 5
        return
    for read in (probe, lambda path: VideoReader().frames(path, np.zeros(1), None).array()):
        with pytest.raises(VideoError, match=words) as refused:
            read(path)
        assert refused.value.reason == "unsupported_hdr"


@pytest.mark.parametrize("rotation", [0, 90])
def test_pixels_that_are_not_square_are_made_so(tmp_path, rotation):
    for aspect, shape in ((Fraction(16, 11), (64, 140)), (Fraction(2, 3), (96, 96)), (Fraction(12), (64, 96))):
        path = write(tmp_path / "clip.mp4", "libx264", aspect=aspect, rotation=rotation, num_frames=12)
        info, index = probe(path), read_index(path)
        shape = shape[::-1] if rotation else shape
        assert (info.height, info.width) == shape
        frames = VideoReader().frames(path, index.times_s(), None).array()
        assert frames.shape == (12, *shape, 3)
        turned = np.rot90(moving_noise(12), rotation // 90, axes=(1, 2))
        rows = (np.arange(shape[0]) * turned.shape[1]) // shape[0]
        columns = (np.arange(shape[1]) * turned.shape[2]) // shape[1]
        assert np.abs(frames.astype(int) - turned[:, rows][:, :, columns]).mean() < 8  # stretched, not cut


def bad_times(*pts: int, name: str = "clip.mkv") -> dict:
    return {"name": name, "pts": list(pts), "num_frames": len(pts)}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (bad_times(*range(0, 2400, 40), 10**7), "9997.6 s between frames 59 and 60"),
        (bad_times(*range(0, 40)), None),  # a thousand a second are just possible
        (bad_times(0, 40, 80, 9000, 9040), None),  # nine seconds of nothing new
    ],
)
def test_times_by_which_nothing_can_be_picked(tmp_path, made, words):
    path = write(tmp_path / made.pop("name"), "libx264", bf="0", **made)
    if words is None:
        assert probe(path).num_frames == made["num_frames"]
        return
    with pytest.raises(VideoError, match=words) as refused:
        probe(path)
    assert refused.value.reason == "vfr_bad_ts"


def test_two_recordings_in_one_stream(tmp_path):
    parts = [write(tmp_path / f"{k}.ts", "libx264", bf="0").read_bytes() for k in range(2)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))  # time begins anew in the middle
    with pytest.raises(VideoError) as refused:
        probe(path)
    assert refused.value.reason in ("vfr_bad_ts", "truncated")  # a transport stream counts its packets, too


def test_frames_without_times_follow_the_rate(tmp_path):
    path = tmp_path / "clip.h264"
    with av.open(str(path), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=20, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for pixels in moving_noise(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    info = probe(path)
    assert info.num_frames == 40
    assert info.duration_s == pytest.approx(40 / info.fps)
    assert 10 < info.fps < 60


def test_frames_of_avi_come_in_their_order_though_it_keeps_no_times(tmp_path):
    """With B-frames of H.264 FFmpeg numbers the packets as they lie."""
    shades = np.arange(20, 220, 10)
    with av.open(str(tmp_path / "b.avi"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "3", "b-adapt": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for shade in shades:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8))))
        container.mux(stream.encode(None))
    np.testing.assert_allclose(frame_times_s(tmp_path / "b.avi"), np.arange(20) / 25)
    frames = decode(tmp_path / "b.avi", np.arange(20) / 25)
    assert np.abs(frames.mean(axis=(1, 2, 3)) - shades).max() < 4
    assert abs(decode(tmp_path / "b.avi", np.array([0.4]))[0].mean() - shades[10]) < 4


def test_too_long_is_too_big(tmp_path):
    path = tmp_path / "clip.mp4"
    encode(moving_noise(32), path)
    assert probe(path, max_duration_s=2).duration_s == 2
    for limits in ({"max_duration_s": 1.9}, {"max_pixels": HEIGHT * WIDTH - 1}):
        with pytest.raises(VideoError) as refused:
            probe(path, **limits)
        assert refused.value.reason == "too_big"
    assert probe(path).num_frames == 32  # a refusal is not remembered


@pytest.mark.parametrize(("name", "seekable"), [(name, seekable) for name, _, _, seekable in CODED])
def test_a_key_frame_alone_is_the_frame_on_the_way(coded, name, seekable):
    path = coded(name)
    index, size = read_index(path), (HEIGHT, WIDTH) if name != "turned.mov" else (WIDTH, HEIGHT)
    times_s, pictures = VideoReader().key_frames(path, 1.3 if seekable else 60, 0)
    frames = pictures.array()
    assert len(frames) == (0 if len(index.entries) == 0 else 1 if not seekable else len(times_s))
    if seekable:
        assert len(times_s) >= 2 and np.diff([0, *times_s, index.info.duration_s]).max() <= 1.3
        assert VideoReader().key_frames(path, 0.01, 0)[1].shape[0] == 0
        assert VideoReader().key_frames(path, 1.3, 10**9)[1].shape[0] == 0
    if len(times_s):
        expected = VideoReader().frames(path, times_s, size).array()
        assert_same(frames, expected)


def test_pieces_of_a_pass_are_the_pass_and_keep_the_same_frames(tmp_path):
    path = tmp_path / "clip.mp4"
    encode(moving_noise(80, 64, 96), path)
    once, pieces = VideoReader(), VideoReader()
    times_s, pictures = once.low_resolution(path, 1 / 16, 60)
    small = pictures.array()
    for count in (7, 40, 80, 200):
        read = [pieces.low_resolution(path, 1 / 16, 60, first, count) for first in range(0, 81, count)]
        np.testing.assert_array_equal(np.concatenate([piece.array() for _, piece in read]), small)
        np.testing.assert_array_equal(np.concatenate([times for times, _ in read]), times_s)
        np.testing.assert_array_equal(
            pieces.sparse(path, 0, 4.9, 8)[1].array(), once.sparse(path, 0, 4.9, 8)[1].array()
        )
    assert pieces.counts["kept"] == once.counts["kept"] == 4


def test_pieces_in_their_order_cost_one_pass(tmp_path, monkeypatch):
    path, sought = tmp_path / "clip.mp4", []
    encode(moving_noise(80, 64, 96), path)
    seek = PyavCursor._seek
    monkeypatch.setattr(PyavCursor, "_seek", lambda self, target: (sought.append(target), seek(self, target)))
    reader = VideoReader()
    for first in range(0, 80, 20):
        reader.low_resolution(path, 1 / 16, 60, first, 20)[1].array()
    assert sought == []
