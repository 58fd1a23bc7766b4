"""Frame models: networks of other packages that see a clip's frames while they are in memory, and write columns.

Captions and embeddings are the usual ones. They need no second decode: frames are those of the pose estimator, inside
the borders, and with `decoder: gpu` they have never left the device. A package registers a class as an entry point of
the group `steadydancer.frame_models`, and the configuration names it. A configuration can thus only name code that
somebody installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from ... import SteadyDancerError
from ...datasets.schema import CLIP_SCHEMA, FRAME_MODEL, Row

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "steadydancer.frame_models"


class FrameModel(Protocol):
    """A network that describes clips; `FrameModel(device)` loads it once per worker.

    Attributes:
        version: changes whenever the results do; measurements of another version are not reused.
        columns: names and types of its results. Column `text` of the model `caption` is stored as `caption_text`.
    """

    version: str
    columns: pa.Schema

    def __init__(self, device: str) -> None:
        """Load the network on "cpu" or "cuda"."""

    def annotate(self, frames: Tensor, fps: float) -> Mapping[str, Any]:
        """Return a value for each of `columns`, None where it has none.

        Args:
            frames: all frames of a clip on the device, uint8 [F, H, W, 3] RGB, the shorter side at most 512 pixels.
            fps: frames per second.
        """
        ...


def find_frame_models(names: Sequence[str]) -> dict[str, type[FrameModel]]:
    """Import the classes of frame models without loading a network.

    Raises:
        SteadyDancerError: a name is not registered, or registered twice; the class cannot be imported, or is no frame
            model.
    """
    return {name: _find(name) for name in names}


def _find(name: str) -> type[FrameModel]:
    known = entry_points(group=GROUP)
    found = [one for one in known if one.name == name]
    if len(found) != 1:
        registered = ", ".join(sorted(f"{one.name} ({one.value})" for one in known)) or "none"
        raise SteadyDancerError(
            f"frame_models: {name} is registered {len(found)} times, expected once; registered: {registered}. "
            f"Install the package that has it under the entry points of {GROUP}"
        )
    (entry,) = found
    try:
        model = entry.load()
    except (ImportError, AttributeError) as error:
        raise SteadyDancerError(f"frame_models: {name} ({entry.value}) cannot be imported: {error}") from error
    _check(entry, model)
    return model


def _check(entry: EntryPoint, model: Any) -> None:
    version, columns = getattr(model, "version", None), getattr(model, "columns", None)
    if not isinstance(version, str) or not isinstance(columns, pa.Schema) or not callable(model):
        raise SteadyDancerError(
            f"frame_models: {entry.name} ({entry.value}) has version {version!r} and columns {columns!r}, expected a "
            "class with a version (str) and columns (pyarrow.Schema)"
        )


def versions_of(names: Sequence[str]) -> dict[str, str]:
    """Return the version of each frame model, for the record."""
    return {name: model.version for name, model in find_frame_models(names).items()}


def annotated_schema(names: Sequence[str]) -> pa.Schema:
    """Return the schema of measured rows: that of clips, and the columns of these frame models.

    Raises:
        SteadyDancerError: two columns have the same name.
    """
    schema = CLIP_SCHEMA
    for name, model in find_frame_models(names).items():
        for field in model.columns:
            column, about = _column(name, field.name), field.metadata or {}
            if column in schema.names:
                raise SteadyDancerError(f"frame_models: {field.name} of {name} would be {column}, which exists already")
            schema = schema.append(pa.field(column, field.type, metadata={**about, FRAME_MODEL: name}))
    return schema


def annotate(models: Mapping[str, FrameModel], frames: Tensor, fps: float) -> Row:
    """Return the columns that frame models write for a clip.

    Raises:
        TypeError: a model returned other columns than it declares, or a value of another type.
    """
    row: Row = {}
    for name, model in models.items():
        values = model.annotate(frames, fps)
        if set(values) != set(model.columns.names):
            raise TypeError(f"frame model {name} returned {sorted(values)}, expected {sorted(model.columns.names)}")
        for field in model.columns:
            try:
                value = pa.array([values[field.name]], field.type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                words = f"frame model {name} returned a {field.name} that is no {field.type}: {error}"
                raise TypeError(words) from error
            row[_column(name, field.name)] = value[0].as_py()
    return row


def _column(model: str, name: str) -> str:
    return f"{model}_{name}"
