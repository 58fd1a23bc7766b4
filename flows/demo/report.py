"""The report of the demo: all jobs, scores and videos, self-contained in its folder."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from ...datasets.artifact import Artifact
from ...pipelines.evaluate.report.evaluation import read_evaluation
from ...pipelines.evaluate.report.nulls import nulls_section
from ...pipelines.evaluate.report.results import measured_results
from ...pipelines.evaluate.report.tables import metric_sections
from ...pipelines.pages.layout import Section, write_page
from ...pipelines.train.metrics_file import read_rows
from .dancers import PairSet
from .pairs_page import pairs_section, result_sections


def write_demo_report(page: Path, out: Path, summary: dict[str, Any], records: dict[str, Any]) -> None:
    """Write `page` and copy its media next to it."""
    clips = Artifact(out / "clips").read().to_pylist()
    evaluation = read_evaluation(Artifact(out / "metrics"))
    learned = "more_metrics" in summary
    if learned:
        results = result_sections(summary)
        videos = pairs_section(page.parent, out, PairSet(Path(summary["pairs"])))
    else:
        results = []
        videos = Section("Videos", VIDEOS_TEXT, media=list(_media(page.parent, out)))
    write_page(
        page,
        "SteadyDancer demo",
        [
            *results,
            *([videos] if learned else []),
            _seconds_section(summary),
            _funnel_section(clips, records["clips"]),
            _clips_section(clips),
            _training_section(out, summary),
            Section("Metrics", METRICS_TEXT),
            *metric_sections(measured_results(evaluation)),
            nulls_section(evaluation),
            *([] if learned else [videos]),
        ],
    )


METRICS_TEXT = (
    "Means over the rendered videos. For the first frame, the autoencoder's round trip of the reference image is the "
    "upper bound for a trained model. Metrics without a value are listed below with the reason."
)
VIDEOS_TEXT = (
    "The networks are tiny and were trained for about a minute: the videos show that all jobs work together, not the "
    "quality of a trained model."
)


def _seconds_section(summary: dict[str, Any]) -> Section:
    rows = [[name, seconds] for name, seconds in summary["seconds"].items()]
    return Section("Run time", head=["step", "seconds"], rows=rows)


def _funnel_section(clips: list[dict[str, Any]], record: dict[str, Any]) -> Section:
    reasons = Counter((row["verdict"], row["reason"] or "") for row in clips)
    rows = [[verdict, reason, number] for (verdict, reason), number in sorted(reasons.items())]
    counts = record["counts"]
    text = (
        f"{counts['inputs']} rows from {record['inputs']['sources']} sources = {counts['ok']} ok + "
        f"{counts['rejected']} rejected + {counts['quarantined']} quarantined. "
        f"Keypoints: {', '.join(record['pose_models']) or 'none'}."
    )
    return Section("Curation", text, head=["verdict", "reason", "clips"], rows=rows)


def _clips_section(clips: list[dict[str, Any]]) -> Section:
    rows = [
        [Path(row["source_path"]).name, _span(row), row["verdict"], row["reason"] or "", row["detail"] or ""]
        for row in clips
    ]
    return Section("Clips", head=["source", "span", "verdict", "reason", "detail"], rows=rows)


def _span(row: dict[str, Any]) -> str:
    return "" if row["start_s"] is None else f"{row['start_s']:.2f}–{row['end_s']:.2f} s"


def _training_section(out: Path, summary: dict[str, Any]) -> Section:
    names = {"stage1": "1 action supervision", "stage2": "2 condition-decoupled distillation",
             "stage3": "3 pose simulation", "stage2_control": "control: stage 2 for as long as stage 3"}  # fmt: skip
    rows = []
    for key, name in names.items():
        if key in summary:
            stage = summary[key]
            seconds = [row["seconds"] for row in read_rows(out / key)]
            rows.append([name, stage["steps"], stage["loss_before"], stage["loss_after"], sum(seconds)])
    return Section(
        "Training",
        "Loss of each stage on fixed clips, noise and timesteps, before the first and after the last step.",
        head=["stage", "steps", "loss before", "loss after", "seconds"],
        rows=rows,
    )


def _media(folder: Path, out: Path) -> Any:
    """Copy the media of each pair and yield groups of (caption, file): reference, driving, render, truth."""
    media = folder / "media"
    media.mkdir(parents=True, exist_ok=True)
    truths = {row["id"]: row["truth"] for row in Artifact(out / "metrics").read(["id", "truth"]).to_pylist()}
    for row in Artifact(out / "renders").read().to_pylist():
        video = str(out / "renders" / row["video"]) if row["video"] else None
        sources = {
            "reference": row["image"],
            "driving": row["driving"],
            "render": video,
            "truth": truths.get(row["id"]),
        }
        group = []
        for name, source in sources.items():
            copied = f"media/{row['id']}-{name}{Path(source).suffix}" if source else None
            if copied:
                shutil.copyfile(source, folder / copied)
            group.append((name, copied))
        yield group
