"""Upright pictures, clips of one to twelve frames, sets of other sizes: the definitions once more, in plain loops."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from steadydancer.models import metrics
from steadydancer.models.metrics import distances

NAN = math.nan
SIZES = [(96, 54), (54, 96), (33, 33), (300, 140)]  # height, width
BICUBIC, BILINEAR = v2.InterpolationMode.BICUBIC, v2.InterpolationMode.BILINEAR


def average(values: list[float]) -> float:
    return sum(values) / len(values) if values else NAN


def middle(values: list[float]) -> float:
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def noisy_clip(seed: int, count: int, height: int, width: int) -> np.ndarray:
    """A coarse pattern that becomes another one: no two frames, rows, columns or channels are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 6 + 1, width // 6 + 1, 3))
    fine = coarse.repeat(6, axis=1).repeat(6, axis=2)[:, :height, :width] + rng.normal(0, 20, (count, height, width, 3))
    return np.clip(fine, 0, 255).astype(np.uint8)


def normalised(pixels: torch.Tensor, mean_std: tuple[tuple[float, ...], tuple[float, ...]]) -> np.ndarray:
    return v2.Normalize(*mean_std)(pixels).numpy()


def by_torchvision(frame: np.ndarray, name: str) -> np.ndarray:
    """What VBench's and the FVD scripts' transforms give, by torchvision and PIL."""
    picture, whole = torch.from_numpy(frame).permute(2, 0, 1).float(), Image.fromarray(frame)
    imagenet, clip = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # fmt: skip
    height, width = frame.shape[:2]
    if name == "dino_frames":
        return normalised(v2.Resize(224, BILINEAR, antialias=False)(picture) / 255, imagenet)
    if name == "clip_frames":
        resized = v2.Resize(224, BICUBIC, antialias=False)(picture)
        return normalised(v2.CenterCrop(224)(resized) / 255, clip)
    if name.startswith("i2v_dino_frames"):
        resized = v2.Resize(256, BICUBIC, antialias=not name.endswith("no_aa"))(picture)
        return normalised(v2.CenterCrop(224)(resized) / 255, imagenet)
    if name == "i2v_dino_image":
        cropped = v2.CenterCrop(224)(v2.Resize(256, BICUBIC)(whole))
        return normalised(torch.from_numpy(np.array(cropped)).permute(2, 0, 1) / 255, imagenet)
    if name == "i2v_dreamsim_image":
        return np.asarray(whole.resize((224, 224), Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    if name.startswith("i2v_dreamsim_frames"):
        return (v2.Resize((224, 224), BICUBIC, antialias=not name.endswith("no_aa"))(picture) / 255).numpy()
    if name == "imaging_longer":
        scale = 512 / max(height, width)
        size = (int(scale * height), int(scale * width)) if scale < 1 else (height, width)
        return (v2.Resize(size, BILINEAR, antialias=False)(picture) / 255).numpy()
    if name == "fvd_humanvid_224":
        scale = 224 / min(height, width)
        size = (224, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), 224)
        resized = torch.nn.functional.interpolate(picture[None] / 255, size, mode="bilinear", align_corners=False)[0]
        top, left = ((side - 224) // 2 for side in size)
        return (resized[:, top : top + 224, left : left + 224] * 2 - 1).numpy()
    if name in ("pytorchfid_299", "fvd_cdfvd_224"):
        side = int(name[-3:])
        resized = torch.nn.functional.interpolate(picture[None] / 255, (side, side), mode="bilinear")[0]
        return (resized * 2 - 1).numpy()
    assert name == "cleanfid_299"
    channels = [Image.fromarray(frame[..., k].astype(np.float32), mode=None) for k in range(3)]
    return np.stack([np.asarray(one.resize((299, 299), Image.Resampling.BICUBIC)) for one in channels]).clip(0, 255)


NAMES = [
    *("dino_frames", "clip_frames", "i2v_dino_frames", "i2v_dino_frames_no_aa", "i2v_dino_image"),
    *("i2v_dreamsim_frames", "i2v_dreamsim_frames_no_aa", "i2v_dreamsim_image", "imaging_longer"),
    *("fvd_humanvid_224", "fvd_cdfvd_224", "pytorchfid_299", "cleanfid_299"),
]


@pytest.mark.parametrize("size", [*SIZES, (700, 431)])
def test_what_the_networks_are_given_of_pictures_of_any_shape(size: tuple[int, int]) -> None:
    frame = noisy_clip(sum(size), 1, *size)[0]
    for name in NAMES:
        (ours,) = metrics.preprocess(frame[None], name)
        np.testing.assert_allclose(ours, by_torchvision(frame, name), atol=3e-5, err_msg=name)


def test_tensorflows_grid_by_loops() -> None:
    frame = noisy_clip(5, 1, 54, 31)[0].astype(float)
    (ours,) = metrics.preprocess(frame[None].astype(np.uint8), "torchfidelity_299")
    for y, x in itertools.product((0, 1, 100, 297, 298), repeat=2):
        row, column = y * 54 / 299, x * 31 / 299
        top, left = int(row), int(column)
        below, right = min(top + 1, 53), min(left + 1, 30)
        down, across = row - top, column - left
        upper = frame[top, left] * (1 - across) + frame[top, right] * across
        lower = frame[below, left] * (1 - across) + frame[below, right] * across
        expected = (upper * (1 - down) + lower * down - 128) / 128
        np.testing.assert_allclose(ours[:, y, x], expected, atol=3e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 12])
@pytest.mark.parametrize("size", SIZES[:3])
def test_pixels_by_loops(size: tuple[int, int], count: int) -> None:
    frames, truth = noisy_clip(count, count, *size), noisy_clip(count, count, *size)
    truth[1:] = np.clip(truth[1:].astype(int) + 9, 0, 255)  # frame 0 is equal
    errors = [float(((frames[t].astype(float) - truth[t]) ** 2).mean()) / 255**2 for t in range(count)]
    levels = [10 * math.log10(1 / error) if error else math.inf for error in errors]
    np.testing.assert_allclose(metrics.psnr_per_frame(frames, truth), levels, rtol=1e-9)
    assert metrics.psnr(frames, truth) == pytest.approx(average([min(level, 100) for level in levels]))
    steps = [frames[t + 1].astype(float) - frames[t] for t in range(count - 1)]
    flickering = 1 - average([float(np.abs(step).mean()) for step in steps]) / 255
    np.testing.assert_allclose(metrics.temporal_flickering(frames), flickering, rtol=1e-9)
    rms = [math.sqrt(float((step**2).mean())) for step in steps]
    np.testing.assert_allclose(metrics.pixel_steps(frames), rms, rtol=1e-9)
    for start in (3, 8):
        jump = max(rms[:start]) / middle(rms[start:]) if len(rms) > start else NAN
        np.testing.assert_allclose(metrics.pixel_jump(frames, start), jump, rtol=1e-9)
    made = np.random.default_rng(count).uniform(-0.1, 1.1, (max(count - 1, 0) // 2, 3, *size)).astype(np.float32)
    odd = [
        float(np.abs(np.trunc((made[k].transpose(1, 2, 0) * 255).clip(0, 255)).astype(int) - frames[2 * k + 1]).mean())
        for k in range(len(made))
    ]
    np.testing.assert_allclose(metrics.motion_smoothness(frames, made), 1 - average(odd) / 255, rtol=1e-9)


@pytest.mark.parametrize("size", SIZES[:3])
def test_drift_by_loops_over_pixels(size: tuple[int, int]) -> None:
    frames = noisy_clip(1, 5, *size)
    masks = np.random.default_rng(0).random((5, *size)) < np.array([0.1, 0.5, 0.85, 0.999, 0.2])[:, None, None]
    expected = []
    for t in range(1, 5):
        cells = [(y, x) for y, x in np.ndindex(size) if not (masks[0, y, x] or masks[t, y, x])]
        changes = [abs(float(frames[t, y, x, c]) - float(frames[0, y, x, c])) for y, x in cells for c in range(3)]
        expected.append(average(changes) / 255 if len(cells) >= 0.1 * size[0] * size[1] else NAN)
    np.testing.assert_allclose(metrics.background_drift(frames, masks), expected, rtol=1e-9)
    assert math.isnan(expected[2]) and not math.isnan(expected[1])


def test_identity_by_loops() -> None:
    seen_counts = set()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        count, fps = int(rng.integers(1, 12)), float(rng.choice([8, 15, 29.97]))
        values = np.where(rng.random(count) < rng.choice([0.2, 0.8, 1.0]), rng.random(count), NAN)
        found = [k for k in range(count) if not math.isnan(values[k])]
        seen = [values[k] for k in found]
        seconds = [k / fps for k in found]
        spread = sum((s - average(seconds)) ** 2 for s in seconds)
        moved = sum((s - average(seconds)) * (v - average(seen)) for s, v in zip(seconds, seen, strict=True))
        at = 0.05 * (len(seen) - 1)
        ordered = sorted(seen)
        low = ordered[int(at)] + (at - int(at)) * (ordered[math.ceil(at)] - ordered[int(at)]) if seen else NAN
        last = average([values[k] for k in found if k >= math.ceil(0.75 * count)])
        expected = (average(seen), min(seen, default=NAN), low, moved / spread if spread > 0 else NAN, last)
        np.testing.assert_allclose(metrics.identity_over_time(values, fps), [*expected, len(seen) / count], rtol=1e-9)
        seen_counts.add(len(seen))
    assert {0, 1, 2} <= seen_counts


def test_start_gap_by_loops(dance: Callable[..., Any]) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        driven, visible = dance(seed, 5, (160, 300))
        visible = rng.random(visible.shape) < 0.8
        reference, seen = driven[0] + rng.normal(0, 9, (18, 2)), rng.random(18) < 0.7
        length, _ = metrics.torso_length(driven, visible)
        both = [j for j in range(18) if seen[j] and visible[0, j]]
        expected = average([math.dist(reference[j], driven[0, j]) for j in both]) / length
        ours = metrics.start_gap(reference, seen, driven[0], visible[0], length)
        np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_lpips_by_loops_over_pixels() -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 4, 7), (5, 2, 3)]
    one, other = ([rng.normal(size=shape) for shape in shapes] for _ in range(2))
    heads = [rng.random(shape[0]) for shape in shapes]
    total = 0.0
    for a, b, head in zip(one, other, heads, strict=True):
        cells = []
        for y, x in np.ndindex(a.shape[1:]):
            p, q = (v[:, y, x] / (math.sqrt(float((v[:, y, x] ** 2).sum())) + 1e-10) for v in (a, b))
            cells.append(sum(head[c] * (p[c] - q[c]) ** 2 for c in range(len(head))))
        total += average(cells)
    assert metrics.lpips_distance(one, other, heads) == pytest.approx(total, rel=1e-9)


def test_fid_at_infinity_by_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    x, y, sizes = rng.normal(size=(40, 3)), rng.normal(0.2, 1, (90, 3)), [8, 13, 20, 29, 40]
    order = rng.permutation(40)
    limit, slope, values = metrics.fid_infinity(x, y, sizes, order)
    expected = [metrics.frechet_distance(x[order[:size]], y) for size in sizes]
    inverse = [1 / size for size in sizes]
    mean = average(inverse)
    steep = sum((i - mean) * (v - average(expected)) for i, v in zip(inverse, expected, strict=True))
    steep /= sum((i - mean) ** 2 for i in inverse)
    np.testing.assert_allclose([limit, slope, *values], [average(expected) - steep * mean, steep, *expected], rtol=1e-9)


def test_the_kernel_distance_has_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same value block by block, with blocks that the sets do not fill."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 6)), rng.normal(0.3, 1, (11, 6))

    def dense(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 6 + 1) ** 3

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (dense(x, x), dense(y, y))]
    expected = sum(within) - 2 * dense(x, y).mean()
    assert metrics.kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)
    for block in (1, 4, 11):
        monkeypatch.setattr(distances, "_BLOCK", block)
        assert metrics.kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_the_kernel_distance_of_many_rows_needs_little_memory() -> None:
    import tracemalloc

    rows = np.random.default_rng(0).normal(size=(6000, 2))
    tracemalloc.start()
    try:
        metrics.kernel_distance(rows, rows[:2000])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6  # all pairs at once are 288 MB


def test_similarities_of_faces_are_those_of_each_pair() -> None:
    from steadydancer.models.metrics.identity import distance_similarity

    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    expected = [[1 - math.dist(a, b) for b in other] for a in one]
    np.testing.assert_allclose(distance_similarity(one, other), expected)
    assert distance_similarity(one[:0], other).shape == (0, 4)
