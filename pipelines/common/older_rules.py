"""What was measured by an older rule of pictures, where frames are read again by today's.

Keypoints, crops and spans of a curation lie in the frames as they were read then. Of most files these are today's, and
the few others (mirrored, interlaced) are told by the file itself: their clips are quarantined, the rest goes on.
"""

from collections.abc import Mapping
from typing import Any

from ...datasets.rules import is_older
from ...datasets.schema import Row
from ...datasets.storage import local_copy
from ...datasets.video import VideoError, probe
from ..runtime.local_files import on_local_copies, reading_video
from ..runtime.stage import BadClip, Stage

REASON = "other_rules"


def uses_older_pictures(record: Mapping[str, Any]) -> bool:
    """Whether what a record tells of was measured in frames that an older rule of pictures gave."""
    return is_older(record, "pictures")


def has_same_pictures(path: str) -> bool:
    """Whether a file, here or on a store, gives the frames that an older rule gave; one that is unreadable does not."""
    try:
        with local_copy(path) as here:
            return not probe(here).changed_by_pictures_2
    except VideoError:
        return False


@on_local_copies("source_path", unchanged_since="source_id")
def require_same_pictures(row: Row, config: Any, tools: Any = None) -> Row:
    """The row, if its source's frames lie as they did when it was measured.

    Raises:
        BadClip: they do not (`other_rules`), or the source cannot be read or was replaced.
    """
    with reading_video():
        info = probe(row["source_path"])
    if info.geometry_changed_by_pictures_2:
        raise BadClip(
            REASON,
            f"{row['source_path']} was measured by an older version, which read it otherwise "
            f"({', '.join(info.changed_by_pictures_2)} now): its keypoints lie elsewhere in its pictures; curate anew",
        )
    return row


def stages_for(record: Mapping[str, Any], num_gpus: float = 0.0) -> list[Stage]:
    """The stage that comes before those which read frames of clips with this record; none where rules are today's."""
    if not uses_older_pictures(record):
        return []
    return [Stage("rules", require_same_pictures, ("source_path", "source_id"), (), num_gpus=num_gpus)]
