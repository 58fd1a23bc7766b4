"""Versions of the rules that turn inputs into pixels, poses and texts; plans and records store them.

A rule that changes gets a new version. Artifacts finished under the old version stay valid. An artifact that is still
incomplete is refused with the name of the rule: otherwise it would mix the output of two rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .storage.digests import format_differences


@dataclass(frozen=True)
class Rule:
    """A rule: its `version`, from 1, and a description of what `changed` last."""

    version: int = 1
    changed: str = ""


RULES: Mapping[str, Rule] = {
    "pictures": Rule(
        2,
        "mirrored and interlaced videos are read as players display them, and images with transparency, orientation, "
        "colour profile or 16 bits as viewers do; HD without colour tags is BT.709; written videos are tagged",
    ),  # files → frames, in `datasets/video` and `datasets/images`; and encoding of frames
    # a driving video and a reference image → aligned poses
    "driving_poses": Rule(2, "aligned at the first frame that fully shows the person; earlier frames repeat it"),
    # bytes → captions and tables
    "texts": Rule(2, "UTF-16 and UTF-32 are read, text that is not Unicode is rejected, columns have aliases"),
    # which file next to a video is its caption, and which its keypoints
    "sidecars": Rule(2, "matched by the full name first; by the stem only if no other file matches it"),
    "truth": Rule(  # renders and truths → which frames are compared, and why a value is null
        2, "ground truth is also found by other spellings of an id, and compared by time; every null has a reason"
    ),
}


def versions(*names: str) -> dict[str, int]:
    """Return the versions of these rules, for the field `rules` of a plan or a record."""
    return {name: RULES[name].version for name in names}


def recorded_rules(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field `rules` of a record, to copy it to another record of the same data; older records have none."""
    return {"rules": record["rules"]} if "rules" in record else {}


def is_older(record: Mapping[str, Any], *names: str) -> bool:
    """Check whether a record was written under an older version of one of these rules."""
    by = record.get("rules", {})
    return any(by.get(name, 1) < RULES[name].version for name in names)


def newer_rules(record: Mapping[str, Any], *names: str) -> str:
    """List, as lines of a message, the rules of a record that are unknown or newer than today's; empty if none.

    Older versions are accepted: the reader of the record handles them (see `is_older`).
    """
    now = versions(*names)
    then = {name: max(version, now.get(name, version)) for name, version in record.get("rules", {}).items()}
    return other_rules({"rules": now | then}, {"rules": now})


def other_rules(begun: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """List, as lines of a message, the rules whose versions in `begun` and `plan` differ; empty if none.

    A rule that is missing in one of them counts as version 1.
    """
    old, new = begun.get("rules", {}), plan.get("rules", {})
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name, 1), new.get(name, 1)
        if before != now:
            changed = RULES[name].changed if name in RULES else ""
            lines.append(f"  {name}: version {before} → {now}" + (f" ({changed})" if changed else ""))
    return "\n".join(lines)


def other_settings(begun: Mapping[str, Any], plan: Mapping[str, Any], absent: Mapping[str, Any] | None = None) -> str:
    """List, as lines of a message, the differences of two plans apart from their rules; empty if none.

    Args:
        begun: an older plan.
        plan: the current plan.
        absent: default values of fields that `begun` lacks, because an older version wrote it.
    """
    old = {name: value for name, value in begun.items() if name != "rules"}
    new = {name: value for name, value in plan.items() if name != "rules"}
    return format_differences(with_absent(old, new, absent or {}), new)


def with_absent(begun: Mapping[str, Any], plan: Mapping[str, Any], absent: Mapping[str, Any]) -> dict[str, Any]:
    """Return `begun` with the missing fields of `plan` filled in from `absent`, at every depth."""
    out = dict(begun)
    for name in plan.keys() & absent.keys():
        if name not in out:
            out[name] = absent[name]
        elif all(isinstance(one, Mapping) for one in (out[name], plan[name], absent[name])):
            out[name] = with_absent(out[name], plan[name], absent[name])
    return out
