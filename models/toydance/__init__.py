"""ToyDance: small networks of the real classes, and the commands that fit them to the world of `datasets.toydance`.

The fitted weights are part of the package, in half precision, in `models/toydance/components/`: the parts of a pipeline
(`vae text_encoder tokenizer image_encoder scheduler transformer`), `pose/` with the two ONNX files of `DWPose`, and the
checkpoints `stage1 stage2 stage2_control stage3`. Importing this module loads no network library.
"""

from __future__ import annotations

from pathlib import Path

from ..weights import WeightsError
from ..weights.catalogue import TOYDANCE_FILES, shipped_folder
from ..weights.lookup import find, weight

CHECKPOINTS = ("stage1", "stage2", "stage2_control", "stage3")


def components_folder() -> Path:
    """Return the folder of the shipped components, `toydance` in the folder of local weights, or in this package.

    It is returned whether or not it exists: `require_shipped` checks it.
    """
    row = weight("toydance")
    folder = find(row) or shipped_folder(row)
    assert folder is not None
    return folder


def require_shipped(folder: Path) -> Path:
    """Check that a folder has the layout of the shipped components, and return it.

    Raises:
        WeightsError: files are missing; the message names the first ones.
    """
    missing = [name for name in TOYDANCE_FILES if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise WeightsError(
            f"{folder} has no {', '.join(missing[:3])}{more}: the small ToyDance weights are part of this package. "
            "Install it again or restore the files, or pass another --preset."
        )
    return folder
