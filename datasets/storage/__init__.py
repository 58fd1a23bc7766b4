"""Files and folders on the local disk or in an object store: paths, reading, atomic writes, digests, leases.

Names are imported on first use, which avoids import cycles between the modules of this package.
"""

from typing import TYPE_CHECKING

from ... import lazy_names

if TYPE_CHECKING:
    from .files import total_bytes
    from .locations import (
        Location,
        ObjectPath,
        StorageError,
        format_location,
        is_address,
        join,
        local_folder,
        location,
        named,
        publish,
        relative,
        state_folder,
        working_folder,
    )
    from .requests import StoreUnavailableError

__all__ = [
    "Location",
    "ObjectPath",
    "StorageError",
    "StoreUnavailableError",
    "format_location",
    "is_address",
    "join",
    "local_copy",
    "local_folder",
    "location",
    "named",
    "publish",
    "relative",
    "state_folder",
    "total_bytes",
    "working_folder",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(__all__, "locations"),
        "StoreUnavailableError": "requests",
        "total_bytes": "files",
        "local_copy": ".local_copies",
    },
)
