"""Distances of sets: what is stored of each video, which videos count, and the warning on few of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from steadydancer.datasets.video import encode
from steadydancer.models.metrics import FVD_VARIANTS, frechet_distance, kernel_distance
from steadydancer.pipelines.evaluate.catalogue import METRICS
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.judges import Judges
from steadydancer.pipelines.evaluate.measured import Measured
from steadydancer.pipelines.evaluate.protocols import PROTOCOLS
from steadydancer.pipelines.evaluate.scores import Features, Score, to_bytes
from steadydancer.pipelines.evaluate.set_scores import score_sets
from steadydancer.pipelines.evaluate.steps import measure_group
from steadydancer.pipelines.evaluate.video import Rendered, Video

HEIGHT, WIDTH = 48, 32  # upright
COUNTS = {"a": 90, "b": 84, "c": 81, "d": 30, "e": 12}  # frames of each video
FVDS = [name for name, metric in METRICS.items() if name.startswith(("fvd", "kvd"))]


class Means(Judges):
    """An I3D whose logits are three means of the clip, and one that tells how it was prepared."""

    def __getitem__(self, name: str) -> Any:
        self.asked = name
        return self

    def logits(self, clips: Sequence[np.ndarray], preprocessing: str) -> np.ndarray:
        if min(map(len, clips)) < 9:
            raise ValueError(f"I3D needs clips of at least 9 frames, got {min(map(len, clips))}.")
        return np.stack([logits(clip, preprocessing, self.asked) for clip in clips]).astype(np.float32)

    def prefix_logits(self, frames: np.ndarray, lengths: Sequence[int], preprocessing: str) -> np.ndarray:
        return np.concatenate([self.logits([frames[:length]], preprocessing) for length in lengths])


def logits(clip: np.ndarray, preprocessing: str, judge: str) -> np.ndarray:
    values = clip.astype(float)
    own = [values[..., 0].mean(), values[:, ::2, :, 1].mean(), values[-1, ..., 2].mean()]
    return np.array([*own, len(preprocessing) + len(judge) + len(clip)]) / 20


def clip(name: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng([ord(name), seed])
    levels = rng.integers(0, 200, (1, 1, 1, 3)) + rng.integers(-8, 8, (COUNTS[name], HEIGHT, WIDTH, 3))
    return np.clip(levels + np.arange(COUNTS[name])[:, None, None, None] // 4, 0, 255).astype(np.uint8)


class Stored:
    """What a job would have stored, without its files."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, key: str, group: str, outcomes: Mapping[str, Score | Features]) -> None:
        for name, one in outcomes.items():
            columns = (
                {"reason": None, "features": to_bytes(one.rows)}
                if isinstance(one, Features)
                else {"reason": one.reason, "features": None}
            )
            self.rows.append({"key": key, "group": group, "metric": name, **columns})

    def features(self, group: str, packets: Any) -> Iterator[pa.Table]:
        yield pa.Table.from_pylist([row for row in self.rows if row["group"] == group])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Five videos with truths of equal lengths, and one, `f`, without."""
    folder, out = tmp_path_factory.mktemp("sets"), Stored()
    for name in COUNTS:
        for side, seed in (("r", 0), ("t", 1)):
            encode(clip(name, seed), folder / f"{name}{side}.mp4", 16, lossless=True)
        for key in (name, *(["f"] if name == "e" else [])):
            row = {"video": str(folder / f"{name}r.mp4"), "image": None, "driving": None,
                   "truth": str(folder / f"{name}t.mp4") if key != "f" else None, "reason": None,
                   "detail": None}  # fmt: skip
            video = Video.read(row, PROTOCOLS["all"], Rendered())
            for group in ("i3d", "i3d-videogpt"):
                out.add(key, group, measure_group(group, video, EvaluateConfig(), Means()))
    return out


def scored(stored: Stored, names: Sequence[str], keys: Sequence[str]) -> dict[str, Score]:
    return score_sets(names, cast(Measured, stored), [], keys)


def test_the_catalogue_has_five_fvds_and_a_kernel_distance_beside_each_set_one() -> None:
    assert sorted(FVDS) == sorted([
        "fvd[humanvid-pair]", "fvd[i3d-torchscript,16f]", "kvd[i3d-torchscript,16f]", "fvd[cd-fvd,16f]",
        "kvd[cd-fvd,16f]", "fvd[common-metrics]", "kvd[common-metrics]", "fvd[scail,81f]", "kvd[scail,81f]",
    ])  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FVD_VARIANTS if name != "fvd[humanvid-pair]"])
def test_a_set_fvd_takes_its_own_frames_of_the_videos_that_have_them(stored: Stored, name: str) -> None:
    variant = FVD_VARIANTS[name]
    needed = {"fvd[scail,81f]": 81, "fvd[common-metrics]": None}.get(name, 16)
    long_enough = [key for key, count in COUNTS.items() if count >= (needed or 9)]
    judge = "i3d-videogpt" if name == "fvd[cd-fvd,16f]" else "i3d"
    sides = [
        np.stack([logits(clip(key, seed)[:needed], variant.preprocessing, judge) for key in long_enough])
        for seed in (0, 1)
    ]
    kernel = name.replace("fvd[", "kvd[")
    found = scored(stored, [name, kernel], [*COUNTS, "f"])
    assert found[name].value == pytest.approx(frechet_distance(*sides), rel=1e-4) and found[name].value > 0.1
    assert found[kernel].value == pytest.approx(kernel_distance(*sides), rel=1e-3)
    assert found[name].frames_compared == found[kernel].frames_compared == len(long_enough)
    detail = str(found[name].detail)
    assert f"{len(long_enough)} videos" in detail and "a set distance of" in detail and "≥ 256" in detail
    short = len(COUNTS) - len(long_enough)
    assert ("without 1 no_truth" if not short else f"without 1 no_truth, {short} too_short") in detail
    assert "256" not in str(found[kernel].detail)


def test_humanvids_fvd_is_paired_and_has_no_warning(stored: Stored) -> None:
    keys, name = ("a", "b", "c", "d"), "fvd[humanvid-pair]"
    found = scored(stored, [name], [*COUNTS, "f"])[name]
    differences = []
    for key in keys:
        for length in range(10, 25):
            one, other = (logits(clip(key, seed)[:length], "fvd_humanvid_224", "i3d") for seed in (0, 1))
            differences.append(float(((one - other) ** 2).sum()))
    assert found.value == pytest.approx(np.mean(differences), rel=1e-4) and found.frames_compared == 4
    assert found.detail == "4 videos; without 1 no_truth, 1 too_short"


def test_each_method_has_the_sets_of_its_own_videos(stored: Stored) -> None:
    whole, part = (scored(stored, ["fvd[common-metrics]"], keys)["fvd[common-metrics]"] for keys in (COUNTS, "abc"))
    assert whole.value != part.value and part.frames_compared == 3


def test_a_set_that_is_too_small_or_empty_is_null_with_a_reason(stored: Stored) -> None:
    names = ["fvd[common-metrics]", "kvd[common-metrics]", "fvd[humanvid-pair]"]
    one = scored(stored, names, ["a"])
    assert {one[name][:2] for name in names[:2]} == {(None, "too_few")} and one[names[2]].value is not None
    for key, reason in (("f", "no_truth"), ("gone", "not_scored")):
        assert {found[:2] for found in scored(stored, names, [key]).values()} == {(None, reason)}
    short = scored(stored, ["fvd[scail,81f]"], ["d", "e"])["fvd[scail,81f]"]
    assert short[:2] == (None, "too_short") and short.detail == "no video has features (2 too_short)"


def test_equal_sets_are_at_no_distance_and_from_256_videos_on_there_is_no_warning() -> None:
    stored, rng = Stored(), np.random.default_rng(0)
    for number in range(256):
        rows = Features(rng.normal(size=(1, 4)).astype(np.float32))
        names = ("features[common-metrics]:render", "features[common-metrics]:truth")
        stored.add(str(number), "i3d", dict.fromkeys(names, rows))
    for count, warned in ((256, False), (255, True)):
        found = scored(stored, ["fvd[common-metrics]"], [str(number) for number in range(count)])
        one = found["fvd[common-metrics]"]
        assert one.value == pytest.approx(0, abs=1e-6)
        assert ("mostly bias" in str(one.detail)) == warned


def test_the_floor_of_identity_is_between_different_references() -> None:
    """Two pairs with one reference image are one person; distances of .4, 1 and .6 leave a mean likeness of 1/3."""
    stored, name = Stored(), "identity[dlib-face,floor]"
    for key, place in {"a": 0.0, "b": 0.0, "c": 0.4, "d": 1.0}.items():
        stored.add(key, "face", {"features[dlib-face]:reference": Features(np.array([[place, 0]], np.float32))})
    stored.add("e", "face", {"features[dlib-face]:reference": Features(np.zeros((0, 2), np.float32))})
    stored.add("f", "face", {"features": Score(None, "unreadable_image", "gone")})
    found = scored(stored, [name], list("abcdef"))[name]
    assert found.value == pytest.approx(1 - (0.4 + 1 + 0.6) / 3, abs=1e-6) and found.frames_compared == 3
    alone = scored(stored, [name], list("ab"))[name]
    assert alone[:2] == (None, "too_few")
