"""Images and videos are one picture to every job: as viewers show it."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from steadydancer.models.encoders import resize_image
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.steps import open_source, probe_source
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.scores import NotMeasured
from steadydancer.pipelines.evaluate.video import Video
from steadydancer.pipelines.render.motion import read_image
from steadydancer.pipelines.runtime.stage import BadClip

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)


@pytest.fixture
def held_upright(tmp_path: Path) -> Path:
    """A phone's photo with a transparent corner, stored lying."""
    exif = Image.Exif()
    exif[0x0112] = 8
    alpha = np.full((40, 64, 1), 255, np.uint8)
    alpha[:10, :10] = 0
    Image.fromarray(np.dstack([PICTURE, alpha])).save(tmp_path / "me.png", exif=exif)
    return tmp_path / "me.png"


def video_of(image: Path | None) -> Video:
    """A render of 32 × 20 pixels from a reference picture, as the evaluation reads it."""
    protocol, times_s = EvaluateConfig().rules, np.zeros(1)
    row = {"image": image and str(image), "truth": None, "reason": None, "detail": None}
    return Video(row, protocol, None, np.zeros((1, 32, 20, 3), np.uint8), times_s, np.arange(1))  # type: ignore[arg-type]


def test_both_read_the_same_picture(held_upright: Path) -> None:
    shown = PICTURE.copy()
    shown[:10, :10] = 255
    shown = np.rot90(shown)
    pixels, changes = read_image(held_upright)
    np.testing.assert_array_equal(pixels, shown)
    assert changes == ("transparency composited on white", "orientation 8 applied")
    np.testing.assert_array_equal(video_of(held_upright).reference, resize_image(np.ascontiguousarray(shown), 32, 20))


def test_what_cannot_be_read_is_a_verdict(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("this is no picture")
    Image.fromarray(PICTURE[:31]).save(tmp_path / "small.png")
    for name, reason in (
        ("text.png", "unreadable_image"),
        ("gone.png", "unreadable_image"),
        ("small.png", "too_small"),
    ):
        with pytest.raises(BadClip) as bad:
            read_image(tmp_path / name)
        assert bad.value.reason == reason
    with pytest.raises(NotMeasured, match="is not a readable image"):
        _ = video_of(tmp_path / "text.png").reference
    with pytest.raises(NotMeasured, match="no reference image was given"):
        _ = video_of(None).reference


def test_a_curations_row_says_how_its_pictures_differ_from_what_is_stored(tmp_path: Path) -> None:
    frames = np.stack([np.roll(PICTURE, 3 * k, axis=1) for k in range(24)])
    woven = frames[0::2].copy()
    woven[:, 1::2] = frames[1::2][:, 1::2]
    mirrored, fields = tmp_path / "mirrored.mp4", tmp_path / "fields.mp4"
    for path, pictures, params in ((mirrored, frames, ""), (fields, woven, "interlaced=1")):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"x264-params": params, "qp": "8"})
            stream.height, stream.width, stream.pix_fmt = 40, 64, "yuv420p"
            if path == mirrored:
                stream.set_display_rotation(90, hflip=True)
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    reported = ("height", "width", "rotation_deg", "mirrored", "deinterlaced", "transparent")
    rows = [probe_source(open_source(str(path)), CurateConfig()) for path in (mirrored, fields)]
    # a mirror after a turn to the left is a mirror before a turn to the right
    assert [rows[0][name] for name in reported] == [64, 40, 90, True, False, False]
    assert [rows[1][name] for name in reported] == [40, 64, 0, False, True, False]
