"""Check whether a file is still the one that was curated: its `source_id` is the digest of its content.

A process reads each file once and caches the digest until the file's metadata change. Checks of several clips of one
source, before and after each use, therefore cost no more than the first.
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

_MAX_KNOWN = 4096
# A file that was just written may be written again without a new modification time: some file systems have a resolution
# of two seconds.
_SETTLED_NS = 2_000_000_000

_known: dict[Identity, str] = {}


def content_id(path: str | os.PathLike[str] | ObjectPath) -> str:
    """Return the sha256 of a file's content, as `digests.content_digest`; an object is read each time.

    Raises:
        VideoError: the path cannot be opened or is not a file (`unreadable`).
        OSError: the file cannot be read completely.
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
            while len(_known) >= _MAX_KNOWN:
                del _known[next(iter(_known))]
            _known[before] = digest
        return _known[before]


def content_mismatch(path: str | os.PathLike[str], source_id: str | None) -> str | None:
    """Describe how a file differs from the one curated as `source_id`; None if its content is the same.

    A row of an older version has no id and cannot be checked: also None.

    Raises:
        VideoError: the file cannot be opened (`unreadable`).
        OSError: the file cannot be read completely.
    """
    if source_id is None or (now := content_id(path)) == source_id:
        return None
    return (
        f"{path} has changed since it was curated (sha256 {source_id[:12]}…, now {now[:12]}…): restore the old file "
        "or curate again"
    )


def is_unchanged(path: str | os.PathLike[str], source_id: str | None) -> bool:
    """Check whether a file exists and has the content of `source_id`."""
    try:
        return content_mismatch(path, source_id) is None
    except VideoError:
        return False
