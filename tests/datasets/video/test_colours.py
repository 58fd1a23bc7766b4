"""Colours are read as they are tagged, or as players guess, and what is written is tagged."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from steadydancer.datasets.video import VideoError, decode, decode_low_resolution, encode, frame_times_s, probe
from steadydancer.datasets.video.decoders import DecordCursor, PyavCursor
from steadydancer.datasets.video.index import read_index
from steadydancer.datasets.video.info import METADATA_KEY
from steadydancer.datasets.video.writer import Chroma

COLOURS = np.array([[200, 30, 40], [30, 180, 60], [40, 60, 200], [230, 200, 40], [224, 172, 140], [128, 128, 128]])


def bars(height: int, width: int) -> np.ndarray:
    return np.repeat(COLOURS.astype(np.uint8), -(-width // 6), axis=0)[None, :width].repeat(height, axis=0)


def of_bars(picture: np.ndarray) -> np.ndarray:
    """The colours in the middle of the bars [6, 3]."""
    height, width = picture.shape[:2]
    step = -(-width // 6)
    return picture[height // 2, [k * step + (width - 5 * step) // 2 for k in range(6)]].astype(int)


MATRICES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
            9: (0.2627, 0.0593)}  # fmt: skip
"""Number in ISO/IEC 23091-2 → the shares of red and blue in luma."""


def stored(rgb: np.ndarray, matrix: int, full: bool) -> av.VideoFrame:
    """RGB as yuv444p by the standard's formulas, without swscale."""
    red, blue = MATRICES[matrix]
    r, g, b = (rgb[..., k] / 255 for k in range(3))
    y = red * r + (1 - red - blue) * g + blue * b
    planes = [y, (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)]
    scale, offset = ((255, 255, 255), (0, 128, 128)) if full else ((219, 224, 224), (16, 128, 128))
    levels = [np.rint(p * s + o).clip(0, 255) for p, s, o in zip(planes, scale, offset, strict=True)]
    return av.VideoFrame.from_ndarray(np.stack(levels).astype(np.uint8), format="yuv444p")


def write_colours(
    write, path: Path, rgb: np.ndarray, matrix: int, full: bool = False, tagged: bool = True, **more
) -> Path:
    def tag(stream):
        if tagged:
            stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1

    frames = [stored(rgb, matrix, full) for _ in range(9)]
    for frame in frames if tagged else []:
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return write(path, frames, pixel_format="yuv444p", setup=tag, qp="4", preset="ultrafast", **more)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_read_by_their_tags(tmp_path, matrix, full, write):
    for name in ("clip.mp4", "clip.mkv"):
        path = write_colours(write, tmp_path / name, bars(64, 96), matrix, full)
        index = read_index(path)
        assert not index.info.assumed_bt709 and index.suits_decord
        cursor = DecordCursor(path, index, (64, 96))
        for frame in (cursor.picture(2), PyavCursor(path, index).picture(2, (64, 96)), decode(path, np.zeros(1))[0]):
            assert np.abs(of_bars(frame) - COLOURS).max() <= 3


@pytest.mark.parametrize(
    ("height", "width", "matrix"),
    [(64, 96, 5), (576, 96, 5), (718, 64, 5), (720, 64, 1), (1024, 576, 1), (64, 1280, 1), (64, 1278, 5)],
)
def test_colours_without_tags_are_read_by_the_size(tmp_path, height, width, matrix, write):
    path = write_colours(write, tmp_path / "clip.mp4", bars(height, width), matrix, tagged=False)
    assert probe(path).assumed_bt709 == (matrix == 1)
    for way in (decode(path, np.arange(9) / 25)[1], decode(path, np.zeros(1))[0]):
        assert np.abs(of_bars(way) - COLOURS).max() <= 3
    small = decode_low_resolution(path, 1 / 25, max(height, width))[1]
    assert np.abs(of_bars(small[1]) - COLOURS).max() <= 3


def test_rgb_and_grey_of_hd_have_no_matrix(tmp_path, write):
    rgb = bars(720, 96)
    for codec, kind, given in (("ffv1", "bgr0", rgb), ("libx264rgb", "rgb24", rgb)):
        path = write(tmp_path / f"{codec}.mkv", [given] * 3, codec=codec, pixel_format=kind, **{"qp": "0"})
        assert not probe(path).assumed_bt709
        np.testing.assert_array_equal(decode(path, np.zeros(1))[0], rgb)
    path = write(tmp_path / "grey.mkv", [rgb] * 3, codec="ffv1", pixel_format="gray")
    assert not probe(path).assumed_bt709


def test_a_matrix_that_cannot_be_converted_is_refused(tmp_path, write):
    path = write(tmp_path / "clip.mp4", [bars(64, 96)] * 3, setup=lambda s: setattr(s.codec_context, "colorspace", 8))
    with pytest.raises(VideoError, match="matrix 8") as refused:
        probe(path)
    assert refused.value.reason == "unsupported_colours"


@pytest.mark.parametrize(("height", "width", "matrix"), [(64, 96, 6), (720, 96, 1), (96, 1280, 1), (576, 1024, 6)])
def test_what_is_written_names_its_colours_and_is_read_back_alike(tmp_path, height, width, matrix):
    rgb, path = bars(height, width), tmp_path / "clip.mp4"
    encode(np.stack([rgb] * 9), path, 25)
    data = path.read_bytes()
    place = data.find(b"colrnclx") + 8
    # primaries, transfer, matrix, and the bit that says full range (ISO/IEC 14496-12, 12.1.5)
    assert struct.unpack(">3HB", data[place : place + 7]) == (1, 1, matrix, 0)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tags == (matrix, 1, 1, 1)
        y, u, v = (
            np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[plane.height // 2]
            for plane in next(container.decode(video=0)).planes
        )
    step = -(-width // 6)
    at = np.array([k * step + (width - 5 * step) // 2 for k in range(6)])
    red, blue = MATRICES[matrix]  # the standard's formulas, backwards
    luma, cb, cr = (y[at] - 16) / 219, (u[at // 2] - 128.0) / 224, (v[at // 2] - 128.0) / 224
    r, b = luma + (2 - 2 * red) * cr, luma + (2 - 2 * blue) * cb
    shown = np.stack([r, (luma - red * r - blue * b) / (1 - red - blue), b], axis=1) * 255
    assert np.abs(shown - COLOURS).max() < 4
    index = read_index(path)
    assert not index.info.assumed_bt709 and index.suits_decord
    cursor = DecordCursor(path, index, (height, width))
    for frame in (cursor.picture(2), PyavCursor(path, index).picture(2, (height, width)), decode(path, np.zeros(1))[0]):
        assert np.abs(of_bars(frame) - COLOURS).max() <= 3


def test_lossless_keeps_every_bit_at_every_size(tmp_path):
    for height, width in ((48, 80), (720, 64)):
        noise = np.random.default_rng(0).integers(0, 256, (9, height, width, 3), dtype=np.uint8)
        encode(noise, tmp_path / "clip.mp4", 25, lossless=True)
        np.testing.assert_array_equal(decode(tmp_path / "clip.mp4", np.arange(9) / 25), noise)


def test_what_an_earlier_version_wrote_without_tags_is_read_as_it_was_written(tmp_path, write):
    """It stored BT.601 at every size, and its renders hold a record."""
    rgb = bars(720, 96)
    source, path = write_colours(write, tmp_path / "a.mp4", rgb, 5, tagged=False), tmp_path / "b.mp4"
    with av.open(str(source)) as given:
        options = {"movflags": "use_metadata_tags"}
        with av.open(str(path), "w", container_options=options) as container:
            container.metadata[METADATA_KEY] = "{}"
            stream = container.add_stream_from_template(given.streams.video[0])
            for packet in [packet for packet in given.demux(video=0) if packet.size]:
                packet.stream = stream
                container.mux(packet)
    assert not probe(path).assumed_bt709 and probe(source).assumed_bt709
    assert np.abs(of_bars(decode(path, np.zeros(1))[0]) - COLOURS).max() <= 3


def test_the_formulas_of_these_tests_are_swscales(tmp_path):
    """The oracle's oracle: `stored` against the library that players use."""
    rgb = bars(64, 96)
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    for matrix, theirs in ((1, 1), (6, 5), (7, 7), (9, 9)):
        expected = VideoReformatter().reformat(frame, format="yuv444p", dst_colorspace=theirs, dst_color_range=1)
        difference = stored(rgb, matrix, False).to_ndarray().astype(int) - expected.to_ndarray()
        assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(("chroma", "pixel_format"), [("4:2:0", "yuv420p"), ("4:4:4", "yuv444p")])
def test_chroma_decides_whether_neighbours_keep_their_own_colours(
    tmp_path: Path, chroma: Chroma, pixel_format: str
) -> None:
    """Columns of red and blue, which 4:2:0 averages in pairs."""
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    frames[:, :, ::2], frames[:, :, 1::2] = (200, 40, 40), (40, 40, 200)
    path = tmp_path / "columns.mp4"
    encode(frames, path, chroma=chroma, crf=10)
    error = np.abs(decode(path, frame_times_s(path)).astype(int) - frames).mean()
    assert (error < 4) if chroma == "4:4:4" else (error > 30)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pixel_format


def test_a_smaller_rate_factor_is_nearer_to_the_picture(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    errors, sizes = [], []
    for crf in (8, 18, 30):
        path = tmp_path / f"{crf}.mp4"
        encode(frames, path, crf=crf, chroma="4:4:4")
        errors.append(np.abs(decode(path, frame_times_s(path)).astype(int) - frames).mean())
        sizes.append(path.stat().st_size)
    assert errors == sorted(errors) and sizes == sorted(sizes, reverse=True)
    encode(frames, tmp_path / "default.mp4", chroma="4:4:4")
    assert (tmp_path / "default.mp4").read_bytes() == (tmp_path / "18.mp4").read_bytes()
