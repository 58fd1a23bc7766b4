"""One clip's story, as `story.tell` gives it, in lines for a terminal."""

from collections.abc import Iterator
from typing import Any


def to_text(story: dict[str, Any]) -> str:
    """The story as lines for a terminal."""
    parts = [_told_source(story), _told_scores(story), _told_verdict(story), _told_latents(story)]
    return "\n".join(line for part in parts for line in part)


def _told_source(story: dict[str, Any]) -> Iterator[str]:
    source, clip = story["source"], story["clip"]
    yield f"clip {clip['clip_id']}: {story['verdict']['verdict']}"
    yield "\nsource"
    yield f"  path       {source['source_path']}"
    yield f"  digest     {source['source_id'] or 'none: it could not be read'}"
    yield f"  origin     {source['origin'] or 'unknown'}"
    yield f"  licence    {source['licence'] or 'unknown'}"
    if source["codec"]:
        yield (
            f"  video      {source['codec']}, {source['width']} × {source['height']} px, {source['fps']:.4g} a second, "
            f"{source['duration_s']:.4g} s, {source['num_source_frames']} frames, {source['source_bytes']} bytes"
            + (", mirrored" if source["mirrored"] else "")
            + (f", turned by {source['rotation_deg']}°" if source["rotation_deg"] else "")
            + (", deinterlaced" if source["deinterlaced"] else "")
            + (", transparency laid on white" if source["transparent"] else "")
        )
    if source["prompt"]:
        yield f"  caption    {source['prompt']}"
    if clip["start_s"] is not None:
        span = f"{clip['start_s']:.3f} to {clip['end_s']:.3f} s, {clip['num_frames']} frames"
        yield f"\nshot {clip['shot_index']}, {span}"


def _told_scores(story: dict[str, Any]) -> Iterator[str]:
    yield "\nscores"
    unknown = [score for score in story["scores"] if score["value"] is None]
    for score in story["scores"]:
        if score["value"] is not None:
            value = f"{score['value']:.4g}" if isinstance(score["value"], float) else str(score["value"])
            asked = [_told_gate(gate) for gate in score["gates"]] or [""]
            yield f"  {score['score']:22} {value:>12} {score['unit']:18} {asked[0]:34} {score['meaning']}"
            yield from (f"  {'':54} {more}" for more in asked[1:])
    if story["pose_was_not_looked_for"]:
        yield f"\nthe pose was not looked for: {story['verdict']['reason']} had refused the clip before"
    yield "\nnot measured"
    for score in unknown:
        gates = ", ".join(gate["gate"] for gate in score["gates"])
        yield f"  {score['score']:22} {f'{gates} could not be asked: ' if gates else ''}{score['meaning']}"


def _told_gate(gate: dict[str, Any]) -> str:
    return f"{'passes' if gate['passes'] else 'REFUSED'}: {gate['asks']}, by {abs(gate['by']):.3g}"


def _told_verdict(story: dict[str, Any]) -> Iterator[str]:
    copies, keypoints, verdict = story["copies"], story["keypoints"], story["verdict"]
    yield "\nkeypoints"
    yield f"  {keypoints['model']}, {keypoints['digest']}, in {keypoints['part']}" if keypoints else "  none"
    if copies["others"]:
        yield f"\ncopies: {copies['others']} other rows show the same; kept: {', '.join(copies['kept']) or 'none'}"
        for one in copies["some"]:
            yield f"  {one['clip_id']} {one['source_path']}: {one['verdict']} {one['reason'] or ''}"
    yield "\nverdict"
    yield f"  {verdict['verdict']}" + (f": {verdict['reason']} ({verdict['detail']})" if verdict["reason"] else "")
    if verdict["meaning"]:
        yield f"  {verdict['reason']}: {verdict['meaning']}"
    for version in story["versions"]:
        said = " ".join(version[name] for name in ("verdict", "reason") if version[name]) or "no such clip"
        yield f"  in {version['path']} ({version['made_by']}): {said}"


def _told_latents(story: dict[str, Any]) -> Iterator[str]:
    latents = story["latents"]
    if latents is None:
        return
    yield f"\nlatents: {latents['path']}"
    if latents["shard"] is None:
        yield f"  not in it{': ' + latents['reason'] if latents.get('reason') else ''}"
        return
    yield f"  shards/{latents['shard']}"
    for member in latents["members"]:
        yield f"    {member['name']:26} at {member['offset']}, {member['size']} bytes, crc32 {member['crc32']:08x}"
