"""Calls inside graphs of torch.compile, which run no Python: told by their operators in a torch trace.

They become calls like the recorded ones: a line of calls.jsonl, marked, and a range of attnprof's own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from attnprof.calls.torch_operators import compiled_ops, op_records
from attnprof.model import PHASES
from attnprof.trace.range_names import OWN_DOMAIN, own_calls
from attnprof.trace.tables import AttentionOps, Ranges, Trace, rows_in_order
from attnprof.trace.timeline import build_timeline

_MARK = "compiled"


def with_compiled_calls(trace: Trace, calls: Path) -> tuple[Trace, int]:
    """The trace with a range per such call, and how many were added to ``calls``, a file that exists.

    Calls that an earlier attempt added are replaced.
    """
    ops = trace.attention_ops
    rows = [row for row in compiled_ops(trace) if ops is not None and not _has_own(trace, ops, row)]
    if ops is None or not rows:
        return trace, 0
    described = {record.seq: record.fields for record in op_records(trace)}
    known = [row for row in rows if row in described]
    if not known:
        note = f"{len(rows)} attention operators ran inside graphs of torch.compile, without their shapes: "
        note += "attnprof run --capture torch --shapes records them"
        return replace(trace, info=replace(trace.info, notes=(*trace.info.notes, note))), 0
    lines = [
        line for line in calls.read_text(encoding="utf-8").splitlines() if not json.loads(line).get(_MARK)
    ]
    first = max((json.loads(line)["seq"] for line in lines), default=-1) + 1
    told = _with_ranges(trace, ops, known, first)
    timeline = build_timeline(told)
    mine = np.flatnonzero(own_calls(told) & (told.ranges.payload >= first))
    place = {int(told.ranges.payload[at]): at for at in mine.tolist()}
    for seq, row in enumerate(known, first):
        of, at = timeline.of_range, place[seq]
        step, layer = (int(values[at]) for values in (of.step, of.layer))
        where = {"step": step if step >= 0 else None, "layer": layer if layer >= 0 else None}
        fields = described[row] | {"seq": seq, "phase": PHASES[int(of.phase[at])], **where}
        lines.append(json.dumps({**fields, "function": trace.strings[ops.name[row]], _MARK: True}))
    unnamed = calls.with_name(f".{calls.name}")
    unnamed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    unnamed.replace(calls)
    note = f"{len(known)} attention calls inside graphs of torch.compile are recorded by their operators"
    return replace(told, info=replace(told.info, notes=(*told.info.notes, note))), len(known)


def _has_own(trace: Trace, ops: AttentionOps, row: int) -> bool:
    """Whether a call that was recorded in Python is around the operator, or inside of it."""
    ranges = trace.ranges
    mine = own_calls(trace) & (ranges.thread == ops.thread[row])
    return bool(np.any(mine & (ranges.start < ops.end[row]) & (ranges.end > ops.start[row])))


def _with_ranges(trace: Trace, ops: AttentionOps, rows: list[int], first: int) -> Trace:
    strings = [*trace.strings, "attn", OWN_DOMAIN]
    count, ranges = len(rows), trace.ranges
    added = {
        "start": ops.start[rows], "end": ops.end[rows], "name": np.full(count, len(strings) - 2, np.int32),
        "domain": np.full(count, len(strings) - 1, np.int32), "thread": ops.thread[rows],
        "pid": ops.pid[rows], "payload": np.arange(first, first + count),
        "has_payload": np.ones(count, np.bool_), "nested": np.ones(count, np.bool_),
    }  # fmt: skip
    columns = {name: np.append(getattr(ranges, name), np.asarray(values)) for name, values in added.items()}
    domains = tuple(dict.fromkeys((*trace.info.nvtx_domains, OWN_DOMAIN)))
    told = replace(trace, strings=strings, ranges=rows_in_order(Ranges(**columns)))
    return replace(told, info=replace(trace.info, nvtx_domains=domains))
