"""Curation against NeMo Curator 1.4.0 on CPUs: CPU seconds a film, and what is on disk after broken files.

Ten films of 12 s of the same generator as `curation_throughput.py`, *mixed* (three of ten good, others dark, blurred,
still or cut every second) and all *good*; both sides look at two windows of 5 s a film, in one process and on a Ray of
their own. The sides and the numbers of films take turns, `--rounds` times. CPU seconds are those of all processes of
the command; a film's are the slope, (ten films − two films) / 8, so that start-up is left out; whole commands are
reported, too. The sides do not compute the same: the first line says what each does, `curator_run.py` which favours
Curator has.
Needs `ffmpeg` and `ffprobe`, which Curator calls. Twelve minutes on two cores.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from accounting import Used, measured  # noqa: E402
from bad_files import left_by_curator, left_by_us, make_bad_files  # noqa: E402
from curation_throughput import CONFIG, FLAWS, make_films  # noqa: E402
from environment import python_of  # noqa: E402

from steadydancer.flows.presets import tiny  # noqa: E402

FEW, MANY, SECONDS, WINDOWS = 2, 10, 12, 2
LIMIT_S = 300.0  # a command that stands still is ended
COMPUTES = {
    "steadydancer": "shots; 30 scores of light, blur, noise, flicker, camera, borders, copies and pose (keypoints are "
    "supplied); verdict and reason of each window; a page and a card. A film that its key frames condemn is not read "
    "in full. Writes no clips",
    "nemo-curator": "ffprobe; two means of motion vectors of at most 10 frames a clip, and the filter's decision; an "
    "mp4, copied from the stream, and a JSON of each clip",
}


def command(side: str, python: Path, clips: Path, out: Path, preset: Path, in_process: bool) -> list[str | Path]:
    """Return the command line of a side."""
    where = ["--in-process"] if in_process else []
    if side == "steadydancer":
        return [Path(sys.executable).with_name("steadydancer"), "curate", "--clips", clips, "--out", out,
                "--preset", preset, *where]  # fmt: skip
    return [python, "-P", HERE / "curator_run.py", clips, out, *where]


def run(words: list[str | Path], log: Path, limit_s: float = LIMIT_S) -> Used:
    """Run one command with one thread a process, as all sides do."""
    return measured(words, log, {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}, limit_s)


def compare(films: str, folders: dict[int, Path], python: Path, preset: Path, in_process: bool, rounds: int) -> None:
    """Measure both sides on few and many films; print one line."""
    used: dict[tuple[str, int], list[Used]] = {(side, count): [] for count in folders for side in COMPUTES}
    for turn in range(rounds):
        for side, count in list(used) if turn % 2 == 0 else reversed(used):
            with tempfile.TemporaryDirectory() as scratch:
                words = command(side, python, folders[count], Path(scratch) / "out", preset, in_process)
                done = run(words, Path(scratch) / "log")
                if done.status:
                    raise SystemExit(f"{side} ended with {done.status}:\n{(Path(scratch) / 'log').read_text()[-3000:]}")
                used[side, count].append(done)
    sides: dict[str, dict[str, Any]] = {}
    for side in COMPUTES:
        cpu = {count: [one.cpu_s for one in used[side, count]] for count in folders}
        wall = {count: statistics.median(one.wall_s for one in used[side, count]) for count in folders}
        slope = (statistics.median(cpu[MANY]) - statistics.median(cpu[FEW])) / (MANY - FEW)
        sides[side] = {
            "cpu_s_a_film": round(slope, 3),
            "windows_per_cpu_s": round(WINDOWS / slope, 2),
            "wall_s_a_film": round((wall[MANY] - wall[FEW]) / (MANY - FEW), 3),
            **{f"cpu_s_of_{count}_films": [round(one, 2) for one in cpu[count]] for count in folders},
            f"wall_s_of_{MANY}_films": round(wall[MANY], 1),
        }
    ours, theirs = (sides[side]["cpu_s_a_film"] for side in COMPUTES)
    whole = [statistics.median(sides[side][f"cpu_s_of_{MANY}_films"]) for side in COMPUTES]
    line = {
        "compared": "curation", "films": films, "run": "in process" if in_process else "Ray",
        "ratio": round(theirs / ours, 2), "ratio_whole_command": round(whole[1] / whole[0], 2), **sides,
        "rounds": rounds,
        "counted": used["steadydancer", MANY][0].counted, "load": round(os.getloadavg()[0], 1), "cores": os.cpu_count(),
    }  # fmt: skip
    print(json.dumps(line), flush=True)


def broken(folder: Path, film: Path, python: Path, preset: Path) -> None:
    """Curate broken files with both sides; print what each leaves of each file."""
    names = make_bad_files(folder / "bad", film)
    sides: dict[str, list[str | Path]] = {
        "steadydancer": command("steadydancer", python, folder / "bad", folder / "steadydancer", preset, True)
    }
    for side, words in (
        ("nemo-curator, exceptions caught", ["--in-process", "--catch"]),
        ("nemo-curator on Ray, as shipped", ["--encoder", "libvpx-vp9"]),
    ):
        sides[side] = [
            *command(side, python, folder / "bad", folder / side, preset, False),
            "--shortest-s",
            "2",
            *words,
        ]
    for side, words in sides.items():
        log = folder / "log"
        done = run(words, log)
        left = left_by_us(folder / side) if side == "steadydancer" else left_by_curator(folder / side, names)
        text = log.read_text(errors="replace").splitlines()
        line = {
            "compared": "broken files", "side": side, "files": len(names), "status": done.status,
            "with_a_reason": sum(":" in left.get(name, "") or "error" in left.get(name, "") for name in names),
            "left": {name: left.get(name, "nothing") for name in names},
            "raised": [row.split("\t")[1:] for row in text if row.startswith("RAISED")],
            "last_words": text[-1][:200] if done.status and text else None, "cpu_s": round(done.cpu_s, 1),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--films", nargs="*", choices=("mixed", "good"), default=["mixed", "good"])
    parser.add_argument("--on", nargs="*", choices=("process", "ray"), default=["process", "ray"])
    parser.add_argument("--no-broken", action="store_true", help="leave out the broken files")
    parser.add_argument("--media", type=Path, help="folder to keep the films in")
    parser.add_argument("--environments", type=Path, default=HERE.parents[1] / "build" / "peers")
    arguments = parser.parse_args()
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise SystemExit(
            "NeMo Curator calls ffmpeg and ffprobe, which are not on PATH: install them (Debian: package ffmpeg)"
        )
    python = python_of("curator", arguments.environments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        preset = folder / "cheap.json"
        preset.write_text(tiny().model_copy(update={"curate": CONFIG}).model_dump_json())
        media = arguments.media or folder
        print(json.dumps({"compared": "what each side computes", **COMPUTES}), flush=True)
        for films, flaws in (("mixed", FLAWS), ("good", ("good",))):
            many = make_films(media / films, MANY, SECONDS, flaws)
            few = folder / f"few_{films}"
            few.mkdir()
            for film in many[:FEW]:
                for file in film.parent.glob(f"{film.stem}.*"):
                    shutil.copyfile(file, few / file.name)
            for on in arguments.on if films in arguments.films else ():
                compare(films, {FEW: few, MANY: media / films}, python, preset, on == "process", arguments.rounds)
        if not arguments.no_broken:
            broken(folder, many[0], python, preset)


if __name__ == "__main__":
    main()
