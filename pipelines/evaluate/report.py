"""One static page: what was rendered beside what was asked, and the numbers. It needs no server and no network."""

import os
from dataclasses import replace
from typing import Any

from ...datasets.artifact import Artifact
from ...datasets.schema import Row
from ...datasets.storage import Location, is_address
from ..page import Section, write_page
from .steps import METRICS

PAGE = "report.html"


def metric_section(means: dict[str, dict[str, Any]]) -> Section:
    """The table of metrics, with unit, direction and meaning."""
    rows = []
    for name, (unit, better, meaning) in METRICS.items():
        mean = means.get(name, {"mean": None, "videos": 0})
        rows.append([name, mean["mean"], unit, mean["videos"], f"{better} is better" if better else "", meaning])
    return Section("Metrics", head=["metric", "mean", "unit", "videos", "", "what it says"], rows=rows)


def write_report(path: Location, metrics: Artifact, videos: dict[str, Row]) -> None:
    """The page of one evaluation."""
    record = metrics.record()
    groups = [
        [("reference", _relative(row["image"], path)), (f"render {name}", _relative(row["video"], path)),
         ("truth", _relative(row["truth"], path))]
        for name, row in sorted(videos.items())
    ]  # fmt: skip
    counts = ", ".join(f"{number} {name}" for name, number in record["counts"].items())
    text = f"Protocol {record['config']['protocol']}; {counts}. A metric without a value was not measured."
    metrics_table = replace(metric_section(record["means"]), text=text)
    write_page(path, "Evaluation", [metrics_table, Section("Videos", media=groups)])


def write_report_again(out: Location) -> Location:
    """The page of a finished evaluation, by its rows alone; its place.

    Args:
        out: what `evaluate --out` was given, or the artifact in it.

    Raises:
        ArtifactError: it is not finished.
    """
    metrics = Artifact(out / "metrics" if (out / "metrics").is_dir() else out)
    metrics.record()
    names = ("id", "image", "video", "truth")
    videos = {row["id"]: {name: row[name] for name in names} for row in metrics.read(list(names)).to_pylist()}
    page = metrics.path.parent / PAGE
    write_report(page, metrics, videos)
    return page


def _relative(file: str | None, page: Location) -> str | None:
    """A file as the page links to it: its way from the page, or its address if one of them is on a store."""
    if file is None or (is_address(file) != is_address(page)):
        return file
    return os.path.relpath(file, str(page.parent))
