"""The numbers that the paper prints: Tables 1 to 4, and what its text claims. They are passed on, not measured here.

Every row names its table, so that a report can mark it as published. A number is as printed, in the unit of the table:
VBench's dimensions are percentages there.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "SteadyDancer (the paper)"
OURS = "SteadyDancer"
NOT_STATED = "variant not stated"

_HUMANVID = "the paper follows HumanVid's settings and states no more"
_STILL = "a repeated reference image scores highest"
_REMARKS = {
    "2a": "rows may be passed on from earlier papers: the paper does not say which it measured. Two sets of videos and "
    "several definitions are in use under the name TikTok",
    "2b": "the paper does not say which FVD, at which size or over which frames",
    "2c": "the paper does not say how many pairs there are",
    "3": "the row of stage 3 repeats Tables 2b and 2c; temporal flickering is the only number on the start gap",
}


@dataclass(frozen=True)
class PublishedRow:
    """One printed value.

    Attributes:
        table: `1`, `2a`, `2b`, `2c`, `3`, `4`, or `text`.
        benchmark: as in `reader.NAMES`; None where the table is of no benchmark.
        method: as printed, without the number of the reference.
        metric: with the variant in brackets where it is known.
        value: None where the table has none.
        text: as printed, also of what is no number.
        unit: of `value`.
        better: `higher`, `lower`, or empty.
        variant: of the metric, or `NOT_STATED`; empty where there is only one.
        remark: known doubts.
        source: whose numbers these are.
    """

    table: str
    benchmark: str | None
    method: str
    metric: str
    value: float | None
    text: str
    unit: str
    better: str
    variant: str = ""
    remark: str = ""
    source: str = PAPER


@dataclass(frozen=True)
class _Column:
    metric: str
    unit: str = ""
    better: str = ""
    variant: str = ""
    remark: str = ""
    benchmark: str | None = None


_VBENCH = tuple(
    _Column(metric, "%", "higher", "", remark)
    for metric, remark in (
        ("i2v_subject", _STILL),
        ("i2v_background", _STILL),
        ("subject_consistency", _STILL),
        ("background_consistency", _STILL),
        ("temporal_flickering", f"{_STILL}; VBench itself measures it on static scenes only"),
        ("motion_smoothness", _STILL),
        ("aesthetic_quality", ""),
        ("imaging_quality", ""),
    )
)
_FVD = _Column("fvd", "", "lower", NOT_STATED)
_ABLATED = [_VBENCH[k] for k in (0, 1, 2, 4)]

_COLUMNS: dict[str, tuple[_Column, ...]] = {
    "1": tuple(_Column(name) for name in ("extra_inputs", "pretrained_model", "training_steps", "training_data")),
    "2a": (
        _Column("ssim[zero-gauss11]", "", "higher", "zero-gauss11", _HUMANVID),
        _Column("psnr", "dB", "higher", "mean of frames", _HUMANVID),
        _Column("lpips[vgg,0-1]", "", "lower", "vgg,0-1", f"{_HUMANVID}; its code gives [0, 1]"),
        _Column("fid[humanvid]", "", "lower", "humanvid", f"{_HUMANVID}; its code resizes to 768 and then to 299"),
        _Column("fvd[humanvid-pair]", "", "lower", "humanvid-pair", f"{_HUMANVID}; its code compares pairs, not sets"),
    ),
    "2b": (*_VBENCH, _FVD),
    "2c": _VBENCH,
    "3": tuple(
        _Column(one.metric, one.unit, one.better, one.variant, one.remark, benchmark)
        for benchmark, columns in (("realisdance-val", [*_ABLATED, _FVD]), ("x-dance", _ABLATED))
        for one in columns
    ),
    "4": (
        _Column("parameters", "10⁹"),
        _Column("minutes_for_81_frames[1 GPU]", "min", "lower"),
        _Column("memory[1 GPU]", "GB", "lower"),
        _Column("minutes_for_81_frames[2 GPUs]", "min", "lower"),
        _Column("memory[2 GPUs]", "GB", "lower"),
    ),
}
_BENCHMARKS = {"2a": "tiktok-humanvid", "2b": "realisdance-val", "2c": "x-dance"}

_TABLES = {
    "1": """
        Disco | Mask | Stable Diffusion | 70k | TikTok (350)
        Animate Anyone | – | Stable Diffusion | [30k, 10k] | 5k character video clips
        MagicAnimate | DensePose | Stable Diffusion | - | TikTok (350), TED-talks (1,203)
        Champ | Depth, SMPL | Stable Diffusion | [60k, 20k] | 5k human videos
        HumanVid | Camera | Stable Diffusion | [30k, 10k] | 20k real, 50k synthetic
        RealisDance | SMPL, HaMeR | Real Vision | [200k, 100k] | about 16k videos
        StableAnimator | Face | Stable Video Diffusion | 20 ep (≈15k) | 3K videos (60-90 seconds long)
        X-Dyna | Face | Stable Diffusion | [5ep, 2ep] | 107,546, 30-second videos
        MIMO | Depth, Mask | Stable Diffusion | 50K | 5k real, 2k synthetic videos
        Animate-X | – | Stable Diffusion | - | 9k human videos
        MimicMotion | – | Stable Video Diffusion | 20 ep (≈11k) | 4,436 human dancing videos
        Dreamactor-M1 | Face | Seaweed APTs | [20k, 20k, 30k] | 500-hour videos
        VACE | Mask | Wan-2.1 T2V 14B | 200k | 1M
        FlexiAct | – | CogVideoX-I2V | [40K, 1.5K] | -
        X-UniMotion | Face, Hands | Seaweed-7b | 40k | 200-hour videos
        UniAnimate-DiT | – | Wan-2.1 I2V 14B | - | ≈10K human dance videos
        RealisDance-DiT | SMPL | Wan-2.1 I2V 14B | - | 1M high-quality videos
        HyperMotion | – | Wan-2.1 I2V 14B | 20k | 19,597 video clips
        Wan-Animate | Face | Wan-2.1 I2V 14B | - | -
        SteadyDancer | – | Wan-2.1 I2V 14B | [12k, 2k, 0.5k] | 7338 videos (10.2 hours)
    """,
    "2a": """
        Moore-AnimateAnyone | 0.752 | 16.79 | 0.288 | 52.26 | 935.6
        MagicAnimate | 0.748 | 17.89 | 0.270 | 56.84 | 876.0
        Champ | 0.778 | 18.43 | 0.267 | 50.76 | 736.1
        Animate-X | 0.740 | 16.71 | 0.280 | 32.77 | 508.6
        HumanVid | 0.778 | 18.76 | 0.247 | 41.35 | 691.8
        Realisdance-DiT | 0.717 | 17.55 | 0.260 | 30.39 | 458.8
        SteadyDancer | 0.749 | 17.67 | 0.263 | 30.65 | 451.3
    """,
    "2b": """
        Moore-AnimateAnyone | 94.00 | 94.69 | 94.65 | 94.90 | 97.16 | 98.07 | 51.56 | 66.34 | 748.38
        HumanVid | 94.72 | 95.27 | 93.69 | 94.94 | 97.87 | 98.52 | 55.58 | 67.45 | 624.33
        MimicMotion | 90.78 | 92.52 | 92.21 | 93.60 | 97.46 | 98.61 | 52.09 | 59.67 | 785.73
        Animate-X | 95.68 | 96.22 | 93.39 | 95.11 | 97.79 | 98.68 | 51.72 | 60.91 | 679.66
        Hyper-Motion | 94.76 | 95.71 | 93.58 | 94.97 | 98.19 | 99.01 | 52.97 | 65.52 | 568.14
        UniAnimate-DiT | 93.15 | 93.95 | 94.56 | 95.44 | 98.78 | 99.24 | 52.18 | 65.52 | 599.03
        VACE | 87.39 | 88.58 | 93.56 | 95.03 | 96.74 | 98.25 | 57.81 | 70.61 | 911.72
        Wan-Animate | 93.81 | 94.61 | 93.06 | 94.52 | 98.42 | 98.96 | 54.47 | 66.87 | 386.87
        SteadyDancer | 94.68 | 95.38 | 93.48 | 95.18 | 97.99 | 99.02 | 56.80 | 68.45 | 326.49
    """,
    "2c": """
        Moore-AnimateAnyone | 85.56 | 86.04 | 90.38 | 92.00 | 95.05 | 96.78 | 48.89 | 69.66
        HumanVid | 86.42 | 85.67 | 89.83 | 92.15 | 97.30 | 98.19 | 52.99 | 64.73
        MimicMotion | 87.27 | 88.26 | 90.05 | 91.56 | 96.95 | 98.29 | 54.26 | 61.58
        Animate-X | 93.58 | 94.53 | 92.47 | 93.42 | 96.76 | 97.97 | 59.86 | 66.74
        UniAnimate-DiT | 91.35 | 91.75 | 92.81 | 93.00 | 97.52 | 98.45 | 58.18 | 70.85
        VACE | 75.92 | 78.29 | 89.51 | 92.15 | 97.00 | 98.01 | 53.01 | 60.74
        Wan-Animate | 88.71 | 89.23 | 90.65 | 92.67 | 97.41 | 98.40 | 56.57 | 62.79
        SteadyDancer | 96.17 | 96.92 | 91.61 | 93.38 | 97.10 | 98.37 | 61.57 | 71.74
    """,
    "3": """
        Stage 1 | 94.49 | 95.09 | 93.24 | 97.00 | 330.47 | 93.22 | 93.70 | 87.74 | 96.46
        Stage 1 w/o SSAE | 94.48 | 95.09 | 93.17 | 96.34 | 349.98 | 92.69 | 94.65 | 87.41 | 96.35
        Stage 1 w/o FFAU | 94.36 | 95.08 | 93.21 | 96.06 | 339.55 | 92.44 | 93.91 | 87.74 | 96.41
        Stage 1 w/o TMCM | 94.37 | 95.01 | 93.24 | 96.19 | 333.52 | 92.25 | 93.41 | 87.82 | 96.43
        Stage 2 w C-D Distillation | 94.66 | 95.28 | 93.31 | 97.56 | 329.55 | 93.44 | 94.11 | 87.74 | 96.51
        Stage 2 w Normal Distillation | 79.13 | 81.10 | 88.98 | 97.12 | 723.91 | - | - | - | -
        Stage 3 | 94.68 | 95.38 | 93.48 | 97.99 | 326.49 | 96.17 | 96.92 | 91.61 | 97.10
    """,
    "4": """
        UniAnimate-DiT | 16.40 | 20.5 | 24 | - | -
        VACE | 17.33 | OOM | OOM | 11.7 | 79
        Wan-Animate | 17.27 | 11.9 | 62 | 6.7 | 56
        SteadyDancer | 16.39 | 17.2 | 43 | 10.2 | 41
        SteadyDancer, offloaded, fp16, with LoRA acceleration | 16.39 | 3.7 | 9.2 | - | -
    """,
}  # fmt: skip


def published_rows(benchmark: str | None = None, table: str | None = None) -> list[PublishedRow]:
    """Return the paper's values.

    Args:
        benchmark: only the rows of this one.
        table: only the rows of this one: `1`, `2a`, `2b`, `2c`, `3`, `4` or `text`.
    """
    rows = [row for name in _TABLES for row in _rows(name)] + [_CLAIM]
    return [row for row in rows if benchmark in (None, row.benchmark) and table in (None, row.table)]


_CLAIM = PublishedRow(
    *("text", None, OURS, "resolved_share", 0.8, "over 80%", "", "higher"),
    variant=NOT_STATED,
    remark="a lower bound; the paper does not say on which pairs, or what counts as resolved",
)


def _rows(table: str) -> list[PublishedRow]:
    rows = []
    for line in _TABLES[table].strip().splitlines():
        method, *texts = (part.strip() for part in line.split(" | "))
        for column, text in zip(_COLUMNS[table], texts, strict=True):
            remark = "; ".join(filter(None, (column.remark, _REMARKS.get(table))))
            if text == "OOM":
                remark = "out of memory"
            benchmark = column.benchmark or _BENCHMARKS.get(table)
            value = None if table == "1" else _number(text)
            rows.append(
                PublishedRow(table, benchmark, method, column.metric, value, text, column.unit, column.better,
                             column.variant, remark)
            )  # fmt: skip
    return rows


def _number(text: str) -> float | None:
    return None if text in ("-", "OOM") else float(text)
