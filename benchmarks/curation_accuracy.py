"""Accuracy of curation verdicts on labelled clips.

Runs the `curate` job in this process over a folder, and compares each file (accepted if any of its clips is `ok`) with
a tab-separated table of expected verdicts, with columns `file` and `expected` (starts with `accept` or `reject`).
Prints JSON lines: one per wrong file (with the deciding gate and its value), one per reason (numbers of good and bad
files with it), and one with the balanced accuracy: the mean of the shares of good files accepted and of bad files
rejected.

The clips are supplied by the user; none are part of the project.
"""

import argparse
import csv
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from steadydancer.datasets.artifact import Artifact
from steadydancer.pipelines.curate import job
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.runtime.runner import Engine


def read_labels(path: Path) -> dict[str, bool]:
    """Read file name → whether it should be accepted."""
    with path.open(newline="") as file:
        return {row["file"]: row["expected"].startswith("accept") for row in csv.DictReader(file, delimiter="\t")}


def compare(rows: list[dict[str, Any]], labels: dict[str, bool]) -> list[dict[str, Any]]:
    """Compare the rows of a curation with the labels; return the JSON lines."""
    of_file: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_file[Path(row["source_path"]).name].append(row)
    right: Counter[bool] = Counter()
    reasons: dict[str, Counter[bool]] = defaultdict(Counter)
    lines = []
    for name, wanted in sorted(labels.items()):
        clips = of_file.get(name, [])
        accepted = any(clip["verdict"] == "ok" for clip in clips)
        right[wanted] += accepted == wanted
        # A file is represented by an accepted clip, or else by the longest one; ties go to the first.
        best = min(clips, key=lambda clip: (clip["verdict"] != "ok", -(clip["num_frames"] or 0)), default=None)
        reason = (best["reason"] or "ok") if best else "no row"
        reasons[reason][wanted] += 1
        if accepted != wanted:
            detail = best and (best["detail"] or best["unmeasured"])
            lines.append({"wrong": name, "expected": wanted, "reason": reason, "detail": detail})
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1].total()):
        lines.append({"reason": reason, "good_files": count[True], "bad_files": count[False]})
    totals = Counter(labels.values())
    shares = [right[wanted] / totals[wanted] for wanted in (True, False) if totals[wanted]]
    lines.append(
        {
            "balanced_accuracy": round(sum(shares) / len(shares), 4),
            "good_accepted": f"{right[True]} of {totals[True]}",
            "bad_refused": f"{right[False]} of {totals[False]}",
        }
    )
    return lines


def main() -> None:
    """Curate, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[2] / "shared" / "corpus"
    parser.add_argument("--clips", type=Path, default=here / "clips")
    parser.add_argument("--labels", type=Path, default=here / "clips.tsv", help="table with columns file, expected")
    parser.add_argument("--num-frames", type=int, default=41)
    parser.add_argument("--out", type=Path, help="keep the curation in this folder, or resume the one in it")
    options = parser.parse_args()
    if not options.labels.is_file():
        print(json.dumps({"skipped": f"{options.labels} does not exist; give --clips and --labels"}))
        return
    config = CurateConfig(num_frames=options.num_frames)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        start, cpu_start = time.perf_counter(), time.process_time()
        job.run(config, clips=str(options.clips), out=out, engine=Engine(out / ".engine", in_process=True))
        seconds = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu_start}
        rows = Artifact(out / "clips").read().to_pylist()
        record = Artifact(out / "clips").record()
    lines = compare(rows, read_labels(options.labels))
    lines[-1] |= {name: round(value, 1) for name, value in seconds.items()}
    lines[-1]["stage_s"] = {name: round(value, 1) for name, value in record["seconds"].items()}
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
