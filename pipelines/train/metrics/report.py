"""HTML report of a training run: losses, time, and the galleries of all kept steps side by side.

It is built from the files in the run's folder, local or on a store, so it can be written at any time, without torch.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from .... import SteadyDancerError
from ....datasets.artifact import RECORD
from ....datasets.storage import Location
from ....datasets.storage.files import folders_in
from ...pages.charts import bar
from ...pages.curves import draw_curves, legend
from ...pages.layout import Figure, Section, show, url, write_page
from ...runtime.after_commit import after_commit
from ..gallery.folder import REFERENCE_MEDIA, clip_name, gallery_failures, gallery_name, gallery_records
from ..metrics_file import METRICS, PARTS, damaged_lines, loss_terms, read_rows

PAGE, STAGES_PAGE = "report.html", "training.html"
STAGES = {1: "action supervision", 2: "condition-decoupled distillation", 3: "motion discontinuity mitigation"}
Row = dict[str, Any]
_TONES = ("accepted", "rejected", "quarantined", "rejected")


def write_run_report(out: Location) -> None:
    """Write OUT/report.html, if there are metrics; a failure is logged and does not stop training."""
    with after_commit(f"{out / PAGE}", f"run `steadydancer report --run {out}` to write it"):
        write_run_page(out)


def write_run_page(out: Location) -> Location | None:
    """Write OUT/report.html and return its path; None if the run has no steps yet."""
    rows = read_rows(out)
    if not rows:
        return None
    write_page(out / PAGE, f"Training: {out.name}", list(run_sections(out, rows)))
    return out / PAGE


def write_stages_report(out: Location, stages: Sequence[int] = tuple(STAGES)) -> Location | None:
    """Write OUT/training.html for the stages in OUT/stage1 to OUT/stage3; return its path, None without steps."""
    folders = {stage: out / f"stage{stage}" for stage in stages}
    rows_of = {stage: read_rows(folder) for stage, folder in folders.items()}
    if not any(rows_of.values()):
        return None
    sections = [_overview(folders, rows_of)]
    for stage, folder in folders.items():
        if rows_of[stage]:
            sections += run_sections(folder, rows_of[stage], f"Stage {stage}: ", f"stage{stage}/")
    write_page(out / STAGES_PAGE, f"Training in {len(stages)} stages: {out.name}", sections)
    return out / STAGES_PAGE


def write_pages(out: Location) -> list[Location]:
    """Write the report of a run, or of all stages in a folder and of each of them; return the paths.

    Raises:
        SteadyDancerError: the folder has no training metrics.
    """
    stages = [out / f"stage{stage}" for stage in STAGES]
    pages = [write_run_page(out), *map(write_run_page, stages), write_stages_report(out)]
    written = [page for page in pages if page is not None]
    if not written:
        raise SteadyDancerError(
            f"neither {out} nor its stage folders have a metrics.jsonl with steps: pass the --out of `train`"
        )
    return written


def run_sections(out: Location, rows: list[Row], title: str = "", prefix: str = "") -> Iterator[Section]:
    """Build the sections of a run's report.

    Args:
        out: folder of the run.
        rows: its metrics.
        title: prefix of the section titles.
        prefix: relative path from the page to `out`, empty or ending in a slash.
    """
    record = _json(out / "checkpoint" / RECORD)
    yield _numbers(rows, record, title, prefix, damaged_lines(out))
    yield _losses(rows, title)
    if any("validation_loss" in row for row in rows):
        yield _validation(rows, title)
    if "seconds" in rows[-1]:
        yield _time(rows, title)
    yield from _galleries(out, rows, record, title, prefix)


def stages_markdown(out: Location) -> str:
    """Describe the stages in Markdown: losses, and the steps that have a gallery."""
    section = _overview({stage: out / f"stage{stage}" for stage in STAGES}, None)
    rows = [section.head, ["---"] * len(section.head), *section.rows]
    lines = ["| " + " | ".join(re.sub("<[^>]*>", "", str(show(cell))) for cell in row) + " |" for row in rows]
    for stage in STAGES:
        folder = out / f"stage{stage}"
        if steps := gallery_steps(folder):
            lines += ["", f"Stage {stage} has galleries at steps {', '.join(map(str, steps))}: "
                      f"`steadydancer pick --run {folder} --steps N`"]  # fmt: skip
        lines += ["", *(f"* stage {stage}: the gallery at step {step} could not be rendered: {failure['reason']}"
                        for step, failure in gallery_failures(folder).items())]  # fmt: skip
    return "\n".join(lines) + "\n"


def _overview(folders: dict[int, Location], rows_of: dict[int, list[Row]] | None) -> Section:
    table = []
    for stage, folder in folders.items():
        record, rows = _json(folder / "checkpoint" / RECORD), rows_of[stage] if rows_of else read_rows(folder)
        losses = [record.get(name) for name in ("loss_before", "loss_after", "validation_loss")]
        page = Markup('<a href="stage{}/{}">{} {}</a>').format(stage, PAGE, stage, STAGES[stage])
        table.append([page if rows else f"{stage} {STAGES[stage]}", len(rows), *losses, _hours(rows),
                      "finished" if record else "not finished"])  # fmt: skip
    head = ["stage", "steps", "loss before", "loss after", "validation loss", "training hours", ""]
    text = "Measured on fixed samples. Each stage has its own loss, so losses of different stages are not comparable."
    return Section("Stages", text, head=head, rows=table)


def _numbers(rows: list[Row], record: Row, title: str, prefix: str, damaged: list[int]) -> Section:
    config = record.get("config", {})
    measured = [row["validation_loss"] for row in rows if "validation_loss" in row]
    tiles: list[tuple[Any, str]] = [(rows[-1]["step"] + 1, "steps"), (rows[-1]["loss"], "loss of the last step")]
    if measured:
        tiles.append((measured[-1], "validation loss"))
    if "seconds" in rows[-1]:
        rates = [row["samples_per_second"] for row in rows if "samples_per_second" in row]
        tiles += [(_hours(rows), "training hours"), (statistics.median(rates), "samples per second")]
    if rows[-1].get("mfu") is not None:
        tiles.append((f"{statistics.median(row['mfu'] for row in rows if row.get('mfu')):.0%}", "MFU"))
    facts: list[list[Any]] = [["metrics of every step", _link(prefix + METRICS)]]
    if damaged:
        facts.append([f"damaged lines of {METRICS}, not used here", ", ".join(map(str, damaged))])
    if record:
        facts += [
            ["checkpoint", _link(f"{prefix}checkpoint/{RECORD}")],
            ["seed", str(config["seed"])],
            ["learning rate", f"{config['learning_rate']:g}"],
        ]
        inputs = {name: record[name] for name in ("latents", "base", "parent") if record.get(name)}
        facts += [[name, f"{given['path']} (digest {given['digest'][:12]})"] for name, given in inputs.items()]
    return Section(f"{title}Run", tiles=tiles, head=["", ""], rows=facts)


def _hours(rows: list[Row]) -> float | None:
    """Sum the hours of all steps; None if a step was not timed or its line is damaged."""
    if not all("seconds" in row for row in rows) or (rows and len(rows) <= rows[-1]["step"]):
        return None
    return sum(row["seconds"] for row in rows) / 3600


def _losses(rows: list[Row], title: str) -> Section:
    text = "mean and range of neighbouring steps"
    figures = [Figure(name, draw_curves([_curve(rows, name)]), text) for name in loss_terms(rows[0])]
    if any(row.get("grad_norm") is not None for row in rows):
        norms = draw_curves([_curve(rows, "grad_norm")], floor=0.0)
        figures.append(Figure("gradient norm", norms, f"L2, before clipping; {text}"))
    figures.append(Figure("learning rate", draw_curves([_curve(rows, "lr")], floor=0.0)))
    return Section(
        f"{title}Loss",
        "Measured on each step's own batch, noise and σ, so it varies from step to step.",
        figures=figures,
    )


def _validation(rows: list[Row], title: str) -> Section:
    names = sorted({name for row in rows for name in row if name.startswith("validation_loss_")})
    sigmas = [f"σ = {name.removeprefix('validation_loss_')}" for name in names]
    figures = [
        Figure("mean over σ", draw_curves([_curve(rows, "validation_loss")])),
        Figure("by σ", draw_curves([_curve(rows, name) for name in names]), legend(sigmas)),
    ]
    text = "Measured on clips whose sources are not in the training set, always with the same noise."
    return Section(f"{title}Validation", text, figures=figures)


def _time(rows: list[Row], title: str) -> Section:
    curves = {part: _curve(rows, f"{part}_share") for part in PARTS}
    curves = {part: curve for part, curve in curves.items() if len(curve[0])}
    shares = {part: statistics.fmean(values) for part, (_, values) in curves.items()}
    shares["other"] = max(0.0, 1 - sum(shares.values()))
    tones = {**dict(zip(PARTS, _TONES, strict=True)), "other": "accepted"}
    table = [[part, f"{share:.1%}", bar([(share, tones[part])])] for part, share in shares.items()]
    figures = [
        Figure("seconds per step", draw_curves([_curve(rows, "seconds")], floor=0.0)),
        Figure("shares of a step", draw_curves(list(curves.values()), 0.0), legend(list(curves))),
        Figure("samples per second", draw_curves([_curve(rows, "samples_per_second")], floor=0.0)),
        Figure("memory, GB", draw_curves([_curve(rows, "memory_bytes", 1e-9)], floor=0.0)),
    ]
    text = "" if len(curves) == len(PARTS) else "Set `profile` in the configuration to time the other parts on a GPU."
    return Section(f"{title}Time", text, head=["part", "share", ""], rows=table, figures=figures)


def _galleries(out: Location, rows: list[Row], record: Row, title: str, prefix: str) -> Iterator[Section]:
    steps = gallery_steps(out)
    records, failed = gallery_records(out, steps), gallery_failures(out)
    if not records and not failed:
        return
    losses = {row["step"] + 1: row["validation_loss"] for row in rows if "validation_loss" in row}
    if record.get("validation_loss") is not None:
        losses[record["steps"]] = record["validation_loss"]
    clips = list(dict.fromkeys(clip for gallery in records.values() for clip in gallery["clips"]))
    media = []
    for clip in clips:
        names = zip(("reference", "pose", "ground truth"), REFERENCE_MEDIA, strict=True)
        group = [(f"{name}\n{clip[:16]}", prefix + clip_name(clip, file))
                 for name, file in names]  # fmt: skip
        for step, gallery in records.items():
            if clip in gallery["clips"]:
                video = f"{prefix}{gallery_name(step)}/{clip}.mp4"
                caption = f"\nvalidation loss {losses[step]:.4g}" if step in losses else ""
                group.append((f"{step} steps{caption}", video))
        media.append(group)
    text = (
        "Clips whose sources are not in the training set, each rendered from the same noise with the weights of every "
        f"step that was kept.\n`steadydancer pick --run {out} --steps N` writes the checkpoint of the step you choose, "
        "for the next stage, `render` and the pipeline."
    )
    yield Section(f"{title}Galleries", text, media=media)
    if failed:
        table = [[step, failure["reason"]] for step, failure in failed.items()]
        yield Section(f"{title}Galleries that could not be rendered", "Training was not affected. Run the same "
                      "command again to retry them.", head=["steps", "reason"], rows=table)  # fmt: skip


def gallery_steps(out: Location) -> list[int]:
    """List the steps that have a gallery folder, in order."""
    names = (folder.name for folder in folders_in(out / "gallery"))
    return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))


def _curve(rows: list[Row], name: str, scale: float = 1.0) -> tuple[Any, Any]:
    points = [(row["step"], row[name] * scale) for row in rows if row.get(name) is not None]
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return x, y


def _link(href: str) -> Markup:
    return Markup('<a href="{}">{}</a>').format(url(href), href)


def _json(file: Location) -> Row:
    return dict(json.loads(file.read_text())) if file.is_file() else {}
