"""Progress bar and trackers of a stage, updated in the process that runs the command.

They follow OUT/metrics.jsonl, so training never waits for them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...runtime.runner import SECONDS_BETWEEN_LINES
from ..config import TrainConfig
from ..metrics_file import METRICS, PARTS, NewRows, loss_terms
from .trackers import open_trackers


@contextmanager
def progress(config: TrainConfig, out: Path, steps_done: int) -> Iterator[None]:
    """Follow OUT/metrics.jsonl while the block runs, starting at `steps_done`."""
    stop = threading.Event()
    options: dict[str, Any] = {"desc": f"stage {config.stage}", "unit": "step", "dynamic_ncols": True}
    if not sys.stderr.isatty():
        options["mininterval"] = SECONDS_BETWEEN_LINES  # each refresh is a line in a log
    new_rows, trackers = NewRows(out / METRICS), open_trackers(config, out)

    def update() -> None:
        rows = new_rows()
        if rows:
            bar.set_postfix_str(format_row(rows[-1]), refresh=False)
            bar.update(rows[-1]["step"] + 1 - bar.n)
        for tracker in trackers:
            tracker.add(rows)

    def follow() -> None:
        while not stop.wait(0.5):
            update()
        update()
        for tracker in trackers:  # in this thread: MLflow's active run belongs to the thread that started it
            tracker.close()

    with tqdm(total=config.steps, initial=steps_done, **options) as bar:
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            stop.set()
            follower.join()


def format_row(row: dict[str, Any]) -> str:
    """Format a row of metrics for the bar: loss terms, gradient norm, rate, shares of the time, memory, MFU."""
    names = [*loss_terms(row), "validation_loss", "grad_norm"]
    words = [f"{name} {row[name]:.4f}" for name in names if row.get(name) is not None]
    if "samples_per_second" in row:
        words.append(f"{row['samples_per_second']:.3g} samples/s")
        shares = {part: row[f"{part}_share"] for part in PARTS}
        words.append(" ".join(f"{part} {share:.0%}" for part, share in shares.items() if share is not None))
        words.append(f"{row['memory_bytes'] / 1e9:.1f} GB")
    if row.get("mfu") is not None:
        words.append(f"MFU {row['mfu']:.0%}")
    return ", ".join(words)
