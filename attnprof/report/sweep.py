"""The tables of a sweep: change points, every point, and batch invariance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from attnprof.analysis.sweep import Setting, Stretch, Sweep, stretches
from attnprof.dispatch.intervals import Interval
from attnprof.report.console import make_console
from attnprof.report.tables import Column, Table, print_table
from attnprof.report.text import labelled

AXES = (
    "library", "version", "gpu", "entry", "head_dim", "num_heads", "num_heads_k", "seqlen_q", "seqlen_k",
    "batch", "max_splits",
)  # fmt: skip
UNITS = {"seqlen_k": "keys", "seqlen_q": "queries", "batch": "sequences"}
TEXT_AXES = ("library", "version", "gpu", "entry")
_SHORT_KERNELS = {
    "flash_fwd_kernel": "flash_fwd",
    "flash_fwd_splitkv_kernel": "splitkv",
    "flash_fwd_splitkv_combine_kernel": "combine",
    "BatchPrefillWithPagedKVCacheKernel": "BatchPrefill",
    "prepare_varlen_num_blocks_kernel": "prepare",
    "FlashAttnFwdCombine": "combine",
    "FlashAttnFwdSm80": "FwdSm80",
    "FlashAttnFwdSm90": "FwdSm90",
}


def axis_value(setting: Setting, name: str) -> Any:
    """A setting's value on an axis, as JSON and CSV have it."""
    if name == "gpu":
        return setting.gpu.name
    return getattr(setting if name in ("version", "max_splits") else setting.call, name)


def axes_of(along: str) -> tuple[str, ...]:
    """The columns that tell settings apart."""
    return tuple(name for name in AXES if name != along)


def varying(settings: Sequence[Setting], along: str) -> list[str]:
    """The axes on which settings differ; the version goes with a library that does."""
    return [name for name in axes_of(along) if len({axis_value(setting, name) for setting in settings}) > 1]


def changes_table(result: Sweep, found: Sequence[Stretch]) -> Table:
    """The change points; people see steps of equal height and width as one row."""
    names, along = axes_of(result.along), result.along
    columns = [Column(name, right=name not in TEXT_AXES) for name in names]
    columns += [
        Column(f"{along}_from", along, right=True), Column(f"{along}_to", "change", right=True),
        Column("num_splits", "splits", right=True),
        Column("waves_from", "waves", right=True), Column("waves_to", ""),
        Column("kernels", "kernel", wraps=True), Column("tile"), Column("error", wraps=True),
    ]  # fmt: skip
    rows = [
        (
            *(axis_value(s.setting, name) for name in names),
            *(s.low, s.high, s.num_splits, round(s.waves[0], 4), round(s.waves[1], 4), s.kernels),
            *(s.tile, s.error),
        )
        for s in found
    ]
    shown_axes = varying(result.settings, along)
    # People see the tile where the kernel's name does not tell it.
    tiles = len({(s.kernels, s.tile) for s in found}) > len({s.kernels for s in found})
    shown, last = [], None
    for step in staircases(found):
        first = step.first
        cells = [str(axis_value(first.setting, name)) if name in shown_axes else "" for name in names]
        # A setting is named where its rows begin.
        cells = cells if first.setting is not last else [""] * len(names)
        last = first.setting
        splits = "–" if first.num_splits is None else f"{first.num_splits}"
        if step.count > 1:
            splits += f"–{step.last.num_splits}"
        waves = waves_text(first.waves[0], step.last.waves[1])
        what = first.error or short_kernels(first.kernels) or "nothing to launch"
        span = str(Interval(first.low, step.last.high))
        shown.append(
            [*cells, span, step.every(along), splits, waves, "", what, first.tile if tiles else "", ""]
        )
    return Table("changes", columns, rows, shown, f"num_splits, kernels and tiles along {along}")


@dataclass(frozen=True, slots=True)
class Staircase:
    """``count`` stretches of one setting, each ``width`` after and ``height`` splits above the one before."""

    first: Stretch
    last: Stretch
    count: int
    height: int
    width: int

    def every(self, along: str) -> str:
        """``+1 per 128 keys``; empty for a single stretch."""
        if self.count == 1:
            return ""
        unit = UNITS[along] if self.width > 1 else UNITS[along].removesuffix("s")
        return f"{self.height:+} per {self.width} {unit}"


def waves_text(low: float, high: float) -> str:
    """Waves at both ends, with two decimals; empty where none are known."""
    if not low and not high:
        return ""
    first, last = (f"{waves:.2f}" if waves >= 0.005 else "<0.01" for waves in (low, high))
    return first if first == last else f"{first}–{last}"


_FEWEST_STEPS = 3


def staircases(found: Sequence[Stretch]) -> Iterator[Staircase]:
    """The stretches with regular runs of at least three taken together."""
    at = 0
    while at < len(found):
        count = _regular(found, at)
        if count < _FEWEST_STEPS:
            yield Staircase(found[at], found[at], 1, 0, 0)
            at += 1
            continue
        height = (found[at + 1].num_splits or 0) - (found[at].num_splits or 0)
        width = found[at + 1].low - found[at].low
        yield Staircase(found[at], found[at + count - 1], count, height, width)
        at += count


def _regular(found: Sequence[Stretch], at: int) -> int:
    """How many stretches from ``at`` on make one staircase; the last may be cut short by the sweep's end."""
    first = found[at]
    count = 1
    while at + count < len(found):
        previous, following = found[at + count - 1], found[at + count]
        if following.setting is not first.setting or None in (first.num_splits, following.num_splits):
            break
        alike = (following.kernels, following.tile) == (first.kernels, first.tile)
        if not alike or ceil(following.waves[0]) != ceil(first.waves[0]):
            break
        height = (following.num_splits or 0) - (previous.num_splits or 0)
        if count > 1 and height != (found[at + 1].num_splits or 0) - (first.num_splits or 0):
            break
        width = found[at + 1].low - first.low
        if following.low - previous.low != width:
            break
        follows = found[at + count + 1] if at + count + 1 < len(found) else None
        if follows is not None and follows.setting is first.setting and follows.low - following.low != width:
            break
        count += 1
    return count


def short_kernels(kernels: str) -> str:
    """Kernel names cut to what tells them apart."""
    return " + ".join(_SHORT_KERNELS.get(name, name) for name in kernels.split(" + "))


def points_columns(along: str) -> tuple[str, ...]:
    """The columns of :func:`points`."""
    return (*axes_of(along), along, "num_splits", "waves", "kernels", "tile", "error")


def points(result: Sweep) -> Iterator[tuple[Any, ...]]:
    """A row per predicted call."""
    values, row = result.values.tolist(), -1
    waves_of = result.waves
    setting, axes, at = None, (), 0
    for stretch in stretches(result):
        if stretch.setting is not setting:
            setting, row, at = stretch.setting, row + 1, 0
            axes = tuple(axis_value(setting, name) for name in axes_of(result.along))
        while at < len(values) and values[at] <= stretch.high:
            waves = round(float(waves_of[row, at]), 4)
            yield (*axes, values[at], stretch.num_splits, waves, stretch.kernels, stretch.tile, stretch.error)
            at += 1


def print_sweep(result: Sweep, found: Sequence[Stretch], next_command: str) -> None:
    """What was swept, the change points, and what to do with them."""
    console = make_console()
    for label, text in facts(result):
        labelled(console, label, text)
    console.print()
    print_table(changes_table(result, found), console)
    console.print()
    changes = len(found) - len(result.settings)
    labelled(console, "points", f"{result.size:,} predictions, {changes:,} changes")
    if next_command:
        labelled(console, "next", next_command)


def facts(result: Sweep) -> list[tuple[str, str]]:
    """What all settings share."""
    first, names = result.settings[0], varying(result.settings, result.along)
    call = first.call
    library = [str(axis_value(first, name)) for name in ("library", "version", "entry") if name not in names]
    parts = [" ".join(library)] if library else []
    fixed = [name for name in ("batch", "seqlen_q", "seqlen_k") if name not in (*names, result.along)]
    parts += [f"{name} {getattr(call, name)}" for name in fixed]
    if not {"num_heads", "num_heads_k", "head_dim"} & set(names):
        parts.append(f"{call.num_heads}/{call.num_heads_k} heads x {call.head_dim}")
    parts += [call.dtype, "causal" if call.causal else "not causal"]
    if call.window != (-1, -1):
        parts.append(f"window {call.window}")
    if call.num_splits:
        parts.append(f"num_splits {call.num_splits} given")
    told = [("sweep", ", ".join(parts))]
    if "gpu" not in names:
        told.append(("gpu", f"{first.gpu.name}: {first.gpu.num_sms} {first.gpu.units}"))
    gap = int(np.diff(result.values).max(initial=1))
    if gap > 1:
        unit = UNITS[result.along]
        told.append(("note", f"values up to {gap} {unit} apart: a change may lie before the row it begins"))
    if first.max_splits != 128 or "max_splits" in names:
        told.append(("note", "the library's own cap is 128 splits; a lower --max-splits asks what if"))
    return told
