"""Frame 0 against the reference, and its ceiling: the autoencoder and the codec of the render, computed once more."""

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.datasets.video import decode, encode, frame_times_s
from steadydancer.models.components import tiny_components
from steadydancer.models.encoders import decode_latents, encode_video
from steadydancer.pipelines.evaluate.groups import first_frame
from steadydancer.pipelines.evaluate.judges import Judges
from steadydancer.pipelines.evaluate.protocols import PROTOCOLS
from steadydancer.pipelines.evaluate.scores import NotMeasured
from steadydancer.pipelines.evaluate.video import Rendered, Video

CEILING = {"autoencoder_ceiling_psnr", "first_frame_psnr[ceiling]", "first_frame_gap", "first_frame_explained"}


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def db(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * math.log10(255**2 / float(((one.astype(float) - other) ** 2).mean()))


def coded(folder: Path, frames: np.ndarray, **codec: Any) -> np.ndarray:
    encode(frames, folder / "c.mp4", 16, **codec)
    return decode(folder / "c.mp4", frame_times_s(folder / "c.mp4"))


def measured(
    folder: Path, frames: np.ndarray, image: np.ndarray | None, vae: Any, lossless: bool = False, **rendered: Any
) -> dict[str, Any]:
    settings = {"lossless": True} if lossless else {"crf": rendered.get("crf", 18)}
    encode(frames, folder / "r.mp4", 16, **settings)
    if image is not None:
        cv2.imwrite(str(folder / "i.png"), image[..., ::-1])
    row = {"video": str(folder / "r.mp4"), "image": str(folder / "i.png") if image is not None else None,
           "driving": None, "truth": None, "reason": None, "detail": None}  # fmt: skip
    return first_frame.measure(Video.read(row, PROTOCOLS["all"], Rendered(**rendered)), Judges(), vae)


@pytest.fixture(scope="module")
def vae() -> Any:
    return tiny_components()["vae"]


@pytest.mark.parametrize(("size", "crf"), [((48, 64), 18), ((64, 48), 18), ((48, 64), 40)])
def test_the_autoencoders_own_picture_reaches_the_ceiling(
    tmp_path: Path, vae: Any, size: tuple[int, int], crf: int
) -> None:
    """A render that is the reference after the round trip, written by the same codec, has no gap."""
    reference = picture(*size)
    decoded = decode_latents(vae, encode_video(vae, reference[None]))
    found = measured(tmp_path, decoded, reference, vae, crf=crf, has_record=True)
    limit = db(coded(tmp_path, decoded, crf=crf)[0], reference)
    assert found["autoencoder_ceiling_psnr"].value == pytest.approx(db(decoded[0], reference))
    assert found["first_frame_psnr[ceiling]"].value == pytest.approx(limit)
    assert found["first_frame_psnr[ceiling]"].detail == f"h264, crf {crf}, 4:2:0"
    assert found["first_frame_psnr"].value == pytest.approx(limit)
    assert found["first_frame_gap"].value == pytest.approx(0, abs=1e-9)
    assert found["first_frame_explained"].value == pytest.approx(1)


def test_the_gap_is_what_the_render_loses_beyond_autoencoder_and_codec(tmp_path: Path, vae: Any) -> None:
    reference = picture()
    decoded = decode_latents(vae, encode_video(vae, reference[None]))
    worse = np.clip(decoded.astype(int) + np.random.default_rng(1).normal(0, 60, decoded.shape), 0, 255)
    found = measured(tmp_path, worse.astype(np.uint8), reference, vae, lossless=True)
    own, limit = db(worse[0].astype(np.uint8), reference), db(coded(tmp_path, decoded, crf=18)[0], reference)
    assert found["first_frame_psnr"].value == pytest.approx(own)
    assert found["first_frame_gap"].value == pytest.approx(own - limit) and own - limit < -0.5
    assert found["first_frame_explained"].value == pytest.approx(10 ** ((own - limit) / 10))
    assert "assumed, as the videos have no record" in found["first_frame_gap"].detail


def test_why_the_first_frame_or_its_ceiling_has_no_value(tmp_path: Path, vae: Any) -> None:
    frames, reference = picture()[None].repeat(2, axis=0), picture()
    unknown = measured(tmp_path, frames, picture().transpose(1, 0, 2), None)
    assert unknown["first_frame_psnr"].value is not None
    assert {unknown[name][:2] for name in CEILING} == {(None, "no_autoencoder")}
    # Sides that are no multiples of eight come back from the autoencoder in another size.
    odd = measured(tmp_path, picture(50, 36)[None], picture(50, 36), vae)
    assert {odd[name][:2] for name in CEILING} == {(None, "odd_size")} and odd["first_frame_psnr"].value > 20
    equal = measured(tmp_path, frames, reference, vae, lossless=True)
    assert equal["first_frame_psnr"].value == 100 and "counted as 100 dB" in equal["first_frame_psnr"].detail
    assert {equal[name][:2] for name in ("first_frame_gap", "first_frame_explained")} == {(None, "equal")}
    assert equal["first_frame_psnr[ceiling]"].value < 60
    with pytest.raises(NotMeasured, match="no reference image was given"):
        measured(tmp_path, frames, None, vae)
    cv2.imwrite(str(tmp_path / "i.png"), reference)
    (tmp_path / "i.png").write_bytes((tmp_path / "i.png").read_bytes()[:60])
    row = {"video": str(tmp_path / "r.mp4"), "image": str(tmp_path / "i.png"), "driving": None, "truth": None,
           "reason": None, "detail": None}  # fmt: skip
    with pytest.raises(NotMeasured, match="unreadable_image"):
        first_frame.measure(Video.read(row, PROTOCOLS["all"], Rendered()), Judges(), vae)
