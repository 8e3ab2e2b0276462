"""What the GPU's time went to, module kind by module kind, in a table and in a sentence per phase."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from attnprof.analysis.work_kinds import EVIDENCE, MATRIX, NOT_TOLD, PROJECTIONS, REST, UNTOLD, WorkTotal
from attnprof.report.tables import Column, Table, duration, percent

TOLD_BY = {"range": "ranges", "name": "names", "position": "place", "": NOT_TOLD}
STYLE_NOT_TOLD, STYLE_WHOLE_GRAPH = 7, 8  # beside those of COLOURS
PARTS = (  # what is drawn as one piece, and its style
    (("attention",), 1), ((PROJECTIONS,), 4), (("MLP",), 0), (("experts", "router"), 5), (("norm",), 2),
    (("communication",), 3), (("embedding", "LM head", "sampling"), 6),
    ((MATRIX, "elementwise", REST), STYLE_NOT_TOLD), (("whole graph",), STYLE_WHOLE_GRAPH),
)  # fmt: skip
_TITLE = "GPU time by module (told by: its ranges, kernels' names, place in a layer)"
_SAID = 4  # kinds of a phase that a sentence names
_WORTH_SAYING = ("decode", "prefill", "mixed")
_OUTSIDE = "other"
_WHOLE_TRACE = "whole trace"


def part_name(style: int) -> str:
    """What a drawn piece stands for."""
    kinds = next(kinds for kinds, one in PARTS if one == style)
    return NOT_TOLD if set(kinds) <= UNTOLD else ", ".join(kinds)


def work_table(totals: Sequence[WorkTotal]) -> Table:
    """GPU time of each phase by what it went to, and what tells that; a phase's rows add up to its time."""
    columns = (
        Column("phase", use=3), Column("kind", use=3), Column("kernels", right=True),
        Column("gpu_ns", "GPU time", right=True, use=2), Column("share", "of phase", right=True, use=3),
        Column("step_ns", "per step", right=True), Column("told_by", "told by", use=2),
        *(Column(f"told_by_{name or 'nothing'}_ns") for name in EVIDENCE),
    )  # fmt: skip
    rows, shown = [], []
    whole = all(total.phase == _OUTSIDE for total in totals)
    for total in totals:
        each = total.gpu_ns / total.steps if total.steps else None
        told = [TOLD_BY[name] for name, spent in zip(EVIDENCE, total.told_ns, strict=True) if spent]
        words = ", ".join(told)
        rows.append(
            (total.phase, total.kind, total.kernels, total.gpu_ns, total.share, each, words, *total.told_ns)
        )
        times = [duration(total.gpu_ns), percent(total.share), duration(each)]
        name = _WHOLE_TRACE if whole else total.phase.replace(_OUTSIDE, "no step")
        shown.append([name, total.kind, f"{total.kernels:,}", *times, words, *[""] * len(EVIDENCE)])
    return Table("modules", columns, rows, shown, _TITLE)


def work_sentences(totals: Iterable[WorkTotal]) -> list[str]:
    """What most of a step's GPU time goes to, and of how much the module is not recorded."""
    by_phase = {phase: list(rows) for phase, rows in groupby(totals, key=lambda total: total.phase)}
    said = [phase for phase in _WORTH_SAYING if phase in by_phase] or [p for p in by_phase if p == _OUTSIDE]
    return [sentence for phase in said if (sentence := _sentence(phase, by_phase[phase]))]


def _sentence(phase: str, totals: Sequence[WorkTotal]) -> str:
    known = [total for total in totals if total.kind not in UNTOLD and total.gpu_ns]
    hidden = sum(total.gpu_ns for total in totals if total.kind == "whole graph")
    if not known or hidden:
        return ""
    parts = [f"{total.kind} {percent(total.share)}" for total in known[:_SAID]]
    of = f"{phase}'s GPU time" if phase != _OUTSIDE else "GPU time"
    rest = sum(total.gpu_ns for total in totals if total.kind in UNTOLD)
    more = f"; of {percent(rest / totals[0].phase_ns)} the module is not recorded" if rest else ""
    return f"Of {of}: {', '.join(parts)}{more}."
