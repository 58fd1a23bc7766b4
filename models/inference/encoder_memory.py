"""Peak memory of encoding a clip, counted on the meta device without allocating or computing anything."""

import weakref
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@lru_cache(maxsize=64)
def encoding_bytes(num_frames: int, height: int, width: int) -> int:
    """Return the bytes of Wan 2.1's autoencoder in float32 and of all live tensors at the peak of encoding one clip.

    On a CPU the result is exact. Temporary memory of a device's kernels is not included.

    Args:
        num_frames: pixel frames, 4k + 1.
        height: of the frames, pixels.
        width: of the frames, pixels.
    """
    with torch.device("meta"), torch.no_grad(), _LiveBytes() as live_bytes:
        vae = AutoencoderKLWan()
        vae.encode(torch.empty(1, 3, num_frames, height, width))
    return live_bytes.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live tensors that operations in its context have created, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = operation(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            storage = result.untyped_storage() if isinstance(result, Tensor) else None
            if storage is not None and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._sizes.pop, storage._cdata)
                self.peak = max(self.peak, sum(self._sizes.values()))
        return results
