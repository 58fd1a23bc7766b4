"""The paper's model: the transformer, its objectives, sampler and pipeline, and the networks around them.

The public names are imported lazily: importing one does not load the libraries of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import lazy_names

if TYPE_CHECKING:
    from .checkpoints.key_maps import config_from_official, from_official, to_official
    from .pipeline import SteadyDancerPipeline
    from .sampling import denoise
    from .transformer import SteadyDancerTransformer3DModel

__all__ = [
    "SteadyDancerPipeline",
    "SteadyDancerTransformer3DModel",
    "config_from_official",
    "denoise",
    "from_official",
    "to_official",
]

_MODULE_OF = {
    "SteadyDancerPipeline": "pipeline",
    "SteadyDancerTransformer3DModel": "transformer",
    "config_from_official": "checkpoints.key_maps",
    "denoise": "sampling",
    "from_official": "checkpoints.key_maps",
    "to_official": "checkpoints.key_maps",
}


__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
