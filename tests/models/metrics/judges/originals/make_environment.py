"""Make a Python environment with the packages that the judges are compared with, and print its interpreter.

    .venv/bin/python tests/models/metrics/judges/originals/make_environment.py vbench-i2v

The environment lies in `build/judges/NAME` and is kept. It sees the libraries of the environment that runs this script
(torch and the like), so that pip installs the original packages alone and without what they ask for: they pin NumPy 1
and old transformers, which the parts that are compared do not need. pip takes them from whichever index it uses.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[5]
PACKAGES = {
    "vbench-i2v": (
        "vbench==0.1.5",
        "dreamsim==0.2.1",
        "pyiqa==0.1.16",
        "openai-clip==1.0.1",
        "fastvideo==0.2.1",
        # What these import.
        "antlr4-python3-runtime==4.13.2",
        "imageio",
        "omegaconf==2.4.0",
        "remote-pdb",
        "scipy>=1.15",
    ),
}


def make(name: str) -> Path:
    """Return the interpreter of the environment `name`, made if it is absent or holds other packages."""
    folder = ROOT / "build" / "judges" / name
    python, stamp = folder / "bin" / "python", folder / "packages.txt"
    wanted = "\n".join(PACKAGES[name])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True, symlinks=True)
    inside = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    (Path(inside.stdout.strip()) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES[name]], check=True, stdout=sys.stderr
    )
    stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    print(make(*sys.argv[1:]))
