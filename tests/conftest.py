"""What tests of jobs and commands begin with, made once a session when first asked for, never changed by a test."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dancers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clips/`: two good procedural dancers and six flawed ones; `pairs.jsonl` with images, drivings and truths."""
    from steadydancer.datasets.toydance import make_toy_clips, make_toy_pairs

    folder = tmp_path_factory.mktemp("dancers")
    make_toy_clips(folder / "clips", seed=0, num_good=2)
    make_toy_pairs(folder, seed=1, num_pairs=1, num_frames=13)
    return folder


@pytest.fixture(scope="session")
def curated(dancers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `curate --out` was given, finished."""
    from steadydancer.pipelines.curate import job
    from steadydancer.pipelines.curate.config import CurateConfig
    from steadydancer.pipelines.runner import Engine

    out = tmp_path_factory.mktemp("curated")
    config = CurateConfig(num_frames=33, num_score_frames=4, packet_size=3, pose_model="supplied")
    job.run(config, clips=str(dancers / "clips"), out=out, engine=Engine(out / ".engine", in_process=True))
    return out


@pytest.fixture(scope="session")
def components(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder of tiny components."""
    from steadydancer.models.components import save_components, tiny_components

    folder = tmp_path_factory.mktemp("components")
    save_components(tiny_components(seed=0), folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint as a training stage leaves it."""
    from steadydancer.datasets.artifact import write_json
    from steadydancer.models.components import load_components
    from steadydancer.models.transformer import SteadyDancerTransformer3DModel

    folder = tmp_path_factory.mktemp("checkpoint")
    base = load_components(components, ("transformer",))["transformer"]
    SteadyDancerTransformer3DModel.from_wan(base).save_pretrained(folder / "transformer")
    write_json(folder / "run.json", {"kind": "checkpoint", "stage": 3, "base": {"path": str(components)}})
    return folder


@pytest.fixture(scope="session")
def cached(curated: Path, components: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `latents` that `cache` made of the accepted clips."""
    from steadydancer.pipelines.cache import job
    from steadydancer.pipelines.cache.config import CacheConfig
    from steadydancer.pipelines.runner import Engine

    out = tmp_path_factory.mktemp("cached")
    config = CacheConfig(
        components=str(components),
        max_area_px=64 * 64,
        drawing_area_px=64 * 64,
        dtype="float32",
        encoder_dtype="float32",
        packet_size=2,
    )
    job.run(config, clips=curated, out=out, engine=Engine(out / ".engine", in_process=True))
    return out / "latents"
