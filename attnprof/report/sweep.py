"""The tables of a sweep: change points, every point, and batch invariance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from attnprof.analysis.sweep import Invariance, Setting, Stretch, Sweep, stretches
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.report.tables import Column, Table, make_console, percent, print_table
from attnprof.report.text import labelled

AXES = (
    "library", "version", "gpu", "entry", "head_dim", "num_heads", "num_heads_k", "seqlen_q", "seqlen_k",
    "batch", "max_splits",
)  # fmt: skip
UNITS = {"seqlen_k": "keys", "seqlen_q": "queries", "batch": "sequences"}
_TEXT_AXES = ("library", "version", "gpu", "entry")
_INTERVALS_SHOWN = 3
_SHORT_KERNELS = {
    "flash_fwd_kernel": "flash_fwd",
    "flash_fwd_splitkv_kernel": "splitkv",
    "flash_fwd_splitkv_combine_kernel": "combine",
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
    columns = [Column(name, right=name not in _TEXT_AXES) for name in names]
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
    setting, axes, at = None, (), 0
    for stretch in stretches(result):
        if stretch.setting is not setting:
            setting, row, at = stretch.setting, row + 1, 0
            axes = tuple(axis_value(setting, name) for name in axes_of(result.along))
        while at < len(values) and values[at] <= stretch.high:
            waves = round(float(result.waves[row, at]), 4)
            yield (*axes, values[at], stretch.num_splits, waves, stretch.kernels, stretch.tile, stretch.error)
            at += 1


def invariance_table(found: Sequence[Invariance]) -> Table:
    """The batch sizes whose split count differs from the reference, and where."""
    settings = [each.setting for each in found]
    names = tuple(name for name in axes_of("seqlen_k") if name != "batch")
    columns = [Column(name, right=name not in _TEXT_AXES) for name in names]
    columns += [
        Column("reference_batch"), Column("batch", right=True),
        Column("seqlen_k", "differs at seqlen_k", wraps=True),
        Column("share", "of the lengths", right=True),
    ]  # fmt: skip
    shown_axes = varying(settings, "seqlen_k")
    rows, shown = [], []
    for each in found:
        axes = [axis_value(each.setting, name) for name in names]
        for index, part in enumerate(each.differing):
            every = ", ".join(map(str, part.seqlen_k))
            rows.append((*axes, each.reference, str(part.batches), every, round(part.share, 4)))
            named = [
                str(v) if n in shown_axes and not index else "" for n, v in zip(names, axes, strict=True)
            ]
            shown.append([*named, "", str(part.batches), some(part.seqlen_k), percent(part.share)])
    title = f"Sums ordered otherwise than at batch {found[0].reference}" if found else ""
    return Table("invariance", columns, rows, shown, title)


def some(intervals: Intervals) -> str:
    """The first few of the intervals, and how many more there are."""
    more = len(intervals) - _INTERVALS_SHOWN
    shown = ", ".join(map(str, intervals[:_INTERVALS_SHOWN]))
    return shown + (f" and {more} more" if more > 0 else "")


def invariance_objects(found: Sequence[Invariance]) -> list[dict[str, Any]]:
    """The same for JSON, with every interval as [first, last]."""

    def pairs(intervals: Intervals) -> list[list[int | None]]:
        return [[interval.low, interval.high] for interval in intervals]

    names = [name for name in axes_of("seqlen_k") if name != "batch"]
    return [
        {
            **{name: axis_value(each.setting, name) for name in names},
            "batches": list(each.batches),
            "reference_batch": each.reference,
            "constant_batches": [each.constant.low, each.constant.high],
            "same_for_all_batches": pairs(each.same_for_all),
            "differing": [
                {
                    "batches": [part.batches.low, part.batches.high],
                    "seqlen_k": pairs(part.seqlen_k),
                    "share": part.share,
                }
                for part in each.differing
            ],
        }
        for each in found
    ]  # fmt: skip


def print_sweep(result: Sweep, found: Sequence[Stretch], next_command: str) -> None:
    """What was swept, the change points, and what to do with them."""
    console = make_console()
    for label, text in facts(result):
        labelled(console, label, text)
    console.print()
    print_table(changes_table(result, found), console)
    console.print()
    changes = len(found) - len(result.settings)
    labelled(console, "points", f"{result.num_splits.size:,} predictions, {changes:,} changes")
    if next_command:
        labelled(console, "next", next_command)


def print_invariance(result: Sweep, found: Sequence[Invariance]) -> None:
    """Where the split count depends on the batch, in words and as a table."""
    console = make_console()
    for label, text in facts(result):
        labelled(console, label, text)
    shown_axes = varying([each.setting for each in found], "seqlen_k")
    for each in found:
        console.print()
        which = ", ".join(
            f"{name} {axis_value(each.setting, name)}" for name in shown_axes if name != "batch"
        )
        for index, sentence in enumerate(invariance_in_words(result, each)):
            label = "answer" if index == 0 else ""
            labelled(
                console, label, f"{which}: {sentence}" if which and index == 0 else first_upper(sentence)
            )
    if any(each.differing for each in found):
        console.print()
        table = invariance_table(found)
        console.print(table.title, style="bold")
        print_table(table, console)


def invariance_in_words(result: Sweep, each: Invariance) -> list[str]:
    """Where the order of summation depends on the batch size, in sentences."""
    low, high = int(result.values[0]), int(result.values[-1])
    lengths = f"{low} to {high} keys"
    if not each.differing:
        return [
            f"batch {Interval(each.batches[0], each.batches[-1])} all have the same split count, kernels and "
            f"tiles at every length from {lengths}: the order of summation does not depend on the batch."
        ]
    sentences = [
        f"the order of summation depends on the batch: {each.num_differing} of {len(each.batches)} batch "
        f"sizes differ from batch {each.reference} at some length from {lengths}, in "
        "split count, kernel or tile. There the keys are summed in another order, and the low bits of the "
        "output may differ."
    ]
    if each.constant_batches > 1:
        sentences.append(
            f"The longest range of batch sizes that agree at every length is {each.constant} "
            f"({each.constant_batches} of the {len(each.batches)} given)."
        )
    else:
        sentences.append("No two neighbouring batch sizes agree at every length.")
    if each.same_for_all:
        sentences.append(f"All batch sizes agree at {some(each.same_for_all)} keys.")
    else:
        sentences.append("At no length do all batch sizes agree.")
    return sentences


def first_upper(sentence: str) -> str:
    """The sentence with a capital to begin with."""
    return sentence[:1].upper() + sentence[1:]


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
        told.append(("gpu", f"{first.gpu.name}: {first.gpu.num_sms} SMs"))
    gap = int(np.diff(result.values).max(initial=1))
    if gap > 1:
        unit = UNITS[result.along]
        told.append(("note", f"values up to {gap} {unit} apart: a change may lie before the row it begins"))
    if first.max_splits != 128 or "max_splits" in names:
        told.append(("note", "the library's own cap is 128 splits; a lower --max-splits asks what if"))
    return told
