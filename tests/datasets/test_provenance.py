"""A video says what made it, wherever its file goes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer import __version__
from steadydancer.datasets.provenance import ProvenanceError, make_record, read_provenance, write_video
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.video import decode, encode, read_metadata

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)


def record(**changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": {"transformer": "ab" * 32, "vae": "cd" * 32},
        "inputs": {"image": "ef" * 32},
        "settings": {"prompt": "她跳舞 “quoted”\n; = # \\ ß", "steps": 40, "interval": [0.1, 0.4], "height": None},
        "seed": 2**63,
    }
    return make_record(**(arguments | changes))


def test_the_file_alone_says_what_made_it(tmp_path: Path) -> None:
    whole = write_video(FRAMES, tmp_path / "a.mp4", record(), fps=20)
    copied = shutil.copy(tmp_path / "a.mp4", tmp_path / "renamed.bin")
    reported = read_provenance(copied)
    assert reported == record()
    assert reported["made_by"] == f"SteadyDancer {__version__}" and reported["software"]["torch"]
    assert read_metadata(copied)["comment"] == f"SteadyDancer {__version__}, transformer {'ab' * 8}, seed {2**63}"
    assert json.loads((tmp_path / "a.json").read_text()) == whole
    video = {"sha256": content_digest(copied), "height": 32, "width": 48, "num_frames": 5, "fps": 20.0}
    assert whole == {**reported, "video": video}


def test_the_same_frames_and_record_are_the_same_bytes_in_one_piece_or_many(tmp_path: Path) -> None:
    pieces = {"whole": FRAMES, "two": iter([FRAMES[:1], FRAMES[1:]]), "frames": (frame[None] for frame in FRAMES)}
    written = []
    for name, frames in pieces.items():
        write_video(frames, tmp_path / f"{name}.mp4", record())
        written.append((tmp_path / f"{name}.mp4").read_bytes())
    assert written[0] == written[1] == written[2]
    write_video(FRAMES, tmp_path / "other.mp4", record(seed=1))
    assert (tmp_path / "other.mp4").read_bytes() != written[0]
    assert (decode(tmp_path / "other.mp4", np.arange(5) / 16) == decode(tmp_path / "two.mp4", np.arange(5) / 16)).all()


def test_a_file_that_says_nothing_is_told_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    encode(FRAMES, tmp_path / "silent.mp4")
    with pytest.raises(ProvenanceError, match="has no provenance record"):
        read_provenance(tmp_path / "silent.mp4")
    with pytest.raises(ProvenanceError, match="cannot be read as a video: the file cannot be opened"):
        read_provenance(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("words")
    with pytest.raises(ProvenanceError, match="cannot be read as a video"):
        read_provenance(tmp_path / "text.mp4")


def test_nothing_is_left_of_a_video_that_could_not_be_written(tmp_path: Path) -> None:
    def broken() -> Any:
        yield FRAMES
        raise RuntimeError("gone")

    def growing() -> Any:
        yield FRAMES
        yield np.zeros((1, 64, 48, 3), np.uint8)

    with pytest.raises(RuntimeError, match="gone"):
        write_video(broken(), tmp_path / "a.mp4", record())
    with pytest.raises(ValueError, match=r"one size: got \[64, 48\] after \[32, 48\]"):
        write_video(growing(), tmp_path / "a.mp4", record())
    with pytest.raises(ValueError, match="F ≥ 1"):
        write_video(iter([]), tmp_path / "a.mp4", record())
    with pytest.raises(ValueError, match=r"\.mp4, not in \.avi"):
        write_video(FRAMES, tmp_path / "a.avi", record())
    with pytest.raises(ValueError, match="JSON"):
        write_video(FRAMES, tmp_path / "a.mp4", record(settings={"scale": float("nan")}))
    assert not list(tmp_path.iterdir())
