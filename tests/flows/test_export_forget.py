"""The commands `export` and `forget` as a person calls them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.clips import Clips
from steadydancer.datasets.storage.result_store import ResultStore


def test_export_says_what_it_would_do_does_it_and_has_nothing_left_to_do(
    call: Any, curated: Path, tmp_path: Path
) -> None:
    words = (
        "export",
        "--clips",
        curated,
        "--out",
        tmp_path / "out",
        "--as",
        "musubi",
        "--area",
        64 * 64,
        "--in-process",
    )
    plan = json.loads(call(*words, "--dry-run").out)
    assert (plan["clips"], plan["packets"], plan["finished"], plan["layout"]) == (3, 1, False, "musubi")
    assert sum(plan["sizes"].values()) == 3 and plan["seconds_of_video"] == pytest.approx(3 * 33 / 16)
    assert not (tmp_path / "out").exists()
    done = call(*words)
    assert done.code == 0 and "3 inputs, 3 ok, 0 rejected, 0 quarantined" in done.out
    assert (tmp_path / "out" / "export" / "dataset.toml").is_file()
    again = call(*words)
    assert again.code == 0 and "nothing to do" in again.out
    other = call(*words, "--lossless")
    assert other.code == 1 and "config.lossless: false → true" in other.err
    assert call(*words, "--size", "source").code == 2


def test_export_takes_its_area_from_the_preset(call: Any, curated: Path, tmp_path: Path) -> None:
    words = ("export", "--clips", curated, "--out", tmp_path / "out", "--dry-run")
    small = json.loads(call(*words, "--preset", "tiny").out)["sizes"]
    assert small == {"48x64": 3}
    source = json.loads(call(*words, "--preset", "tiny", "--size", "source").out)["sizes"]
    assert source == {"192x256": 3}


def test_forget_says_what_it_would_do_asks_before_it_deletes_and_goes_on(
    call: Any, curated: Path, tmp_path: Path
) -> None:
    shutil.copytree(curated, tmp_path / "run")
    row = next(row for row in Clips(tmp_path / "run").read().to_pylist() if row["source_path"].endswith("dancer_1.mp4"))
    kept = ResultStore(tmp_path / "rendered/work")
    for k, files in enumerate(([row["source_id"], "an image"], ["an image"], ())):
        kept.put(f"latents/{k}", value=k, made_from=files)
    words = ("forget", row["source_id"][:12], "--clips", tmp_path / "run", "--out", tmp_path / "new",
             "--work", tmp_path / "rendered/work")  # fmt: skip
    plan = json.loads(call(*words, "--dry-run").out)
    assert (plan["forget"], plan["rows"]["ok"], plan["files"]) == ([row["source_id"]], 1, 1)
    assert plan["kept_results"] == {str(tmp_path / "rendered/work"): 1}
    assert plan["makes"] == [str(tmp_path / "new" / "clips")] and not (tmp_path / "new").exists()

    # No terminal, no --yes: nothing goes, and the person is told what still holds it.
    done = call(*words)
    assert done.code == 0 and "1 rows removed" in done.out and f"  {tmp_path / 'run' / 'clips'}" in done.out
    assert Artifact(tmp_path / "run" / "clips").committed and Artifact(tmp_path / "new" / "clips").committed
    assert f"  {tmp_path / 'rendered/work'}" in done.out and kept.counts() == {"latents": 3}
    ended = call(*words, "--yes")
    assert ended.code == 0 and "deleted the replaced versions" in ended.out
    assert not (tmp_path / "run" / "clips").exists() and not (tmp_path / "run" / "measured").exists()
    assert kept.get("latents/0") is None and kept.counts() == {"latents": 2}
    assert call(*words, "--yes").code == 0
    wrong = call("forget", "nobody", "--clips", tmp_path / "new", "--out", tmp_path / "newer")
    assert wrong.code == 1 and wrong.err.startswith("steadydancer: no source matches nobody")
