"""Quantise weights while a conversion streams them, and measure the error of each (`steadydancer convert --quantise`).

Every output channel has its own scale, so that one large row does not coarsen the others: s = max |w| / 127 for int8
and max |w| / 448 for float8 (e4m3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..checkpoints.files import CheckpointError, StoredTensor
from ..checkpoints.quantisation import LARGEST, STORED, Quantisation, is_quantisable, scale_name
from ..checkpoints.safetensors_header import FLOATS, item_bytes
from ..checkpoints.streaming import CHUNK_BYTES, OutputTensor, read_tensor_bytes

if TYPE_CHECKING:
    from torch import Tensor

REPORT = "quantisation.json"


@dataclass
class ErrorReport:
    """Errors of the quantised weights, filled while they are written.

    Attributes:
        kind: "int8" or "fp8".
        errors: by weight: `max_abs` (largest difference), `relative_rms` (root mean square of the differences over that
            of the weights), `cosine` (between weight and quantised weight).
    """

    kind: Quantisation
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report with its summary first."""
        relative = {name: error["relative_rms"] for name, error in self.errors.items()}
        worst = max(relative, key=lambda name: relative[name])
        return {
            "kind": self.kind,
            "scale": "per output channel",
            "summary": {
                "num_tensors": len(self.errors),
                "mean_relative_rms": sum(relative.values()) / len(relative),
                "largest_relative_rms": relative[worst],
                "largest_relative_rms_in": worst,
                "lowest_cosine": min(error["cosine"] for error in self.errors.values()),
            },
            "tensors": self.errors,
        }


@dataclass(frozen=True)
class QuantisedRows:
    """Source of a quantised weight's bytes; each pass reads the stored weight once, about a megabyte at a time."""

    name: str
    stored: StoredTensor
    kind: Quantisation
    report: ErrorReport

    def chunks(self) -> Iterator[bytes]:
        """Yield the quantised rows, and add their error to the report.

        Raises:
            CheckpointError: the weight has values that are not finite, or its file was truncated during reading.
        """
        import torch

        sums, largest = torch.zeros(4, dtype=torch.float64), 0.0
        for weights in _rows(self.name, self.stored):
            scales = channel_scales(weights, self.kind)
            quantised = quantise(weights, scales, self.kind)
            restored = quantised.float() * scales
            off = restored - weights
            largest = max(largest, off.abs().max().item())
            pairs = ((off, off), (weights, weights), (restored, restored), (weights, restored))
            sums += torch.stack([(a.double() * b.double()).sum() for a, b in pairs])
            yield quantised.view(torch.uint8).numpy().tobytes()
        off2, weight2, restored2, product = sums.tolist()
        self.report.errors[self.name] = {
            "shape": [*self.stored.shape],
            "max_abs": largest,
            "relative_rms": (off2 / weight2) ** 0.5 if weight2 else 0.0,
            "cosine": product / (weight2 * restored2) ** 0.5 if weight2 and restored2 else 1.0,
        }


@dataclass(frozen=True)
class ChannelScales:
    """Source of the bytes of a quantised weight's scales [out, 1] in float32."""

    rows: QuantisedRows

    def chunks(self) -> Iterator[bytes]:
        """Yield the scales.

        Raises:
            CheckpointError: as for `QuantisedRows.chunks`.
        """
        for weights in _rows(self.rows.name, self.rows.stored):
            yield channel_scales(weights, self.rows.kind).numpy().tobytes()


def quantised_outputs(
    outputs: Mapping[str, OutputTensor], kind: Quantisation, report: ErrorReport
) -> dict[str, OutputTensor]:
    """Replace the outputs of quantisable weights by their quantised rows and scales; others stay as they are.

    Args:
        outputs: tensors to write by our names.
        kind: "int8" or "fp8".
        report: filled while the returned outputs are written.

    Raises:
        CheckpointError: no weight is quantisable.
    """
    out: dict[str, OutputTensor] = {}
    for name, tensor in outputs.items():
        stored = tensor.source
        if not isinstance(stored, StoredTensor) or stored.dtype not in FLOATS or not is_quantisable(name, tensor.shape):
            out[name] = tensor
            continue
        rows = QuantisedRows(name, stored, kind, report)
        out[name] = OutputTensor(rows, tensor.shape, STORED[kind])
        out[scale_name(name)] = OutputTensor(ChannelScales(rows), (tensor.shape[0], 1), "F32")
    if len(out) == len(outputs):
        raise CheckpointError(f"nothing to quantise: none of the {len(outputs)} tensors is a block's linear weight")
    return out


def channel_scales(weights: Tensor, kind: Quantisation) -> Tensor:
    """Return the scale [rows, 1] of each row of `weights` [rows, in], float32; 1 for a row of zeros."""
    largest = weights.abs().amax(dim=1, keepdim=True)
    # Not below float32's smallest normal number: smaller scales are flushed to zero on some machines.
    return (largest / LARGEST[kind]).clamp(min=2.0**-126).where(largest > 0, 1.0)


def quantise(weights: Tensor, scales: Tensor, kind: Quantisation) -> Tensor:
    """Return `weights` / `scales`, rounded to the nearest value of the kind's grid."""
    import torch

    grid = weights / scales
    if kind == "int8":
        return grid.round().clamp(-LARGEST[kind], LARGEST[kind]).to(torch.int8)
    return grid.clamp(-LARGEST[kind], LARGEST[kind]).to(torch.float8_e4m3fn)


def _rows(name: str, stored: StoredTensor) -> Iterator[Tensor]:
    """Yield the rows of a stored matrix in float32, about a megabyte at a time."""
    import torch

    columns = stored.shape[-1]
    row_bytes = columns * item_bytes(stored.dtype)
    for chunk in read_tensor_bytes(stored, max(1, CHUNK_BYTES // row_bytes) * row_bytes):
        weights = torch.frombuffer(bytearray(chunk), dtype=getattr(torch, FLOATS[stored.dtype])).float()
        if not weights.isfinite().all():
            raise CheckpointError(f"{stored.file}: {name} has values that are not finite, so it cannot be quantised")
        yield weights.reshape(-1, columns)
