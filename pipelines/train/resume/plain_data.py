"""Training states are read as tensors and plain data. As pickles they could run any code of whoever wrote them."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..run_folder import TrainingRefused

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch asks it at every load, whatever DeepSpeed passes


@contextmanager
def plain_data_only(state: Path) -> Iterator[None]:
    """Make every `torch.load` of the block, DeepSpeed's too, refuse objects other than tensors and plain data.

    Raises:
        TrainingRefused: a file contains another object; nothing of it was created or called.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        # Classes that hold numbers: DeepSpeed writes them into every state.
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            yield
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL:? ([\w.]+)", str(error), re.IGNORECASE)
        kind = f"an object `{found[1]}`" if found else "an object"
        raise TrainingRefused(
            f"state: {state} contains {kind}, which is neither a tensor nor plain data, and was not read: it was not "
            "written by this program. Delete it to resume from an earlier state, and find out who can write to that "
            "folder"
        ) from error
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
