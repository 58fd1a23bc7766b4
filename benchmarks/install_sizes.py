"""Installed size of each extra: install it into a clean environment, import its modules, measure its size.

Run it in the repository's root with the project's Python; needs a package index. Prints one line per extra.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# extra → (modules that must be importable with it, packages that must be absent)
PROBES = {
    "": ("import steadydancer.datasets.shards, steadydancer.models.pipeline", ("ray", "prefect", "deepspeed")),
    "curate": (
        "import steadydancer.pipelines.curate.steps, ray.data, rtmlib, ai_edge_litert",
        ("prefect", "deepspeed"),
    ),
    "train": ("import steadydancer.pipelines.train.job, ray.train, deepspeed", ("prefect",)),
    "evaluate": ("import steadydancer.pipelines.evaluate.steps, ray.data", ("prefect", "deepspeed")),
    "judges": (
        "import steadydancer.models.metrics.judges.efficientnet, ai_edge_litert, dlib, timm",
        ("ray", "prefect", "deepspeed"),
    ),
    "flows": ("import prefect, ray.job_submission", ("deepspeed",)),
    "curate,train,evaluate,flows": ("import steadydancer.flows.reproduce", ()),
}


def measure(extra: str, scratch: Path) -> str:
    """Install one extra, check its imports and measure its size."""
    environment = scratch / (extra or "base").replace(",", "-")
    uv = [str(Path(sys.executable).parent / "uv"), "--quiet"]
    python = environment / "bin" / "python"
    subprocess.run([*uv, "venv", "--python", sys.executable, str(environment)], check=True, cwd=ROOT)
    start = time.perf_counter()
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    lock = ["--constraint", str(ROOT / "requirements.lock")]
    subprocess.run([*uv, "pip", "install", "--python", str(python), *lock, target], check=True, cwd=ROOT)
    seconds = time.perf_counter() - start
    statement, absent = PROBES[extra]
    check = f"{statement}; import importlib.util as u; assert not [m for m in {absent} if u.find_spec(m)]"
    subprocess.run([str(python), "-P", "-c", check], check=True, cwd=scratch)
    size = int(subprocess.run(["du", "-sm", environment], capture_output=True, text=True, check=True).stdout.split()[0])
    return f"{extra or 'base':28} {size / 1000:5.1f} GB  installed in {seconds:.0f} s"


def main() -> None:
    """Measure all extras."""
    for extra in PROBES:
        with tempfile.TemporaryDirectory() as scratch:
            print(measure(extra, Path(scratch)), flush=True)


if __name__ == "__main__":
    main()
