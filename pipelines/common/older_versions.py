"""What earlier versions wrote, read today."""

from typing import Any

from pydantic import BaseModel


def absent_fields(config: type[BaseModel]) -> dict[str, Any]:
    """What each field of a configuration counts as where an older one does not have it: its default.

    A field that is added later takes what the program did before as its default; so older folders go on.
    """
    fields = config.model_fields.items()
    return {
        name: _plain(field.get_default(call_default_factory=True)) for name, field in fields if not field.is_required()
    }


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value
