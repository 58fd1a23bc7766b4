"""A progress bar and the trackers of a stage, fed where the command runs, whichever machine the workers are on.

All of them follow OUT/metrics.jsonl, so that training waits for none of them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..runner import SECONDS_BETWEEN_LINES
from .config import TrainConfig
from .metrics_file import METRICS, parse
from .trackers import open_trackers

_PARTS = ("data", "forward", "backward", "optimizer")  # as `meter` measures them; it would bring torch along


@contextmanager
def progress(config: TrainConfig, out: Path, steps_done: int) -> Iterator[None]:
    """Follow OUT/metrics.jsonl while the block runs; begins at `steps_done`."""
    stop = threading.Event()
    options: dict[str, Any] = {"desc": f"stage {config.stage}", "unit": "step", "dynamic_ncols": True}
    if not sys.stderr.isatty():
        options["mininterval"] = SECONDS_BETWEEN_LINES  # a log keeps every picture of the bar as a line
    new_rows, trackers = NewRows(out / METRICS), open_trackers(config, out)

    def show() -> None:
        rows = new_rows()
        if rows:
            bar.set_postfix_str(told(rows[-1]), refresh=False)
            bar.update(rows[-1]["step"] + 1 - bar.n)
        for tracker in trackers:
            tracker.add(rows)

    def follow() -> None:
        while not stop.wait(0.5):
            show()
        show()
        for tracker in trackers:  # here: MLflow knows a run in the thread that began it
            tracker.close()

    with tqdm(total=config.steps, initial=steps_done, **options) as bar:
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            stop.set()
            follower.join()


def told(row: dict[str, Any]) -> str:
    """A row of metrics as the bar shows it: loss terms, rate, shares of the time, memory, MFU."""
    at = list(row).index("batch_digest") if "batch_digest" in row else len(row)
    terms = {name: row[name] for name in list(row)[:at] if name != "step" and not name.startswith("validation_loss_")}
    words = [f"{name} {value:.4f}" for name, value in terms.items()]
    if "samples_per_second" in row:
        words.append(f"{row['samples_per_second']:.3g} samples/s")
        words.append(" ".join(f"{part} {row[f'{part}_share']:.0%}" for part in _PARTS))
        words.append(f"{row['memory_bytes'] / 1e9:.1f} GB")
    if row.get("mfu") is not None:
        words.append(f"MFU {row['mfu']:.0%}")
    return ", ".join(words)


class NewRows:
    """The rows of a metrics file that were not given yet; all of them again when the file was cut back.

    Args:
        file: JSON lines; may not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._offset = 0, 0

    def __call__(self) -> list[dict[str, Any]]:
        """Whole lines only: the last one may still be written. Damaged ones are named by who reads them all."""
        try:
            with self._file.open("rb") as file:
                inode = self._file.stat().st_ino
                if inode != self._inode:  # cutting back writes the file anew
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        self._offset += len(whole) + bool(whole)
        return [line.row for line in parse(whole + b"\n") if line.row is not None] if whole else []
