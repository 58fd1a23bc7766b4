"""Rules by which the same inputs become pixels, poses and texts: each has a version, which plans and records keep.

A rule that changes gets another version. What was finished under the old one stays as it is; what was half made under
it is refused by name, for two rules in one artifact would be told apart by nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .storage.digests import format_differences


@dataclass(frozen=True)
class Rule:
    """A rule: `version`, from 1, and what of it was `changed` last."""

    version: int = 1
    changed: str = ""


RULES: Mapping[str, Rule] = {
    "pictures": Rule(
        2,
        "mirrored and interlaced videos, transparency, orientation, profiles and 16 bits of images are read as players "
        "and viewers show them; HD without colour tags is BT.709, and what is written is tagged",
    ),  # files → frames, in `datasets/video` and `datasets/images`; and how frames are written
    # a driving video and a reference image → aligned poses
    "driving_poses": Rule(2, "poses are aligned from the first frame that shows the person whole, held before it"),
    # bytes → captions and tables
    "texts": Rule(2, "UTF-16 and UTF-32 are read, what is no Unicode is refused, columns have other names, too"),
    # which file beside a video is its caption, and which its keypoints
    "sidecars": Rule(2, "by the full name first; by the stem only where no other file may claim it"),
    "truth": Rule(  # renders and truths → which frames are compared, and why there is no number
        2, "truths are found by other spellings of an id, too, and compared by time; every null has its reason"
    ),
}


def versions(*names: str) -> dict[str, int]:
    """The versions of these rules, for a plan or a record, which keep them as `rules`."""
    return {name: RULES[name].version for name in names}


def recorded_rules(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of rules, for another record of the same data; an older version said nothing."""
    return {"rules": record["rules"]} if "rules" in record else {}


def is_older(record: Mapping[str, Any], *names: str) -> bool:
    """Whether one of these rules had an earlier version than today's when a record was written."""
    by = record.get("rules", {})
    return any(by.get(name, 1) < RULES[name].version for name in names)


def newer_rules(record: Mapping[str, Any], *names: str) -> str:
    """Lines of a message: the rules of a record that these of today do not cover; empty where they cover all.

    An older version of one of them is covered: whoever reads the record looks at what it changes (see `is_older`).
    """
    now = versions(*names)
    then = {name: max(version, now.get(name, version)) for name, version in record.get("rules", {}).items()}
    return other_rules({"rules": now | then}, {"rules": now})


def other_rules(begun: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Lines of a message: the rules whose version is another one in `begun` than in `plan`; empty where there are none.

    A rule that one of them does not name was at version 1 when it was written.
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
    """Lines of a message: in what two plans differ beside their rules; empty where they do not.

    Args:
        begun: an older plan.
        plan: today's.
        absent: what fields count as that `begun` does not have, because the version that wrote it did not know them.
    """
    old = {name: value for name, value in begun.items() if name != "rules"}
    new = {name: value for name, value in plan.items() if name != "rules"}
    return format_differences(with_absent(old, new, absent or {}), new)


def with_absent(begun: Mapping[str, Any], plan: Mapping[str, Any], absent: Mapping[str, Any]) -> dict[str, Any]:
    """`begun` with the fields of `plan` that it does not have, as `absent` says that they count; at every depth."""
    out = dict(begun)
    for name in plan.keys() & absent.keys():
        if name not in out:
            out[name] = absent[name]
        elif all(isinstance(one, Mapping) for one in (out[name], plan[name], absent[name])):
            out[name] = with_absent(out[name], plan[name], absent[name])
    return out
