"""Frames by time, faults by name. Counters drawn as grey levels tell which frame came back."""

import csv
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from steadydancer.datasets.video import VideoError, api, decode, decode_low_resolution, encode, frame_times_s, probe
from steadydancer.datasets.video.decoders import DecordCursor, PyavCursor
from steadydancer.datasets.video.index import read_index

GOLDEN = Path(__file__).parents[2] / "golden"
BAD = Path(__file__).parents[4] / "shared" / "bad"


def numbered_frames(num_frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Frame k shows k in six bits, as black and white columns under a white block in the upper left corner."""
    bits = (np.arange(num_frames)[:, None] >> np.arange(6)) & 1
    columns = np.repeat(bits, width // 6, axis=1) * 255
    frames = np.broadcast_to(columns[:, None, :, None], (num_frames, height, width, 3)).astype(np.uint8)
    frames[:, : height // 4] = 0
    frames[:, : height // 4, : width // 4] = 255
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    height, width = frames.shape[1:3]
    centres = (np.arange(6) * 2 + 1) * width // 12
    bits = frames[:, height * 5 // 8, centres].mean(axis=-1) > 128
    return (bits @ (1 << np.arange(6))).tolist()


def write(path: Path, frames: np.ndarray, codec: str = "libx264", pts=None, rotation: int = 0, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (40 * k if pts is None else pts[k]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    encode(numbered_frames(40), path, fps=20)
    return path


def test_probe_says_what_was_written(clip):
    info = probe(clip)
    assert (info.codec, info.width, info.height, info.rotation_deg) == ("h264", 96, 64, 0)
    assert (info.num_frames, info.pixel_format) == (40, "yuv420p")
    assert info.fps == pytest.approx(20)
    assert info.duration_s == pytest.approx(2)
    np.testing.assert_allclose(frame_times_s(clip), np.arange(40) / 20, atol=1e-9)


def test_the_frame_shown_at_each_time_in_any_order(clip):
    times_s = np.array([1.0, 0.0, 0.049, 0.05, 1.0, 1.99, 7.0])
    assert numbers(decode(clip, times_s)) == [20, 0, 0, 1, 20, 39, 39]


def test_16_of_24_frames_a_second(tmp_path):
    path = write(tmp_path / "clip.mp4", numbered_frames(48), pts=[round(k * 1000 / 24) for k in range(48)])
    assert numbers(decode(path, np.arange(32) / 16)) == [k * 3 // 2 for k in range(32)]


def test_times_count_not_positions_when_the_rate_varies(tmp_path):
    gaps = np.random.default_rng(0).choice([20, 33, 120], 39)
    pts = 500 + np.concatenate([[0], np.cumsum(gaps)])  # and the first frame is not at 0
    path = write(tmp_path / "clip.mp4", numbered_frames(40), pts=pts.tolist())
    times_s = (pts - pts[0]) / 1000
    np.testing.assert_allclose(frame_times_s(path), times_s, atol=1e-3)
    assert numbers(decode(path, times_s + 0.01)) == list(range(40))
    grid = np.arange(0, times_s[-1], 0.0625)
    expected = [int(np.flatnonzero(times_s <= t + 1e-3)[-1]) for t in grid]
    assert numbers(decode(path, grid)) == expected


@pytest.mark.parametrize("options", [{"g": "12"}, {"x264-params": "open-gop=1:bframes=3:keyint=12"}])
def test_sparse_times_on_long_and_open_groups(tmp_path, options):
    path = write(tmp_path / "clip.mp4", numbered_frames(60), **options)
    wanted = [3, 13, 14, 29, 41, 58]
    assert numbers(decode(path, np.array(wanted) / 25)) == wanted


@pytest.mark.parametrize("size", [(64, 96), (46, 70), (128, 192)])
def test_decord_and_pyav_agree(clip, size):
    index = read_index(clip)
    decord, pyav = DecordCursor(clip, index, size), PyavCursor(clip, index)
    by_decord = np.stack([decord.picture(k) for k in range(40)])
    by_pyav = np.stack([pyav.picture(k, size) for k in range(40)])
    assert numbers(by_decord) == list(range(40))
    # not scaled: the same pixels; scaled: two builds of one scaler
    assert np.abs(by_decord.astype(int) - by_pyav).mean() < (1e-9 if size == (64, 96) else 1)


@pytest.mark.parametrize("width", [16, 24, 32, 36, 44, 48, 52, 100])
def test_narrow_frames_are_right(clip, width):
    frames = decode(clip, np.arange(40) / 20, 64, width)  # dense: decord's, were it not for the rows that it pads
    assert numbers(frames) == list(range(40))
    assert numbers(decode(clip, np.array([0.0, 0.5, 1.5]), 64, width)) == [0, 10, 30]
    assert (frames[:, :12, : width // 5] > 200).all()  # the white block is where it was
    assert (frames[:, :12, width // 3 :] < 50).all()


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_frames_come_upright(tmp_path, turn):
    stored = numbered_frames(5)
    path = write(tmp_path / "clip.mp4", stored, rotation=turn)
    shown = np.rot90(stored, turn // 90, axes=(1, 2))  # a display matrix turns counterclockwise
    info = probe(path)
    assert (info.height, info.width) == shown.shape[1:3]
    size, index = (info.height, info.width), read_index(path)
    decord, pyav = DecordCursor(path, index, size), PyavCursor(path, index)
    for k in range(5):  # a wrong turn gives more than 30
        assert np.abs(decord.picture(k).astype(int) - shown[k]).mean() < 4
        assert np.abs(pyav.picture(k, size).astype(int) - shown[k]).mean() < 4


def test_low_resolution_pass(clip):
    times_s, frames = decode_low_resolution(clip, every_s=0.5, max_side=48)
    np.testing.assert_allclose(times_s, [0, 0.5, 1, 1.5])
    assert frames.shape == (4, 32, 48, 3)
    assert numbers(frames) == [0, 10, 20, 30]
    assert decode_low_resolution(clip, every_s=1, max_side=500)[1].shape[1:] == (64, 96, 3)


def test_a_name_that_is_no_text_and_one_that_lies(clip):
    strange = Path(os.fsdecode(os.fsencode(clip.parent) + b"/\xff\xfe %03d.jpg"))
    clip.rename(strange)
    assert probe(strange).num_frames == 40
    assert numbers(decode(strange, np.array([0.5]))) == [10]


def test_what_decord_cannot_open_pyav_reads(tmp_path):
    path = write(tmp_path / "clip.mkv", numbered_frames(12), codec="libsvtav1")
    assert numbers(decode(path, np.array([0.2, 0.4]), 32, 48)) == [5, 10]


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(VideoError) as probed:
        probe(path)
    assert probed.value.reason == reason
    assert probed.value.detail
    with pytest.raises(VideoError) as decoded:
        decode(path, np.array([0.0]))
    assert decoded.value.reason == reason


def test_not_a_file_that_can_be_read(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("<html>not found</html>\n" * 50)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("empty", "text", "folder", "dangling", "pipe", "absent"):
        assert_refused(tmp_path / f"{name}.mp4", "unreadable")


def test_a_playlist_does_not_open_other_files(clip):
    playlist = clip.with_name("list.mp4")
    playlist.write_text(f"ffconcat version 1.0\nfile {clip.name}\n")
    assert_refused(playlist, "unreadable")


def test_a_picture_is_no_video(tmp_path):
    for suffix in (".jpg", ".png", ".webp"):
        picture = tmp_path / f"picture{suffix}"
        cv2.imwrite(str(picture), numbered_frames(1)[0])
        assert_refused(picture.rename(tmp_path / f"{suffix[1:]}.mp4"), "no_video")


def test_sound_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for k in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert_refused(path, "no_video")


def test_half_a_file_is_truncated_and_one_without_its_index_unreadable(clip, tmp_path):
    whole = clip.read_bytes()
    half = tmp_path / "half.mp4"
    for num_bytes in (len(whole) // 2, len(whole) * 3 // 4, len(whole) - 1):
        half.write_bytes(whole[:num_bytes])
        assert_refused(half, "truncated")
    with av.open(str(clip)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    half.write_bytes(whole[: ends[20]])  # exactly between two packets
    assert_refused(half, "truncated")
    index_last = write(tmp_path / "plain.mp4", numbered_frames(40)).read_bytes()
    half.write_bytes(index_last[: len(index_last) // 2])
    assert_refused(half, "unreadable")


def test_damage_in_the_middle_is_named_by_decoding(clip, tmp_path):
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    start, size = packets[20]
    data[start : start + size] = b"\xff" * size
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    assert probe(broken).num_frames == 40
    with pytest.raises(VideoError) as refused:
        decode(broken, frame_times_s(broken))
    assert refused.value.reason == "corrupt_frames"


def test_too_many_pixels_are_refused_before_decoding(clip):
    assert probe(clip, max_pixels=64 * 96).width == 96
    with pytest.raises(VideoError) as refused:
        probe(clip, max_pixels=64 * 96 - 1)
    assert refused.value.reason == "too_big"


def test_encoding_is_faithful_repeatable_and_carries_metadata(tmp_path):
    rows, columns = np.mgrid[0:64, 0:96]
    frames = np.stack([np.stack([3 * rows + k, 2 * columns, 200 - rows - 4 * k], -1) for k in range(8)]).astype(
        np.uint8
    )
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    for path in (first, second):
        encode(frames, path, fps=Fraction(30000, 1001), metadata={"prompt": "ein Tanz 舞", "steadydancer_seed": "7"})
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.mp4", "second.mp4"]
    with av.open(str(first)) as container:
        assert container.metadata["prompt"] == "ein Tanz 舞"
        assert container.metadata["steadydancer_seed"] == "7"
    assert probe(first).fps == pytest.approx(30000 / 1001, rel=1e-4)
    error = decode(first, frame_times_s(first)).astype(float) - frames
    assert np.sqrt((error**2).mean()) < 3


def test_encoding_refuses_what_it_cannot_write_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="even sides, not height 63"):
        encode(np.zeros((2, 63, 96, 3), np.uint8), tmp_path / "odd.mp4")
    with pytest.raises(ValueError, match="uint8"):
        encode(np.zeros((2, 64, 96, 3), np.float32), tmp_path / "float.mp4")
    with pytest.raises(ValueError, match="uint8"):
        encode(np.zeros((0, 64, 96, 3), np.uint8), tmp_path / "none.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_is_killed_leaves_nothing_that_looks_whole(tmp_path):
    code = (
        "import os, sys, numpy as np\nfrom steadydancer.datasets.video import encode\n"
        "class Frames(np.ndarray):\n"
        "    def __iter__(self):\n        yield np.zeros((64, 96, 3), np.uint8)\n        os._exit(9)\n"
        "encode(np.zeros((50, 64, 96, 3), np.uint8).view(Frames), sys.argv[1])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "clip.mp4")], capture_output=True, check=False)
    assert ended.returncode == 9, ended.stderr
    assert list(tmp_path.glob("*.mp4")) == []


def test_sizes_equal_the_release():
    with (GOLDEN / "resolution.csv").open() as file:
        rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) >= 35
    for row in rows:
        size = api.size_for_area(row["img_h"], row["img_w"], row["max_area"])
        assert size == (row["out_h"], row["out_w"]), row


# What each file of the collection of bad videos must end in: a reason, or how many frames it shows.
EXPECTED = {
    "zero.mp4": "unreadable",
    "truncated_no_moov.mp4": "unreadable",
    "text.mp4": "unreadable",
    "directory.mp4": "unreadable",
    "dangling.mp4": "unreadable",
    "jpeg_named.mp4": "no_video",
    "audio_only.mp4": "no_video",
    "truncated_half.mp4": "truncated",
    "decord_corrupted.mp4": "corrupt_frames",
    "really_mp4.mkv": 48,
    "one_frame.mp4": 1,
    "one_frame.gif": 1,
    "vfr.mp4": 48,
    "h264_10bit.mp4": 48,
    "yuv444.mp4": 48,
    "odd_size.mp4": 48,
    "tiny_32.mp4": 48,
    "name with space 舞蹈.mp4": 48,
    "rot_90.mov": 3,
    "rot_180.mov": 3,
    "rot_270.mov": 3,
    "decord_unordered.mov": 4,
    "h265_10bit.mp4": 30,
    "av1.mkv": 125,
    "delayed_start.mp4": 24,
    "counter_cuts.mp4": 30,
    "vfr_film.mp4": 160,
    "uhd_4k.mp4": 120,
    "rot_film.mp4": 240,
}


@pytest.mark.skipif(not BAD.is_dir(), reason="the collection of bad videos is not beside the checkout")
def test_the_collection_of_bad_videos(tmp_path):
    (tmp_path / "directory.mp4").mkdir()
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "nowhere")
    with (BAD / "manifest.tsv").open() as file:
        names = [row["file"] for row in csv.DictReader(file, delimiter="\t")]
    outcomes = {}
    for name in names:
        path = BAD / name if os.path.lexists(BAD / name) else tmp_path / name
        try:
            times_s = frame_times_s(path)
            outcomes[name] = len(times_s)
            last = min(len(times_s), 40)
            assert decode(path, times_s[:last], 48, 64).shape == (last, 48, 64, 3)
        except VideoError as error:
            outcomes[name] = error.reason
    assert outcomes == {name: EXPECTED[name] for name in names}
    assert (probe(BAD / "rot_90.mov").height, probe(BAD / "rot_90.mov").width) == (568, 320)
    # its colour changes every ten frames, at ten frames a second
    _, frames = decode_low_resolution(BAD / "counter_cuts.mp4", 0.1, 64)
    change = np.abs(np.diff(frames.astype(float), axis=0)).mean(axis=(1, 2, 3))
    assert sorted(np.argsort(change)[-2:] + 1) == [10, 20]
