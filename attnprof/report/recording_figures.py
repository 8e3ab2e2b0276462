"""The figures of a recording, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attnprof.analysis.kernel_groups import group_totals, step_shares
from attnprof.analysis.layer_kinds import layer_kinds
from attnprof.analysis.roofline import roofline
from attnprof.analysis.splits import split_rows
from attnprof.analysis.work_kinds import work_totals
from attnprof.check.check_run import check
from attnprof.check.recording import Recording
from attnprof.report.call_figures import FigureName, plot_calls
from attnprof.report.figures import plot_splits
from attnprof.report.roofline import plot_roofline
from attnprof.report.time_figures import plot_attention_share, plot_modules, plot_phases, plot_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(kind: FigureName, recording: Recording, step: int | None = None) -> Figure:
    """splits: num_splits per decode step; calls: attention calls in order; roofline: what they read and
    compute against the card's peak; step: every kernel of one decode step, the middle one where
    ``step`` is None; phases: GPU time per phase and kind of kernel; modules: per phase and what it
    works for; share: attention's share per step."""
    title, timeline = recording.name, recording.timeline
    if kind == "step":
        return plot_step(timeline, step, title=title)
    if kind == "modules":
        return plot_modules(work_totals(timeline), title=title)
    if kind == "phases":
        return plot_phases(group_totals(timeline), title=title)
    calls = check(recording).calls
    if kind == "share":
        return plot_attention_share(step_shares(timeline, calls), title=title)
    if kind == "calls":
        return plot_calls(calls, title=title)
    splits = split_rows(calls)
    if kind == "roofline":
        kinds = layer_kinds(splits)
        return plot_roofline(roofline(calls, kinds, recording.gpu), kinds, title=title)
    return plot_splits(splits, title=title)
