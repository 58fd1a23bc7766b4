"""The summary of a demo: what is written to `summary.json`, and what is printed at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...datasets.artifact import Artifact
from ...pipelines.common.outcomes import closing_lines, format_counts
from .results import MEANINGS, judgements

# Folder of each artifact, below the run's.
ARTIFACTS = {
    "clips": "clips",
    "latents": "latents",
    "stage1": "stage1/checkpoint",
    "stage2": "stage2/checkpoint",
    "stage3": "stage3/checkpoint",
    "renders": "renders",
    "metrics": "metrics",
}


def summarise(records: dict[str, Any], out: Path) -> dict[str, Any]:
    """Build the summary: keys `clips latents stage1 stage2 stage3 renders metrics report`.

    `metrics` are means by name; of the learned demo, each is {mean, low, high, num_clips}, and the keys `pairs`,
    `more_metrics`, `evaluated`, `stages`, `difficulties` and `stage2_control` are added.
    """
    learned: list[dict[str, Any]] = records.get("measured", [])
    stages = {
        f"stage{n}": {
            "checkpoint": str(out / f"stage{n}" / "checkpoint"),
            **{key: records[f"stage{n}"][key] for key in ("steps", "loss_before", "loss_after")},
        }
        for n in (1, 2, 3)
    }
    metrics = {name: mean["mean"] for name, mean in records["metrics"]["means"].items()}
    return {
        "clips": records["clips"]["counts"],
        "latents": {"path": str(out / "latents"), **records["latents"]["counts"], "bytes": records["latents"]["bytes"]},
        **stages,
        "renders": {"path": str(out / "renders"), **records["renders"]["counts"]},
        "metrics": learned[0]["metrics"] if learned else metrics,
        "report": str(out / "report" / "index.html"),
        **(_learned(records, out, metrics) if learned else {}),
    }


def _learned(records: dict[str, Any], out: Path, metrics: dict[str, float | None]) -> dict[str, Any]:
    first, *others = records["measured"]
    control = {key: records["stage2_control"][key] for key in ("steps", "loss_before", "loss_after")}
    return {
        "pairs": first["pairs"],
        "more_metrics": first["more"],
        "evaluated": metrics,
        "stages": records.get("stages", {}),
        "difficulties": {each["difficulty"]: {**each["metrics"], **each["more"]} for each in others},
        "stage2_control": {"checkpoint": str(out / "stage2_control" / "checkpoint"), **control},
    }


def print_summary(summary: dict[str, Any], out: Path) -> None:
    """Print counts, losses and results."""
    click.echo()
    _print_counts("clips", summary["clips"], out / ARTIFACTS["clips"])
    _print_counts("latents", summary["latents"], out / ARTIFACTS["latents"])
    for n in (1, 2, 3):
        stage = summary[f"stage{n}"]
        before, after = (_formatted(stage[name], ".4f") for name in ("loss_before", "loss_after"))
        click.echo(f"stage {n}: {stage['steps']} steps, loss {before} → {after}")
    _print_counts("renders", summary["renders"], out / ARTIFACTS["renders"])
    if "more_metrics" in summary:
        _print_results(summary)
    else:
        _print_first_frame(summary["metrics"])
    for line in closing_lines(Artifact(out / ARTIFACTS["metrics"])):
        click.echo(line)
    click.echo(f"{sum(summary['seconds'].values()):.0f} s in total; open {summary['report']}")


def _print_results(summary: dict[str, Any]) -> None:
    for name, result in {**summary["metrics"], **summary["more_metrics"], **summary["stages"]}.items():
        mean, low, high = (_formatted(result[key], ".3f") for key in ("mean", "low", "high"))
        click.echo(f"{name}: {mean} ({low} to {high}, {result['num_clips']} clips): {MEANINGS[name]}")
    for goal, measured, is_met in judgements(summary["metrics"], summary["more_metrics"]):
        word = {True: "met", False: "missed", None: "not measured"}[is_met]
        click.echo(f"{word}: {goal} ({measured})")


def _print_first_frame(metrics: dict[str, float | None]) -> None:
    first, ceiling = (_formatted(metrics.get(name), ".2f") for name in ("first_frame_psnr", "autoencoder_ceiling_psnr"))
    click.echo(f"metrics: first frame {first} dB (autoencoder round trip: {ceiling} dB)")


def _print_counts(name: str, counts: dict[str, Any], folder: Path) -> None:
    """Print the number of rows per verdict, and all reasons."""
    click.echo(f"{name}: {format_counts(counts)}")
    for line in closing_lines(Artifact(folder)):
        click.echo(line)


def _formatted(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)
