"""The learned demo: train the shipped checkpoints on, render the miniature X-Dance three times, and score it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from threading import local
from typing import Any

from ...datasets.artifact import Artifact
from ...datasets.storage.atomic import write_json
from ...datasets.storage.digests import json_digest
from ...pipelines.common.outcomes import require_usable
from ...pipelines.render.plan import WORK_FOLDER
from ...pipelines.runtime.beside import beside
from .. import tasks
from ..presets import Run, with_control
from .dancers import PAIRS, WRONG_PAIRS, PairSet
from .measure import PairFiles, measure_pair
from .other_jobs import render_pairs, train_stage
from .results import judged_metrics, more_metrics

Steps = Callable[[str], AbstractContextManager[None]]
Record = dict[str, Any]
Comparisons = dict[str, Callable[[], Record]]
RENDERS = {"render": ".", "wrong_render": "wrong_pose", "control": "control"}  # folder of each, below the set's
NUM_THREADS = 2


def train_on(run: Run, out: Path, steps: Steps) -> dict[str, Record]:
    """Train the shipped checkpoints of stages 1, 2, 3 and the control on into `out`; return their records."""
    components, latents = Path(run.cache.components), out / "latents"
    name = "stage2_control"
    control = beside(train_stage, with_control(run), 2, latents, str(components), out / name, components / name)
    records = {}
    for stage in (1, 2, 3):
        name = f"stage{stage}"
        with steps(f"train {name}"):
            records[name] = tasks.train(run, stage, latents, str(components), out / name, components / name)
    with steps("train stage2, control"):  # mostly done: it ran beside the stages
        records["stage2_control"] = control()
    return records


def start_comparisons(run: Run, pairs: PairSet, out: Path, trained: Path) -> Comparisons:
    """Start to render pairs with another dancer's pose and by the control, beside this process.

    Args:
        run: the configuration.
        pairs: the pairs.
        out: gets `wrong_pose/renders` and `control/renders`; inputs that are encoded for one stay in `work` for all.
        trained: the folder with `stage3` and `stage2_control`.
    """
    stage3, control = (trained / stage / "checkpoint" for stage in ("stage3", "stage2_control"))
    return {
        kind: beside(render_pairs, run, checkpoint, pairs.folder / table, out / RENDERS[kind], out / WORK_FOLDER)
        for kind, checkpoint, table in (("wrong_render", stage3, WRONG_PAIRS), ("control", control, PAIRS))
    }


def render_and_score(
    run: Run, pairs: PairSet, out: Path, trained: Path, steps: Steps, in_process: bool, comparisons: Comparisons
) -> dict[str, Any]:
    """Render pairs with the right pose, wait for the comparisons, and score all.

    Args:
        run: the configuration.
        pairs: the pairs.
        out: gets `renders` and `scores`.
        trained: the folder with `stage3`.
        steps: entered with the name of each step.
        in_process: render without Ray.
        comparisons: of `start_comparisons` with the same pairs.

    Returns:
        `difficulty`, the folder `pairs`, and metric → result as `metrics` and `more`.
    """
    name = "" if out == trained else f" {pairs.difficulty}"
    with steps(f"render{name}"):
        stage3 = trained / "stage3" / "checkpoint"
        records = {"render": tasks.render(run, stage3, pairs.folder / PAIRS, out, in_process=in_process)}
    with steps(f"render{name}: wrong pose, control"):
        records |= {kind: rendered() for kind, rendered in comparisons.items()}
    for kind, record in records.items():
        require_usable(Artifact(out / RENDERS[kind] / "renders"), record["counts"])
    with steps(f"score{name}"):
        scores = score(run, pairs, out)
    result = {"difficulty": pairs.difficulty, "pairs": str(pairs.folder)}
    return {**result, "metrics": judged_metrics(scores), "more": more_metrics(scores)}


def score(run: Run, pairs: PairSet, out: Path) -> list[dict[str, Any]]:
    """Measure all rendered pairs, several at a time; pairs measured before from the same renders are read."""
    digest = json_digest([Artifact(out / folder / "renders").record()["inputs"] for folder in RENDERS.values()])
    rendered = [rendered_videos(out / folder / "renders") for folder in RENDERS.values()]
    names = [name for name in pairs.ids() if all(name in videos for videos in rendered)]
    tools = _Tools(run)
    coding: dict[str, Any] = {"crf": run.render.crf, "chroma": run.render.chroma}

    def one(name: str) -> dict[str, Any]:
        file = out / "scores" / f"{name}.json"
        if file.is_file() and (stored := json.loads(file.read_text()))["digest"] == digest:
            return dict(stored["values"])
        files = PairFiles(
            pairs.image(name), pairs.video("truth", name), pairs.video("wrong", name), *(v[name] for v in rendered)
        )
        values = {key: _plain(value) for key, value in measure_pair(files, *tools.of_this_thread(), **coding).items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"digest": digest, "values": values})
        return values

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return list(threads.map(one, names))


def rendered_videos(renders: Path) -> dict[str, Path]:
    """Return the videos that were rendered, by the pair's id."""
    rows = Artifact(renders).read(["id", "video"]).to_pylist()
    return {row["id"]: renders / row["video"] for row in rows if row["video"]}


class _Tools:
    """The autoencoder and the pose estimator, one of each per thread: the autoencoder keeps state while it runs."""

    def __init__(self, run: Run) -> None:
        self._run, self._here = run, local()

    def of_this_thread(self) -> tuple[Any, Any]:
        from ...models.components import load_components
        from ...models.pose.estimator import open_pose_estimator

        if not hasattr(self._here, "tools"):
            vae = load_components(self._run.cache.components, ("vae",))["vae"]
            self._here.tools = vae, open_pose_estimator(self._run.render.pose_model)
        return self._here.tools


def _plain(value: Any) -> Any:
    """Convert NaN to None, and arrays to lists, for JSON."""
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value != value else value
