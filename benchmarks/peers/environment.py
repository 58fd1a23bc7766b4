"""Environments of the peers: each library with its own dependencies in front of the project's, which brings torch."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

PACKAGES = {
    "energon": ("megatron-energon==7.4.1", "multi-storage-client[boto3]"),
    "mosaic": ("mosaicml-streaming==0.13.0",),
    "curator": ("nemo-curator[video_cpu,cv2]==1.4.0",),
}


def python_of(name: str, folder: Path) -> Path:
    """Make the environment of a peer below `folder` unless it is there; return its interpreter."""
    place = folder / name
    python, done = place / "bin" / "python", place / "installed.txt"
    if not done.is_file() or done.read_text().splitlines() != [*PACKAGES[name]]:
        print(f"installing {', '.join(PACKAGES[name])} into {place}", file=sys.stderr, flush=True)
        venv.create(place, with_pip=True, clear=True)
        (site,) = place.glob("lib/python*/site-packages")
        (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
        done.write_text("\n".join(PACKAGES[name]))
    return python
