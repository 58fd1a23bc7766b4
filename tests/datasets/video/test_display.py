"""What players show of a file is what comes: its turn, mirror, transparency and aspect, by either decoder."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from steadydancer.datasets.video import VideoError, decode, decode_key_frames, decode_low_resolution, probe
from steadydancer.datasets.video.index import read_index
from steadydancer.datasets.video.info import VideoInfo
from steadydancer.datasets.video.reader import VideoReader

ONE = 1 << 16
COLOURS = np.array([[200, 30, 40], [30, 180, 60], [40, 60, 200], [230, 200, 40], [224, 172, 140], [128, 128, 128]])


def corners(height: int = 48, width: int = 80) -> np.ndarray:
    """Four quarters of four colours and a bar at the top: no turn and no mirror of it is alike."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = COLOURS[0], COLOURS[1]
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = COLOURS[2], COLOURS[3]
    picture[: height // 6, width // 4 :] = COLOURS[5]
    return picture


def all_ways(path: Path, num_frames: int) -> list[np.ndarray]:
    """One frame of a file as every way of reading gives it, at its full size."""
    info = probe(path)
    times_s = np.arange(num_frames) / 25
    ways = [decode(path, times_s)[1], decode(path, times_s[[3, 1]])[0]]
    ways.append(decode_low_resolution(path, 1 / 25, max(info.height, info.width))[1][1])
    ways += list(decode_key_frames(path, 60, 0)[1][:1])
    return ways


def test_a_turn_and_a_mirror_in_every_combination(tmp_path, write):
    picture = corners()
    for suffix in (".mp4", ".mkv", ".mov"):
        for turn in (0, 90, 180, 270):
            for mirror in (False, True):
                path = tmp_path / f"{turn}{mirror}{suffix}"
                write(path, [picture] * 12, setup=lambda s, a=turn, m=mirror: s.set_display_rotation(a, hflip=m))
                shown = np.rot90(picture, turn // 90)  # a display matrix turns counterclockwise,
                shown = shown[:, ::-1] if mirror else shown  # and mirrors after it
                info = probe(path)
                assert (info.height, info.width, info.mirrored) == (*shown.shape[:2], mirror)
                # ours: the mirror first, then a clockwise turn
                ours = np.rot90(picture[:, ::-1] if mirror else picture, -info.rotation_deg // 90)
                np.testing.assert_array_equal(ours, shown)
                for way in all_ways(path, 12):
                    assert way.shape == shown.shape
                    assert np.abs(way.astype(int) - shown).mean() < 5, (suffix, turn, mirror)


def with_matrix(source: Path, path: Path, *matrix: int) -> Path:
    """The same mp4 with another matrix in its track header."""
    data = bytearray(source.read_bytes())
    place = data.find(struct.pack(">9i", ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), data.find(b"tkhd"))
    a, b, c, d = matrix
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def test_matrices_of_any_scale_and_of_no_right_angle(tmp_path, write):
    picture = corners()
    source = write(tmp_path / "clip.mp4", [picture] * 9)
    half, cos, sin = ONE // 2, round(ONE * np.cos(0.7)), round(ONE * np.sin(0.7))
    for matrix, shown in {
        (-ONE, 0, 0, ONE): picture[:, ::-1],
        (ONE, 0, 0, -ONE): picture[::-1],
        (-ONE, 0, 0, -ONE): picture[::-1, ::-1],
        (0, ONE, ONE, 0): picture.transpose(1, 0, 2),
        (0, -ONE, -ONE, 0): picture[::-1, ::-1].transpose(1, 0, 2),
        (-half, 0, 0, half): picture[:, ::-1],
        (0, 2 * ONE, -2 * ONE, 0): np.rot90(picture, -1),
        (ONE, 300, -300, ONE): picture,  # a quarter of a degree
        (0, 0, 0, 0): picture,
    }.items():
        path = with_matrix(source, tmp_path / "other.mp4", *matrix)
        for way in all_ways(path, 9):
            assert np.abs(way.astype(int) - shown).mean() < 5, matrix
    for matrix in ((cos, sin, -sin, cos), (ONE, ONE // 3, 0, ONE)):  # turned by 40°, and sheared
        path = with_matrix(source, tmp_path / "other.mp4", *matrix)
        with pytest.raises(VideoError, match="right angles") as refused:
            probe(path)
        assert refused.value.reason == "unsupported_orientation"


@pytest.mark.parametrize("orientation", ["rotate=90", "flip=horizontal", "flip=vertical", "rotate=90:flip=vertical"])
def test_an_orientation_in_the_stream_holds_for_all_frames(tmp_path, orientation, write):
    """It comes as a message beside the first frame only (ISO/IEC 14496-10, D.2.27): flip first, then turn."""
    picture = corners()
    source, path = write(tmp_path / "clip.mp4", [picture] * 12, g="5"), tmp_path / "orientation.mp4"
    with av.open(str(source)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        insert = BitStreamFilterContext(
            f"h264_metadata=display_orientation=insert:{orientation}", given.streams.video[0]
        )
        for packet in [packet for packet in given.demux(video=0) if packet.size]:
            for out in insert.filter(packet):
                out.stream = stream
                container.mux(out)
    shown = picture[:, ::-1] if "horizontal" in orientation else picture[::-1] if "vertical" in orientation else picture
    shown = np.rot90(shown) if "rotate" in orientation else shown
    frames = decode(path, np.arange(12) / 25)
    assert frames.shape == (12, *shown.shape)
    assert np.abs(frames.astype(int) - shown).mean(axis=(1, 2, 3)).max() < 5
    assert np.abs(decode(path, np.array([0.4]))[0].astype(int) - shown).mean() < 5  # after a seek


def test_transparency_is_laid_on_white(tmp_path, write):
    picture = corners(48, 80)
    alpha = np.full((48, 80, 1), 255, np.uint8)
    alpha[:, :40], alpha[24:, :40] = 0, 128
    frames = [np.dstack([picture, alpha])] * 9
    expected = np.rint(picture * (alpha / 255) + 255 * (1 - alpha / 255)).astype(int)
    for name, codec, kind, options in (
        ("a.mov", "png", "rgba", {}),
        ("a.mov", "qtrle", "argb", {}),
        ("a.mov", "prores_ks", "yuva444p10le", {}),
        ("a.mkv", "ffv1", "yuva444p", {}),
        ("a.webm", "libvpx-vp9", "yuva420p", {"crf": "4", "b": "0", "deadline": "realtime"}),
        ("a.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0", "b": "2M", "deadline": "realtime"}),
    ):
        path = write(tmp_path / name, frames, codec=codec, pixel_format=kind, **options)
        info = probe(path)
        assert info.transparent and info.changed_by_pictures_2 == ("transparent",), codec
        for way in all_ways(path, 9):
            far = np.ones((48, 80), bool)
            far[22:26], far[:, 38:42], far[6:10] = False, False, False  # half the chroma at the edges
            assert np.abs(way.astype(int) - expected)[far].max() <= (0 if kind in ("rgba", "argb") else 9), codec
        assert decode(path, np.zeros(1), 24, 40).shape == (1, 24, 40, 3)
        assert (decode(path, np.zeros(1), 24, 40)[0, 4:10, 2:16] >= 250).all()


def test_a_name_in_capitals_tells_of_alpha_packets_too(tmp_path, write):
    """`-metadata:s:v alpha_mode=1`, as such files are made by the thousand, comes back as ALPHA_MODE."""
    frames = [np.dstack([corners(48, 80), np.zeros((48, 80), np.uint8)])] * 9

    def setup(stream):
        stream.metadata["alpha_mode"] = "1"

    options = {"crf": "4", "b": "0", "deadline": "realtime"}
    path = write(tmp_path / "a.webm", frames, "libvpx-vp9", setup, "yuva420p", **options)
    with av.open(str(path)) as container:
        assert "alpha_mode" not in container.streams.video[0].metadata
    assert probe(path).transparent
    for way in all_ways(path, 9):
        assert way.min() >= 250


def test_the_fourth_byte_of_avi_hides_nothing_where_nobody_wrote_it(tmp_path, write):
    picture, alpha = corners(48, 80), np.zeros((48, 80), np.uint8)
    path = write(tmp_path / "a.avi", [np.dstack([picture, alpha])] * 9, "rawvideo", pixel_format="bgra")
    assert not probe(path).transparent
    for way in all_ways(path, 9):
        np.testing.assert_array_equal(way, picture)
    alpha[:, :40] = 255
    path = write(tmp_path / "b.avi", [np.dstack([picture, alpha])] * 9, "rawvideo", pixel_format="bgra")
    assert probe(path).transparent
    for way in all_ways(path, 9):
        np.testing.assert_array_equal(way[:, :40], picture[:, :40])
        assert (way[:, 40:] == 255).all()


def test_a_gif_has_its_transparent_places_white_and_the_rest_as_it_was(tmp_path):
    from PIL import Image

    picture = corners(48, 80)
    indexed = [Image.fromarray(np.roll(picture, 8 * k, axis=1)).quantize(8) for k in range(3)]
    indexed[0].save(tmp_path / "opaque.gif", save_all=True, append_images=indexed[1:], duration=40, loop=0)
    first = np.asarray(indexed[0].convert("RGB"))
    np.testing.assert_array_equal(decode(tmp_path / "opaque.gif", np.zeros(1))[0], first)
    hole = int(np.asarray(indexed[0])[40, 10])
    indexed[0].save(
        tmp_path / "hole.gif", save_all=True, append_images=indexed[1:], duration=40, transparency=hole, disposal=2
    )
    frame = decode(tmp_path / "hole.gif", np.zeros(1))[0]
    assert (frame[40, 10] == 255).all()
    np.testing.assert_array_equal(frame[:20], first[:20])


def joined(path: Path, parts: list[Path]) -> Path:
    """Packets of several files in one stream, each with its own headers, times going on."""
    with av.open(str(path), "w") as container:
        stream, after = None, 0
        for part in parts:
            with av.open(str(part)) as given:
                stream = stream or container.add_stream_from_template(given.streams.video[0])
                for k, packet in enumerate(packet for packet in given.demux(video=0) if packet.size):
                    packet.stream, packet.pts = stream, after + k
                    packet.dts, packet.time_base = packet.pts, Fraction(1, 25)
                    container.mux(packet)
            after += k + 1
    return path


def part(write, path: Path, height: int, width: int, aspect: Fraction | None = None, codec: str = "libx264") -> Path:
    def setup(stream):
        stream.codec_context.sample_aspect_ratio = aspect or Fraction(1)

    frames = [np.roll(corners(height, width), k, axis=1) for k in range(15)]
    options = {"x264-params": "repeat-headers=1:annexb=1", "bf": "0"} if codec == "libx264" else {"bf": "0"}
    return write(path, frames, codec=codec, setup=setup, **options)


@pytest.mark.parametrize("name", ["both.ts", "both.mkv", "both.mp4"])
def test_another_scale_inside_a_stream_is_read_on_and_another_aspect_refused(tmp_path, name, write):
    first = part(write, tmp_path / "a.ts", 96, 160)
    other = part(write, tmp_path / "b.ts", 48, 80)
    path = joined(tmp_path / name, [first, other])
    assert not read_index(path).suits_decord
    frames = decode(path, np.arange(30) / 25)
    assert frames.shape == (30, 96, 160, 3)
    expected = np.stack([np.roll(corners(96, 160), k * (1 if k < 15 else 2) % 32, axis=1) for k in range(30)])
    assert np.abs(frames[:15].astype(int) - expected[:15]).mean() < 4
    assert np.abs(frames[15].astype(int) - corners(96, 160)).mean() < 6
    for part_name, height, width, aspect in (
        ("narrow", 96, 120, None), ("tall", 160, 96, None), ("anamorphic", 96, 160, Fraction(4, 3)),
    ):  # fmt: skip
        path = joined(tmp_path / name, [first, part(write, tmp_path / f"{part_name}.ts", height, width, aspect)])
        assert decode(path, np.arange(12) / 25).shape == (12, 96, 160, 3)  # what lies before is right
        for read in (
            lambda path=path: decode(path, np.arange(30) / 25),
            lambda path=path: decode_low_resolution(path, 1 / 25, 64),
        ):
            with pytest.raises(VideoError, match="width / height changes from 1.667") as refused:
                read()
            assert refused.value.reason == "changing_aspect", part_name


def test_another_aspect_in_mpeg_2(tmp_path, write):
    """Television changes between 4:3 and 16:9 at one size."""
    parts = [
        part(write, tmp_path / f"{k}.ts", 96, 160, aspect, "mpeg2video")
        for k, aspect in enumerate((None, Fraction(4, 3)))
    ]
    with pytest.raises(VideoError) as refused:
        decode(joined(tmp_path / "both.ts", parts), np.arange(30) / 25)
    assert refused.value.reason == "changing_aspect"
    assert decode(joined(tmp_path / "same.ts", [parts[1], parts[1]]), np.arange(30) / 25).shape[0] == 30


def test_descriptions_of_earlier_versions_load():
    old = {"codec": "h264", "width": 96, "height": 64, "rotation_deg": 90, "fps": 25.0, "duration_s": 1.0,
           "num_frames": 25, "pixel_format": "yuv420p"}  # fmt: skip
    info = VideoInfo(**old)
    assert info.changed_by_pictures_2 == () and not info.geometry_changed_by_pictures_2
    assert VideoInfo(**old, mirrored=True).geometry_changed_by_pictures_2
    assert VideoInfo(**old, deinterlaced=True).geometry_changed_by_pictures_2
    coloured = VideoInfo(**old, transparent=True, assumed_bt709=True)
    assert coloured.changed_by_pictures_2 == ("transparent", "assumed_bt709")
    assert not coloured.geometry_changed_by_pictures_2


def test_decord_reads_what_it_shows_as_players_do_and_nothing_else(tmp_path, write):
    """The reader, dense from the start: which decoder gave the frames, and that both give the same."""
    picture = corners()
    used = VideoReader()
    times_s = np.arange(9) / 25
    for name, turn, decoder in (
        ("plain.mp4", None, "decord"),
        ("turned.mp4", lambda stream: stream.set_display_rotation(90), "pyav"),
        ("mirror.mp4", lambda stream: stream.set_display_rotation(0, hflip=True), "pyav"),
    ):
        used.counts.clear()
        used.frames(write(tmp_path / name, [picture] * 9, setup=turn), times_s, None).array()
        assert used.counts[decoder] == 1, name
    # VP9 may change its size at any frame, which its packets do not tell
    for name, codec in (("clip.webm", "libvpx-vp9"), ("clip.mov", "prores_ks")):
        kind = "yuv420p" if codec == "libvpx-vp9" else "yuv422p10le"
        assert not read_index(write(tmp_path / name, [picture] * 3, codec=codec, pixel_format=kind)).suits_decord
