"""Format a plan of `preflight` for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_GB = 1e9


def table(plan: dict[str, Any]) -> str:
    """Format what will be done, its memory, disk and time, and the memory with different settings.

    Refusals are not included: the command prints them at the end.

    Args:
        plan: result of `plan.plan`.
    """
    parts = [_summary(plan), _memory_table("memory per GPU", plan["gpu_memory_bytes"], plan["gpu_bytes"])]
    parts += [_memory_table("memory on all hosts", plan["host_memory_bytes"], None), _disk(plan)]
    if plan["memory_by_size"]:
        parts += [_sizes(plan["memory_by_size"]), _settings(plan["memory_by_setting"], plan["gpu_bytes"])]
    return "\n\n".join(part for part in parts if part)


def _summary(plan: dict[str, Any]) -> str:
    hours = "unknown: pass --tflops"
    if plan["hours_left"] is not None:
        hours = f"{plan['hours_left']:.1f} h at {plan['seconds_a_step']:.2f} s per step ({plan['rate_from']})"
    begun = f", {plan['steps_done']} done" if plan["steps_done"] else ""
    fork = plan["forked_from"]
    rows = [
        ("stage", f"{plan['stage']}: {plan['steps']} steps{begun}, {plan['workers']} workers, "
                  f"{plan['epochs']:.1f} epochs of {plan['samples']} clips"
                  + (f", {plan['repeated_per_epoch']} repeated to fill batches" if plan["repeated_per_epoch"] else "")),
        ("trains", f"{plan['trained_parameters'] / 1e6:,.1f} of {plan['parameters'] / 1e6:,.1f} M parameters"),
        ("step", f"{plan['hardware_flops_a_step'] / 1e15:,.2f} PFLOP, "
                   f"{plan['model_flops_a_step'] / 1e15:,.2f} of them needed"),
        ("time", hours),
        ("base", f"{plan['base']['source']}{'' if plan['base']['path'] else ' (not on this machine)'}"
                 + (f", counted as {plan['sizes_assumed']}" if plan.get("sizes_assumed") else "")),
    ]  # fmt: skip
    if fork:
        rows.append(
            (
                "fork",
                f"of {fork['path']} after {fork['steps']} steps; {'; '.join(fork['changes']) or 'unchanged settings'}",
            )
        )
    return "\n".join(f"{name:8}{text}" for name, text in rows)


def _memory_table(title: str, parts: dict[str, int] | None, available: int | None) -> str:
    if parts is None:
        return ""
    totals = {"update": "in the optimizer update", "loading": "while loading", "total": "total"}
    rows = [
        (name.replace("_", " "), f"{size / _GB:.1f}") for name, size in parts.items() if size and name not in totals
    ]
    rows += [(label, f"{parts[name] / _GB:.1f}") for name, label in totals.items() if name in parts]
    if available is not None:
        rows[-1] = (rows[-1][0], f"{rows[-1][1]} of {available / _GB:.1f}")
    return _columns([(title, "GB"), *rows])


def _disk(plan: dict[str, Any]) -> str:
    labels = {"engine_states": "training states"}
    needed = {labels.get(name, name.replace("_", " ")): size for name, size in plan["disk_bytes"].items()}
    rows = {**needed, "free": plan["disk_free_bytes"]}
    return _columns(
        [("disk space, at most", "GB"), *((name, f"{size / _GB:.1f}") for name, size in rows.items() if size)]
    )


def _sizes(rows: Iterable[dict[str, Any]]) -> str:
    head = ("clip size", "clips", "tokens", "GB per GPU", "PFLOP per clip")
    return _columns([head, *(
        (f"{row['num_frames']} × {row['height']} × {row['width']}", f"{row['clips']}", f"{row['tokens']}",
         f"{row['gpu_memory_bytes'] / _GB:.1f}", f"{row['hardware_flops_a_clip'] / 1e15:.2f}")
        for row in rows
    )])  # fmt: skip


def _settings(rows: Iterable[dict[str, Any]], available: int | None) -> str:
    head = ("ZeRO, optimizer, saved for backward", "GB per GPU", "GB on hosts", "PFLOP per clip", "")
    lines = []
    for row in rows:
        place = "on the hosts" if row["offload_optimizer"] else "on the GPUs"
        marks = ["set"] * row["is_set"]
        if available is not None:
            marks.append("fits" if row["gpu_memory_bytes"] <= available else "does not fit")
        lines.append((
            f"{row['zero_stage']}, {place}, {row['kept_for_backward']}", f"{row['gpu_memory_bytes'] / _GB:.1f}",
            f"{row['host_memory_bytes'] / _GB:.0f}", f"{row['hardware_flops_a_clip'] / 1e15:.2f}", ", ".join(marks),
        ))  # fmt: skip
    return _columns([head, *lines])


def _columns(rows: list[tuple[str, ...]]) -> str:
    """Align the first column left and the others right, under a ruled header."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join([row[0].ljust(widths[0]), *numbers]).rstrip()

    head, *others = map(line, rows)
    return "\n".join([head, "-" * max(map(len, [head, *others])), *others])
