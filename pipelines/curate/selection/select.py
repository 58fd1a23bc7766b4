"""Select: give every row exactly one verdict, from its scores alone. Reads no video.

A selection reads the rows twice, part by part: first the columns that decide (`select`), then, to write the verdicts,
all columns (`Selection.apply`). In between it keeps about 300 bytes per row.
"""

import math
from collections.abc import Callable, Collection, Iterable

import numpy as np
import pyarrow as pa

from ....datasets.arrays import Floats64, Integers, Mask
from ....datasets.clips import in_path_order
from ....datasets.schema import Row
from ..config import CurateConfig
from ..gates import SCORES, Gates, bound_text, failure_detail, is_beyond
from .copies import Copies, over_quota
from .gating import Bounds, GateResults, apply_gates, columns_for
from .overrides import ACCEPT, REJECT, Decisions
from .row_keys import REASONS, RowKeys
from .targets import (
    MovingGates,
    apply_found_bounds,
    find_strictness,
    lacks_ranking_score,
    margins,
    mix_parts,
    scales,
    target_record,
)
from .verdicts import Selection

Batches = Callable[[], Iterable[pa.Table]]


def failed_gate(row: Row, gates: Gates, among: Collection[str] | None = None) -> tuple[str, str] | None:
    """Return the first gate that rejects a row, and a detail; None if all measured scores pass."""

    def read(column: str) -> float:
        value = row.get(column)
        return math.nan if value is None else float(value)

    for gate, score, side, bound in gates.bounds():
        if among is None or gate in among:
            value = SCORES[score].of(read)
            if is_beyond(value, side, bound):
                return gate, failure_detail(score, value, bound_text(side, bound))
    return None


def columns_read(config: CurateConfig, measured_gates: Gates | None = None) -> list[str]:
    """Return the columns that `select` reads."""
    gates = {*Bounds.of(config).gates, *config.quotas.along}
    gates |= {gate for gate, *_ in measured_gates.bounds()} if measured_gates else set()
    return sorted(columns_for(gates) | set(RowKeys.COLUMNS))


def select(
    batches: Batches,
    config: CurateConfig,
    *,
    groups: pa.Array | None = None,
    measured_gates: Gates | None = None,
    decisions: Decisions | None = None,
) -> Selection:
    """Give every row a verdict. Verdicts given when rows were measured (quarantined, too short) are kept.

    Clips that pass the gates and have keypoints are accepted, with three exceptions. Of clips with the same content,
    the first in path order is kept; of near-duplicates (`duplicate_group`), the copy with the largest product of
    picture area and bit rate. Under quotas, clips with the largest margins are kept (see `targets`). A manual decision
    overrules gates, copies and quotas, but not missing keypoints.

    Args:
        batches: returns all rows with `columns_read`, in the same order on every call.
        config: gates, duplicate detection, quotas, and optionally a target.
        groups: the `duplicate_group` of all rows, if it differs from the tables.
        measured_gates: the gates of the measuring run, if different: a clip that a cheap gate rejected then has no
            pose, and is rejected as `not_measured` if the new gates let it pass.
        decisions: manual decisions.

    Raises:
        ArtifactError: invalid decisions.
    """
    moving, target = MovingGates.of(config), config.target
    bounds = Bounds.of(config, without=moving.gates if target else ())
    ranking_columns = moving.columns if target or config.quotas.need_margins else ()
    keys, batch_results = [], []
    for table in batches():
        keys.append(RowKeys.of(table))
        batch_results.append(apply_gates(table, bounds, measured_gates, ranking_columns))
    rows = RowKeys.concatenate(keys, groups)
    results = GateResults.concatenate(batch_results)
    code, notes = _decided(rows, decisions)
    accepted, rejected = code == ACCEPT, code == REJECT
    copies = rows.copies(config.duplicates.scope, accepted)
    each = scales(results.ranking_scores, moving) if ranking_columns else []
    margin = margins(results.ranking_scores, moving, each) if ranking_columns else np.zeros(len(rows))
    margin[accepted] = np.inf
    result = None
    if target:
        passing = rows.posed & ~rows.fixed & ((results.first < 0) | accepted) & ~rejected
        parts = mix_parts(target)
        shape = results.shape.astype(np.int64)

        def keep(candidates: Mask) -> Mask:
            kept = copies.deduplicate(candidates).kept
            for over in _over_quotas(kept, config, rows, shape, margin, accepted).values():
                kept &= ~over
            return kept

        find_strictness(
            parts, passing, margin, shape, rows.position, keep, lacks_ranking_score(results.ranking_scores, each)
        )
        config = apply_found_bounds(config, parts, moving, each)
        bounds, result = Bounds.of(config), target_record(target, parts, config)
        results = GateResults.concatenate([apply_gates(table, bounds, measured_gates) for table in batches()])
    selection = Selection(config, bounds, results, rows, code, notes, groups, result)
    _assign(selection, copies, margin, accepted, rejected)
    return selection


def _decided(rows: RowKeys, decisions: Decisions | None) -> tuple[np.ndarray, dict[int, str]]:
    """Return the manual decision on each row: the new one, else that of the earlier selection."""
    code, notes = rows.decided.copy(), dict(rows.notes)
    if decisions is not None:
        new, new_notes = decisions.resolve(rows.clip_id, rows.source_path, rows.start_s)
        code[new != 0] = new[new != 0]
        notes |= new_notes
    return code, notes


def _over_quotas(
    kept: Mask, config: CurateConfig, rows: RowKeys, shape: Integers, margin: Floats64, accepted: Mask
) -> dict[str, Mask]:
    """Return reason → mask of the rows over that quota; the shape quota is applied after the source quota."""
    out = {}
    quotas = config.quotas
    if quotas.max_accepted_per_source is not None:
        limit = quotas.max_accepted_per_source
        out["quota_of_source"] = over_quota(kept, rows.source, limit, margin, rows.position, accepted)
        kept = kept & ~out["quota_of_source"]
    if quotas.max_accepted_by_shape:
        limits = quotas.limits()
        out["quota_of_shape"] = over_quota(kept, shape, np.array(limits), margin, rows.position, accepted)
    return out


def _assign(selection: Selection, copies: Copies, margin: Floats64, accepted: Mask, rejected: Mask) -> None:
    """Give each row one reason; a row without one is accepted."""
    rows, results = selection.rows, selection.gate_results
    reason = results.first.astype(np.int16)
    number = {name: len(selection.bounds.gates) + k for k, name in enumerate(REASONS)}
    reason[accepted] = -1
    pose_skipped = (results.early >= 0) | ((results.first >= 0) & accepted)
    poseless = (reason < 0) & ~rows.posed
    reason[poseless] = number["no_pose"]
    reason[poseless & ~rows.has_model & pose_skipped] = number["not_measured"]
    reason[rejected] = number["decision"]
    left = copies.deduplicate((reason < 0) & ~rows.fixed)
    reason[left.same_as >= 0] = number["duplicate"]
    reason[left.copy_of >= 0] = number["near_duplicate"]
    selection.other = np.maximum(left.same_as, left.copy_of)
    shape = results.shape.astype(np.int64)
    for name, over in _over_quotas(left.kept, selection.config, rows, shape, margin, accepted).items():
        reason[over] = number[name]
    selection.set_reasons(reason)


def select_table(table: pa.Table, config: CurateConfig) -> pa.Table:
    """Return all rows of one table with their verdicts, in path order."""
    table = in_path_order(table)
    return select(lambda: [table], config).apply(table, 0)
