"""The networks that need no hub, on drawn faces: a video of one person, and one whose person is exchanged halfway."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.video import encode
from steadydancer.models.weights import lookup
from steadydancer.pipelines.evaluate import job
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.protocols import Protocol
from steadydancer.pipelines.evaluate.sources import Source
from steadydancer.pipelines.runtime.runner import Engine

WEIGHTS = ("dlib-face", "efficientnet-lite0", "selfie-segmentation", "i3d-kinetics-400")
COUNT = 17
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


def face_drawing() -> ModuleType:
    """The test of the face embedding, which draws faces."""
    file = Path(__file__).resolve().parents[2] / "models" / "metrics" / "judges" / "test_face.py"
    spec = importlib.util.spec_from_file_location("face_drawing", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[tuple[Any, ...], Any]]:
    if absent := [name for name in WEIGHTS if lookup.find(lookup.weight(name)) is None]:
        pytest.skip(f"`steadydancer weights fetch {' '.join(absent)}` was not run on this machine")
    root, drawing = tmp_path_factory.mktemp("real"), face_drawing()
    for folder in ("bench", "same", "swapped"):
        (root / folder).mkdir()
    clips = [np.stack([drawing.drawn((170 + 2 * k, 200 + k), **who) for k in range(COUNT)])
             for who in (drawing.ONE, drawing.OTHER)]  # fmt: skip
    rows = []
    for number, clip in enumerate(clips):
        swapped = np.concatenate([clip[:9], clips[1 - number][9:]])
        cv2.imwrite(str(root / "bench" / f"{number}.png"), clip[0][..., ::-1])
        for file, frames in {"bench/{}-d": clip, "same/{}": clip, "swapped/{}": swapped}.items():
            encode(frames, root / f"{file.format(number)}.mp4", 16, lossless=True)
        rows.append({"id": str(number), "image": f"{number}.png", "driving": f"{number}-d.mp4",
                     "truth": f"{number}-d.mp4"})  # fmt: skip
    (root / "bench" / "pairs.json").write_text(json.dumps(rows))
    config = EvaluateConfig(
        metrics=("psnr", "face", "efficientnet", "person-crop", "background", "i3d"),
        protocol=Protocol(name="short", fvd=("i3d-torchscript,16f",)),
        device="cpu",
    )
    sources = [Source(None, root / name) for name in ("same", "swapped")]
    engine = Engine(root / ".engine", in_process=True)
    record = job.run(config, videos=sources, benchmark=str(root / "bench"), out=root / "out", engine=engine)
    found = Artifact(root / "out" / "metrics").read().to_pylist()
    return record, {(row["method"], row["id"], row["metric"]): row for row in found}


def test_the_record_names_digest_and_licence_of_every_network(scored: Any) -> None:
    record, _ = scored
    assert set(record["weights"]) == set(WEIGHTS) and not record["weights_missing"]
    for name, stated in record["weights"].items():
        row = lookup.weight(name)
        folder = lookup.find(row)
        assert folder is not None and stated["licence"] == row.licence and stated["non_commercial"] is False
        if len(row.files) == 1:
            assert stated["sha256"] == content_digest(folder / row.files[0])
        assert len(stated["sha256"]) == 64


def test_a_face_is_like_its_reference_until_it_is_exchanged(scored: Any) -> None:
    _, rows = scored
    for one in "01":
        same, swapped = ({name: rows[method, one, f"{name}[dlib-face]"]["value"] for name in
                          ("identity", "identity_min", "identity_slope", "identity_last_quarter", "identity_found")}
                         for method in ("same", "swapped"))  # fmt: skip
        limit = rows["same", one, "identity[dlib-face,ceiling]"]["value"]
        floor = rows["same", None, "identity[dlib-face,floor]"]["value"]
        assert same["identity_found"] == 1 and floor < limit <= 1
        assert same["identity"] > 0.8 and same["identity_last_quarter"] > 0.7
        assert swapped["identity_last_quarter"] < same["identity_last_quarter"] - 0.1
        assert swapped["identity_slope"] < 3 * min(same["identity_slope"], -0.01)


def test_a_set_against_itself_is_at_no_distance(scored: Any) -> None:
    _, rows = scored
    fid, fvd = ({method: rows[method, None, name]["value"] for method in ("same", "swapped")}
                for name in ("fid[efficientnet-lite0]", "fvd[i3d-torchscript,16f]"))  # fmt: skip
    assert fid["same"] == pytest.approx(0, abs=1e-6) and fvd["same"] == pytest.approx(0, abs=1e-3)
    # The frames of both videos together are the same: only a distance of whole videos sees the exchange.
    assert fid["swapped"] == pytest.approx(0, abs=1e-6) and fvd["swapped"] > 10
    assert "mostly bias" in rows["same", None, "fvd[i3d-torchscript,16f]"]["detail"]
    for one in "01":
        name = "subject_consistency[efficientnet-lite0]"
        assert rows["same", one, name]["value"] > rows["swapped", one, name]["value"]


def test_every_null_has_a_reason(scored: Any) -> None:
    _, rows = scored
    for row in rows.values():
        assert (row["value"] is None) == bool(row["reason"]) and (row["value"] is not None or row["detail"]), row
