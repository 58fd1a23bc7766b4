"""Make `.venv` ready: a virtual environment, the locked packages (checked by hash), this project, the pose model.

Needs python3.11 with pip, and a package index that pip is configured for; nothing else, no compiler. A second run
finds its stamp and returns at once.
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


def fingerprint() -> str:
    """Digest of everything that decides what the environment holds."""
    inputs = (LOCK, ROOT / "pyproject.toml", Path(__file__))
    return hashlib.sha256(sys.version.encode() + b"".join(path.read_bytes() for path in inputs)).hexdigest()


def pip_index() -> str | None:
    """The package index that pip is told to use, by its environment or configuration; None is its default."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    configured = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return os.environ.get("PIP_INDEX_URL") or configured or None


def run(*command: str | Path) -> None:
    """Run a command, or end with its exit status."""
    environment = {
        **os.environ,
        "VIRTUAL_ENV": str(VENV),
        "DS_BUILD_OPS": "0",  # DeepSpeed's build script must neither look for nor compile CUDA operators
        "UV_SYSTEM_CERTS": "1",  # trust whom this machine trusts, a company's proxy too
    }
    if index := pip_index():
        environment.setdefault("UV_DEFAULT_INDEX", index)
    status = subprocess.run([str(part) for part in command], env=environment).returncode
    if status:
        sys.exit(f"setup: `{' '.join(map(str, command))}` ended with status {status}")


def main() -> None:
    """Bring `.venv` to what the lock says."""
    if sys.version_info[:2] not in {(3, 11), (3, 12)}:
        sys.exit(
            f"setup: Python 3.11 or 3.12 is needed, this is {sys.version.split()[0]}; call `make PYTHON=python3.11`"
        )
    if STAMP.is_file() and STAMP.read_text() == fingerprint():
        return
    print("setup: making .venv from requirements.lock (about 7 GB, the network decides how long it takes)", flush=True)
    # Without a pip of its own: the modules that would put it there are missing from some systems' python3.11.
    venv.create(VENV)
    python = VENV / "bin" / "python"
    # The installer comes from the same lock, by hash, as everything it will install.
    uv_lines = re.search(r"^uv==.*?(?=^\S)", LOCK.read_text() + "\nend\n", re.MULTILINE | re.DOTALL)
    if uv_lines is None:
        sys.exit("setup: requirements.lock names no uv; make it again with `make lock`")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as bootstrap:
        bootstrap.write(uv_lines.group())
        bootstrap.flush()
        options = ("--quiet", "--require-hashes", "--no-deps", "-r", bootstrap.name)
        run(sys.executable, "-m", "pip", "--python", python, "install", *options)
    uv = VENV / "bin" / "uv"
    run(uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", LOCK)
    run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-build-isolation", "-e", ROOT)
    run(VENV / "bin" / "steadydancer", "weights", "fetch", "blazepose")
    STAMP.write_text(fingerprint())


if __name__ == "__main__":
    main()
