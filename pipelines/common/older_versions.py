"""Compatibility with folders that earlier versions wrote."""

from typing import Any

from pydantic import BaseModel


def absent_fields(config: type[BaseModel]) -> dict[str, Any]:
    """Return the value that each field has in an older configuration without it: its default.

    The default of a field that is added later must be the earlier behaviour, so that older folders can be resumed.
    """
    fields = config.model_fields.items()
    return {
        name: _plain(field.get_default(call_default_factory=True)) for name, field in fields if not field.is_required()
    }


def _plain(value: Any) -> Any:
    """Convert a value to its JSON form."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
