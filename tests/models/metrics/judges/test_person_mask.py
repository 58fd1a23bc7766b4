"""Masks of people: what the network is given, how its answer goes back to the frame, and real masks."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from steadydancer.models.metrics.judges import person_mask
from steadydancer.models.metrics.judges.person_mask import PersonMask
from steadydancer.models.weights import lookup

CLIPS = Path(__file__).resolve().parents[5] / "shared" / "corpus" / "clips"


class _RedIsAPerson:
    """Stands for the network: the probability of a person is the red channel."""

    def __init__(self, path: Path) -> None:
        assert path.name == "selfie_segmentation.tflite"

    def __call__(self, picture: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
        assert picture.shape == (256, 256, 3) and picture.dtype == np.float32
        assert picture.min() >= 0 and picture.max() <= 1
        return {(256, 256, 1): picture[..., :1]}


@pytest.mark.parametrize("shape", [(128, 320), (512, 300), (90, 64)])
def test_a_mask_lies_where_the_network_sees_the_person(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(person_mask, "TFLiteModel", _RedIsAPerson)
    frames = np.zeros((2, *shape, 3), np.uint8)
    top, left = shape[0] // 4, shape[1] // 2
    frames[0, top : 3 * top, left:] = (255, 0, 0)
    frames[1, :, :, 1:] = 255  # cyan: nobody
    expected = frames[..., 0] > 0
    found = PersonMask(tmp_path).masks(frames)
    assert found.dtype == bool and found.shape == frames.shape[:3]
    assert (found != expected).mean() < 0.02 and not found[1].any()
    assert PersonMask(tmp_path / "selfie_segmentation.tflite").masks(frames[:0]).shape == (0, *shape)


def test_without_weights_the_message_names_the_file() -> None:
    with pytest.raises(ValueError, match=r"selfie_segmentation\.tflite"):
        PersonMask(None)


def judge() -> PersonMask:
    folder = lookup.find(lookup.weight("selfie-segmentation"))
    if folder is None or importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("the mask's file (`steadydancer weights fetch selfie-segmentation`) or ai-edge-litert is missing")
    return PersonMask(folder)


def test_nobody_is_found_in_an_even_picture() -> None:
    assert not judge().masks(np.full((1, 120, 90, 3), 200, np.uint8)).any()


def test_a_dancer_is_masked_from_head_to_feet_and_the_sky_is_not() -> None:
    if not CLIPS.is_dir():
        pytest.skip("the corpus of real clips is not on this machine")
    from steadydancer.datasets.video import decode

    masks = judge().masks(decode(CLIPS / "dance_full_sky.mp4", np.array([1.0, 4.0, 7.0])))
    assert ((masks.mean(axis=(1, 2)) > 0.05) & (masks.mean(axis=(1, 2)) < 0.2)).all()
    rows = np.flatnonzero(masks.any(axis=(0, 2))) / masks.shape[1]
    assert rows.min() < 0.4 and rows.max() > 0.85
    assert not masks[:, : masks.shape[1] // 8].any()
