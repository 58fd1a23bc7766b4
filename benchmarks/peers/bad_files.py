"""Small files that a curation should survive, made from one good film, and what each side leaves on disk of them."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import av
import numpy as np


def make_bad_files(folder: Path, film: Path) -> list[str]:
    """Write files with the names of videos; return the names."""
    folder.mkdir()
    data = film.read_bytes()
    shutil.copyfile(film, folder / "good.mp4")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is not a video.\n" * 100)
    (folder / "random_bytes.mp4").write_bytes(np.random.default_rng(0).bytes(100_000))
    (folder / "cut_in_half.mp4").write_bytes(data[: len(data) // 2])  # the index is at the end
    (folder / "header_only.mp4").write_bytes(data[:64])
    start, stop = len(data) // 4, len(data) * 3 // 4
    (folder / "zeros_within.mp4").write_bytes(data[:start] + bytes(stop - start) + data[stop:])
    _sound(folder / "sound_only.mp4")
    _frames(folder / "one_frame.mp4", frames=1, side=360)
    _frames(folder / "half_a_second.mp4", frames=12, side=360)
    _frames(folder / "64_pixels.mp4", frames=144, side=64)
    _fragments(folder / "cut_fragments.mp4", film)  # an index a fragment: half of it can be read
    with av.open(str(folder / "picture.mp4"), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 360
        stream.pix_fmt = "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((360, 360, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return sorted(file.name for file in folder.iterdir())


def _sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        for k in range(260):
            samples = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, 1024 * k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _frames(path: Path, frames: int, side: int) -> None:
    rng = np.random.default_rng(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            picture = rng.integers(0, 255, (side, side, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _fragments(path: Path, film: Path) -> None:
    whole = path.with_suffix(".whole")
    with (
        av.open(str(film)) as source,
        av.open(str(whole), "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container,
    ):
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    data = whole.read_bytes()
    whole.unlink()
    path.write_bytes(data[: len(data) // 2])


def left_by_us(out: Path) -> dict[str, str]:
    """Return what our curation says of each file: verdict and reason of each of its rows."""
    from steadydancer.datasets.artifact import Artifact

    said: dict[str, set[str]] = defaultdict(set)
    for row in Artifact(out / "clips").read(["source_path", "verdict", "reason"]).to_pylist():
        said[Path(row["source_path"]).name].add(
            f"{row['verdict']}: {row['reason']}" if row["reason"] else row["verdict"]
        )
    return {name: ", ".join(sorted(each)) for name, each in said.items()}


def left_by_curator(out: Path, names: list[str]) -> dict[str, str]:
    """Return what NeMo Curator's output folder says of each file."""
    said: dict[str, set[str]] = defaultdict(set)
    for file in out.glob("metas/v0/*.json"):
        clip = json.loads(file.read_text())
        name = Path(clip["source_video"]).name
        if clip.get("errors"):
            said[name].add("clip with an error in " + " and ".join(sorted(clip["errors"])))
        elif clip.get("motion_score", {}).get("global_mean", -1) >= 0:
            said[name].add("clip with a score")
        else:
            said[name].add("clip without a score")
    for name in names:
        if name not in said and (out / "processed_videos" / f"{name}.json").is_file():
            said[name].add("record without a reason")
    return {name: ", ".join(sorted(said[name])) or "nothing" for name in names}
