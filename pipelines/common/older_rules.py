"""Curations made under an older version of the `pictures` rule, whose files are now decoded by the current version.

Keypoints, crops and spans refer to frames as the older version decoded them. Most files decode the same way today. The
few that do not (mirrored, interlaced) are recognised by probing the file, and their clips are quarantined.
"""

from collections.abc import Mapping
from typing import Any

from ...datasets.local_copies import local_copy
from ...datasets.rules import is_older
from ...datasets.schema import Row
from ...datasets.video import VideoError, probe
from ..runtime.local_files import on_local_copies, reading_video
from ..runtime.stage import BadClip, Stage

REASON = "other_rules"


def uses_older_pictures(record: Mapping[str, Any]) -> bool:
    """Check whether a record's rows were measured under an older version of the `pictures` rule."""
    return is_older(record, "pictures")


def has_same_pictures(path: str) -> bool:
    """Check whether a file (local or on a store) decodes to the same frames as before; False if it is unreadable."""
    try:
        with local_copy(path) as local:
            return not probe(local).changed_by_pictures_2
    except VideoError:
        return False


@on_local_copies("source_path", unchanged_since="source_id")
def require_same_pictures(row: Row, config: Any, tools: Any = None) -> Row:
    """Return the row if its source's frames have the same geometry as when it was measured.

    Raises:
        BadClip: they do not (`other_rules`), or the source cannot be read or was replaced.
    """
    with reading_video():
        info = probe(row["source_path"])
    if info.geometry_changed_by_pictures_2:
        raise BadClip(
            REASON,
            f"{row['source_path']} was measured by an older version, which decoded it differently "
            f"({', '.join(info.changed_by_pictures_2)} now): its keypoints do not match the frames; curate again",
        )
    return row


def stages_for(record: Mapping[str, Any], num_gpus: float = 0.0) -> list[Stage]:
    """Return the stage that must precede stages that read frames of these clips; empty if the rules are current."""
    if not uses_older_pictures(record):
        return []
    return [Stage("rules", require_same_pictures, ("source_path", "source_id"), (), num_gpus=num_gpus)]
