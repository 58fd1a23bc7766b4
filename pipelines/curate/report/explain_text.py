"""Format the result of `explain.explain_clip` for a terminal."""

from collections.abc import Iterator
from typing import Any


def to_text(explanation: dict[str, Any]) -> str:
    """Return the explanation as text for a terminal."""
    parts = [
        _source_lines(explanation),
        _score_lines(explanation),
        _verdict_lines(explanation),
        _latents_lines(explanation),
    ]
    return "\n".join(line for part in parts for line in part)


def _source_lines(explanation: dict[str, Any]) -> Iterator[str]:
    source, clip = explanation["source"], explanation["clip"]
    yield f"clip {clip['clip_id']}: {explanation['verdict']['verdict']}"
    yield "\nsource"
    yield f"  path       {source['source_path']}"
    yield f"  digest     {source['source_id'] or 'none: the source could not be read'}"
    yield f"  origin     {source['origin'] or 'unknown'}"
    yield f"  licence    {source['licence'] or 'unknown'}"
    if source["codec"]:
        yield (
            f"  video      {source['codec']}, {source['width']} × {source['height']} px, {source['fps']:.4g} fps, "
            f"{source['duration_s']:.4g} s, {source['num_source_frames']} frames, {source['source_bytes']} bytes"
            + (", mirrored" if source["mirrored"] else "")
            + (f", rotated by {source['rotation_deg']}°" if source["rotation_deg"] else "")
            + (", deinterlaced" if source["deinterlaced"] else "")
            + (", composited onto white" if source["transparent"] else "")
        )
    if source["prompt"]:
        yield f"  caption    {source['prompt']}"
    if clip["start_s"] is not None:
        span = f"{clip['start_s']:.3f} to {clip['end_s']:.3f} s, {clip['num_frames']} frames"
        yield f"\nshot {clip['shot_index']}, {span}"


def _score_lines(explanation: dict[str, Any]) -> Iterator[str]:
    yield "\nscores"
    unknown = [score for score in explanation["scores"] if score["value"] is None]
    for score in explanation["scores"]:
        if score["value"] is not None:
            value = f"{score['value']:.4g}" if isinstance(score["value"], float) else str(score["value"])
            gate_texts = [_gate_text(gate) for gate in score["gates"]] or [""]
            yield f"  {score['score']:22} {value:>12} {score['unit']:18} {gate_texts[0]:34} {score['meaning']}"
            yield from (f"  {'':54} {more}" for more in gate_texts[1:])
    if explanation["pose_was_not_looked_for"]:
        yield f"\nno pose was estimated: {explanation['verdict']['reason']} had already rejected the clip"
    yield "\nnot measured"
    for score in unknown:
        gates = ", ".join(gate["gate"] for gate in score["gates"])
        yield f"  {score['score']:22} {f'{gates} not applied: ' if gates else ''}{score['meaning']}"


def _gate_text(gate: dict[str, Any]) -> str:
    return f"{'passes' if gate['passes'] else 'FAILS'}: {gate['asks']}, by {abs(gate['by']):.3g}"


def _verdict_lines(explanation: dict[str, Any]) -> Iterator[str]:
    copies, keypoints, verdict = explanation["copies"], explanation["keypoints"], explanation["verdict"]
    yield "\nkeypoints"
    yield f"  {keypoints['model']}, {keypoints['digest']}, in {keypoints['part']}" if keypoints else "  none"
    if copies["others"]:
        yield f"\ncopies: {copies['others']} other rows; accepted: {', '.join(copies['kept']) or 'none'}"
        for one in copies["some"]:
            yield f"  {one['clip_id']} {one['source_path']}: {one['verdict']} {one['reason'] or ''}"
    yield "\nverdict"
    yield f"  {verdict['verdict']}" + (f": {verdict['reason']} ({verdict['detail']})" if verdict["reason"] else "")
    if verdict["meaning"]:
        yield f"  {verdict['reason']}: {verdict['meaning']}"
    for version in explanation["versions"]:
        words = " ".join(version[name] for name in ("verdict", "reason") if version[name]) or "no such clip"
        yield f"  in {version['path']} ({version['made_by']}): {words}"


def _latents_lines(explanation: dict[str, Any]) -> Iterator[str]:
    latents = explanation["latents"]
    if latents is None:
        return
    yield f"\nlatents: {latents['path']}"
    if latents["shard"] is None:
        yield f"  not in the cache{': ' + latents['reason'] if latents.get('reason') else ''}"
        return
    yield f"  shards/{latents['shard']}"
    for member in latents["members"]:
        yield f"    {member['name']:26} at {member['offset']}, {member['size']} bytes, crc32 {member['crc32']:08x}"
