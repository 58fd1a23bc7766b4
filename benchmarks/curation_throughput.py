"""CPU time of a curation, compared with a plain script that opens a file once per score, and with decoding alone.

Measures CPU seconds of this process and its children; the sides alternate (A B, B A, …). Prints one JSON line of
medians per comparison. Films are 720p and 1080p, with one key frame per second or only one; three in ten are good, the
others dark, blurred, still or cut every second. Keypoints are supplied. The curation uses the cheap scores and the
threshold cut detector, without networks. The plain script decodes at full size with OpenCV, converts only the frames
that a score needs, and measures fewer scores than the curation (no camera motion, borders, flicker or copies).
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.toydance import draw_dancer, load_supplied_pose, save_supplied_pose, toy_pose
from steadydancer.datasets.video import client, probe
from steadydancer.datasets.video.reader import VideoReader
from steadydancer.pipelines.curate import job
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.scores.frame_scores import find_cuts
from steadydancer.pipelines.curate.scores.pose_scores import pose_scores
from steadydancer.pipelines.runtime.runner import Engine

CONFIG = CurateConfig(
    shot_detector="threshold", text_detector="off", person_counter="off", aesthetic_model="off", pose_model="supplied"
)
FPS = 24
FLAWS = ("good", "dark", "blurred", "cuts", "good", "still", "dark", "good", "blurred", "cuts")


def make_film(path: Path, seed: int, flaw: str, seconds: int, height: int, width: int, group: int) -> None:
    """Write a video of a dancer in front of a grainy, detailed wall, encoded like a phone video."""
    rng = np.random.default_rng(seed)
    detail = cv2.GaussianBlur(rng.normal(0, 40, (height, width, 3)).astype(np.float32), (0, 0), 1.5)
    textures = [(detail + rng.normal(0, 3, (height, width, 1))).astype(np.int16) for _ in range(4)]
    pose = toy_pose(seed, FPS * seconds, FPS, aspect=width / height)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "g": str(group), "crf": "23", "sc_threshold": "0" if group > FPS else "40"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for k in range(FPS * seconds):
            shown = 0 if flaw == "still" else k
            dancer = seed + (1000 * (k // FPS) if flaw == "cuts" else 0)
            picture = draw_dancer(pose[shown : shown + 1], dancer, height // 4, width // 4)[0]
            if flaw == "blurred":
                picture = cv2.resize(picture, (width // 60, height // 60), interpolation=cv2.INTER_AREA)
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
            if flaw != "blurred":
                picture = cv2.add(picture, textures[0 if flaw == "still" else k % 4], dtype=cv2.CV_8U)
            if flaw == "dark":
                picture = cv2.convertScaleAbs(picture, alpha=0.08)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    save_supplied_pose(path, [pose], FPS)


def make_films(folder: Path, count: int, seconds: int, flaws: tuple[str, ...]) -> list[Path]:
    """Make `count` films; existing files are reused."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(count):
        height, width = ((720, 1280), (1280, 720), (1080, 1920))[k % 3]
        group = FPS if k % 2 == 0 else 10_000
        path = folder / f"{k:03d}_{flaws[k % len(flaws)]}_{height}_{group}.mp4"
        if not path.is_file():
            make_film(path, 10 + k, flaws[k % len(flaws)], seconds, height, width, group)
        paths.append(path)
    return paths


def read_plainly(path: Path, wanted: np.ndarray | None, fps: float) -> Iterator[np.ndarray]:
    """Yield full-size frames of a file, sampled at `fps`, optionally only those with wanted numbers."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    rate = capture.get(cv2.CAP_PROP_FPS)
    keep, position, number = None if wanted is None else set(wanted.tolist()), 0, 0
    while capture.grab():
        while position == int(np.floor(number / fps * rate + 1e-6)):
            if keep is None or number in keep:
                yield capture.retrieve()[1]
            number += 1
        position += 1
    capture.release()


def plain_colours(image: np.ndarray) -> float:
    """Compute Hasler and Süsstrunk's M3 / 255."""
    blue, green, red = (image[..., k].astype(np.float32) for k in range(3))
    first, second = red - green, (red + green) / 2 - blue
    return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean())) / 255


def plain_sharpness(image: np.ndarray) -> float:
    """Compute the variance of the Laplacian at a short side of 256 pixels."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    scale = 256 / min(grey.shape)
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(small, cv2.CV_32F).var())


def plain_blur(image: np.ndarray) -> float:
    """Compute the blur score (1 − relative loss of gradients under another blur) at a short side of 256 pixels."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    scale = min(1.0, 256 / min(grey.shape))
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    values = []
    for axis, kernel in ((0, (1, 9)), (1, (9, 1))):
        steps, left = (np.abs(np.diff(one, axis=axis)) for one in (small, cv2.blur(small, kernel)))
        values.append(1 - float(np.maximum(0, steps - left).sum() / max(steps.sum(), 1e-6)))
    return max(values)


PICTURE_SCORES: dict[str, Callable[[np.ndarray], float]] = {
    "brightness": lambda image: float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean()) / 255,
    "contrast": lambda image: float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).std()) / 255,
    "colourfulness": plain_colours,
    "sharpness": plain_sharpness,
    "blur": plain_blur,
}


def plain_cuts(path: Path, config: CurateConfig) -> np.ndarray:
    """Compute the change of colour histograms between frames."""
    histograms = []
    for image in read_plainly(path, None, config.fps):
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        histogram = cv2.calcHist([hsv], [0, 1, 2], None, [12, 4, 8], [0, 180, 0, 256, 0, 256])
        histogram = cv2.GaussianBlur(histogram.reshape(12, 32), (3, 3), 0).ravel()
        histograms.append(histogram / histogram.sum())
    return np.abs(np.diff(np.asarray(histograms, np.float64), axis=0)).sum(axis=1) / 2


def plain_motion(path: Path, config: CurateConfig) -> np.ndarray:
    """Compute the mean change of luma between frames."""
    change, before = [], None
    for image in read_plainly(path, None, config.fps):
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        if before is not None:
            change.append(float(cv2.absdiff(grey, before).mean()) / 255)
        before = grey
    return np.array(change)


def plain_script(paths: list[Path], config: CurateConfig, scores: tuple[str, ...]) -> dict[str, bool]:
    """Return file → whether a window of it passes the gates, with one pass over the file per score."""
    accepted = {}
    for path in paths:
        cuts, motion = plain_cuts(path, config), plain_motion(path, config)
        edges = [0, *find_cuts(cuts, config.cut_threshold), len(cuts) + 1]
        windows = [
            np.arange(start, start + config.num_frames)
            for first, stop in pairwise(edges)
            for start in range(first, stop - config.num_frames + 1, config.num_frames)
        ]
        looked_at = [window[np.linspace(0, len(window) - 1, config.num_score_frames).round().astype(int)]
                     for window in windows]  # fmt: skip
        wanted = np.concatenate(looked_at) if windows else np.empty(0, int)
        measured: list[dict[str, float]] = [{} for _ in windows]
        for name in scores:
            values = dict(zip(wanted.tolist(), map(PICTURE_SCORES[name], read_plainly(path, wanted, config.fps)),
                              strict=True))  # fmt: skip
            for score, numbers in zip(measured, looked_at, strict=True):
                score[name] = float(np.mean([values[number] for number in numbers.tolist()]))
        for score, window in zip(measured, windows, strict=True):
            inside = slice(window[0], window[-1])
            score["cut_score"], score["motion_magnitude"] = float(cuts[inside].max()), float(motion[inside].mean())
            score |= plain_pose_scores(path, window, config)
        bounds = config.gates.bounds()
        accepted[path.name] = any(
            all(
                score.get(column) is None or (score[column] >= bound if side == "min" else score[column] <= bound)
                for _, column, side, bound in bounds
            )
            for score in measured
        )
    return accepted


def plain_pose_scores(path: Path, window: np.ndarray, config: CurateConfig) -> dict[str, Any]:
    """Compute the pose scores from the supplied keypoints."""
    supplied = load_supplied_pose(path)
    assert supplied is not None
    (pose, *_), fps = supplied
    chosen = pose[np.minimum(np.floor(window / config.fps * fps + 1e-6).astype(int), len(pose) - 1)]
    info = probe(path)
    return pose_scores(chosen, None, info.width / info.height, config.fps)


def curate(clips: Path, config: CurateConfig) -> tuple[dict[str, bool], dict[str, float]]:
    """Curate; return file → whether a clip of it is accepted, and the record's seconds."""
    with tempfile.TemporaryDirectory() as out:
        engine = Engine(Path(out) / ".engine", in_process=True)
        record = job.run(config, clips=str(clips), out=Path(out), engine=engine)
        accepted: dict[str, bool] = {}
        for row in Artifact(Path(out) / "clips").read().to_pylist():
            name = Path(row["source_path"]).name
            accepted[name] = accepted.get(name, False) or row["verdict"] == "ok"
        return accepted, record["seconds"]


def decode_barely(paths: list[Path], config: CurateConfig) -> None:
    """Decode one low-resolution pass over every file, in this process."""
    for path in paths:
        reader = VideoReader()
        for _ in reader.low_resolution(path, 1 / config.fps, 128)[1].stream:
            pass


def cpu_seconds() -> float:
    """Return CPU seconds of this process, its decoder process, and finished child processes."""
    pid = client.worker_pid()
    child = time.clock_gettime((~pid << 3) | 2) if pid else 0.0  # Linux clock id of another process's CPU time
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + child + ended.ru_utime + ended.ru_stime


def compare(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Measure CPU seconds of each side per round, in alternating order, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            start = cpu_seconds()
            sides[name]()
            if turn:
                seconds[name].append(cpu_seconds() - start)
    return seconds


def report(what: str, paths: list[Path], rounds: int, seconds_each: int) -> None:
    """Run the three sides over a folder of films and print one line."""
    folder = paths[0].parent
    scores = tuple(PICTURE_SCORES)
    plain, (ours, stages) = plain_script(paths, CONFIG, scores), curate(folder, CONFIG)
    seconds = compare(
        {
            "plain": lambda: plain_script(paths, CONFIG, scores),
            "curate": lambda: curate(folder, CONFIG),
            "decode": lambda: decode_barely(paths, CONFIG),
        },
        rounds,
    )
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "compared": what,
                "films": len(paths),
                "film_s": seconds_each,
                "accepted": sum(ours.values()),
                "same_decisions": ours == plain,
                "different": sorted(name for name in plain if ours.get(name) != plain[name]),
                "cpu_s": {name: round(value, 2) for name, value in middle.items()},
                "plain_over_curate": round(middle["plain"] / middle["curate"], 2),
                "of_the_decode_limit": round(middle["decode"] / middle["curate"], 3),
                "stage_s": {name: round(value, 2) for name, value in stages.items()},
                "rounds": rounds,
                "load": round(os.getloadavg()[0], 1),
            }
        ),
        flush=True,
    )


def main() -> None:
    """Compare on films of which three in ten pass, and on films that all pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=10, help="number in each of the two folders")
    parser.add_argument("--seconds", type=int, default=12, help="length of a film")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--media", type=Path, help="folder to keep the films in")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        media = arguments.media or Path(scratch)
        mixed = make_films(media / "mixed", arguments.films, arguments.seconds, FLAWS)
        report("three in ten pass", mixed, arguments.rounds, arguments.seconds)
        good = make_films(media / "good", arguments.films, arguments.seconds, ("good",))
        report("all pass", good, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
