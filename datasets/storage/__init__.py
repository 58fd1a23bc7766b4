"""Files and folders, on this machine or in an object store: names, reading, atomic writing, digests, leases.

Each name is imported when it is first asked for: modules below it may then import one another's.
"""

from typing import TYPE_CHECKING

from ... import lazy_names

if TYPE_CHECKING:
    from .locations import (
        Location,
        ObjectPath,
        StorageError,
        format_location,
        is_address,
        join,
        local_copy,
        local_folder,
        location,
        publish,
        relative,
        state_folder,
        total_bytes,
        working_folder,
    )

__all__ = [
    "Location",
    "ObjectPath",
    "StorageError",
    "format_location",
    "is_address",
    "join",
    "local_copy",
    "local_folder",
    "location",
    "publish",
    "relative",
    "state_folder",
    "total_bytes",
    "working_folder",
]

__getattr__, __dir__ = lazy_names(__name__, dict.fromkeys(__all__, "locations"))
