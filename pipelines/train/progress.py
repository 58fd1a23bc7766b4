"""A progress bar for a stage, drawn where the command runs, whichever machine the workers are on."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..runner import SECONDS_BETWEEN_LINES
from .config import TrainConfig

_TAIL_BYTES = 4096  # more than one line of metrics


@contextmanager
def progress(config: TrainConfig, out: Path, steps_done: int) -> Iterator[None]:
    """Follow OUT/metrics.jsonl while the block runs; begins at `steps_done`."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.5):
            _show(bar, out)

    options: dict[str, Any] = {"desc": f"stage {config.stage}", "unit": "step", "dynamic_ncols": True}
    if not sys.stderr.isatty():
        options["mininterval"] = SECONDS_BETWEEN_LINES  # a log keeps every picture of the bar as a line
    with tqdm(total=config.steps, initial=steps_done, **options) as bar:
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            stop.set()
            follower.join()
            _show(bar, out)


def _show(bar: tqdm, out: Path) -> None:
    row = _last_row(out / "metrics.jsonl")
    if row is not None:
        bar.set_postfix_str(f"loss {row['loss']:.4f}", refresh=False)
        bar.update(row["step"] + 1 - bar.n)


def _last_row(metrics: Path) -> dict[str, Any] | None:
    """The newest whole line; None if there is none (yet)."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return None
    # The last piece follows the last newline: empty, or a line that is still being written.
    return json.loads(lines[-2]) if len(lines) > 1 else None
