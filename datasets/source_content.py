"""Whether a file is still the one that was curated: its `source_id` is the digest of its content.

A digest costs one reading of the file. A process reads a file for it once, as long as nothing that the file system
tells of it changes: several clips of one source, and looks before and after each, cost no more than the first.
"""

import hashlib
import os
import time
from pathlib import Path

from .storage import ObjectPath, location
from .storage.digests import content_digest
from .storage.files import needs_download
from .video import VideoError
from .video.info import Identity, identity_of, opened

_MOST_KNOWN = 4096
# A file that was written to within the last moments may be written to again without another time: some file systems
# count in two seconds.
_SETTLED_NS = 2_000_000_000

_known: dict[Identity, str] = {}


def content_id(path: str | os.PathLike[str] | ObjectPath) -> str:
    """sha256 of a file's content, as `digests.content_digest` gives it; of an object it is read each time.

    Raises:
        VideoError: it cannot be opened, or is no file (`unreadable`).
        OSError: it cannot be read to its end.
    """
    if needs_download(place := location(path)):
        return content_digest(place)
    with opened(str(place)) as name, Path(name).open("rb") as file:
        before = identity_of(file.fileno())
        if before not in _known:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            is_settled = time.time_ns() - max(before.modified_ns, before.changed_ns) > _SETTLED_NS
            if not is_settled or identity_of(file.fileno()) != before:
                return digest
            while len(_known) >= _MOST_KNOWN:
                del _known[next(iter(_known))]
            _known[before] = digest
        return _known[before]


def content_mismatch(path: str | os.PathLike[str], source_id: str | None) -> str | None:
    """What is wrong with a file that was curated as `source_id`, in words; None if its content is the same.

    A row without an id is of a version that kept none: nothing can be said of it.

    Raises:
        VideoError: it cannot be opened (`unreadable`).
        OSError: it cannot be read to its end.
    """
    if source_id is None or (now := content_id(path)) == source_id:
        return None
    return (
        f"{path} is another file than was curated (sha256 {source_id[:12]}…, now {now[:12]}…): bring the old one back, "
        "or curate anew"
    )


def is_unchanged(path: str | os.PathLike[str], source_id: str | None) -> bool:
    """Whether a file is there and its content is that of `source_id`."""
    try:
        return content_mismatch(path, source_id) is None
    except VideoError:
        return False
