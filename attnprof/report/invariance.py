"""Whether the order of summation depends on batch or queries: in words, as a table and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnprof.analysis.invariance import Invariance, Size
from attnprof.analysis.sweep import Sweep
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.report.console import BOLD, make_console
from attnprof.report.sweep import TEXT_AXES, axes_of, axis_value, facts, varying
from attnprof.report.tables import Column, Table, percent, print_table
from attnprof.report.text import labelled

_INTERVALS_SHOWN = 3
_WORDS: dict[Size, tuple[str, str]] = {  # of one size, of several
    "batch": ("batch", "batch sizes"),
    "seqlen_q": ("seqlen_q", "numbers of queries"),
}


def _axes(each: Invariance) -> list[str]:
    """The columns that tell a judgement's setting apart."""
    return [name for name in axes_of("seqlen_k") if name != each.of]


def invariance_table(found: Sequence[Invariance]) -> Table:
    """The sizes that sum in another order than the reference, and at which lengths."""
    (of,) = {each.of for each in found}
    settings = [each.setting for each in found]
    names = [name for name in axes_of("seqlen_k") if name != of]
    columns = [Column(name, right=name not in TEXT_AXES) for name in names]
    columns += [
        Column(f"reference_{of}"), Column(of, right=True),
        Column("seqlen_k", "differs at seqlen_k", wraps=True),
        Column("share", "of the lengths", right=True),
    ]  # fmt: skip
    shown_axes = varying(settings, "seqlen_k")
    rows, shown = [], []
    for each in found:
        axes = [axis_value(each.setting, name) for name in names]
        for index, part in enumerate(each.differing):
            every = ", ".join(map(str, part.seqlen_k))
            rows.append((*axes, each.reference, str(part.sizes), every, round(part.share, 4)))
            named = [
                str(v) if n in shown_axes and not index else "" for n, v in zip(names, axes, strict=True)
            ]
            shown.append([*named, "", str(part.sizes), some(part.seqlen_k), percent(part.share)])
    title = f"Sums ordered otherwise than at {_WORDS[of][0]} {found[0].reference}"
    return Table("invariance", columns, rows, shown, title)


def invariance_tables(found: Sequence[Invariance]) -> list[Table]:
    """A table for each size that was compared."""
    sizes = dict.fromkeys(each.of for each in found)
    return [invariance_table([each for each in found if each.of == of]) for of in sizes]


def some(intervals: Intervals) -> str:
    """The first few of the intervals, and how many more there are."""
    more = len(intervals) - _INTERVALS_SHOWN
    shown = ", ".join(map(str, intervals[:_INTERVALS_SHOWN]))
    return shown + (f" and {more} more" if more > 0 else "")


def invariance_objects(found: Sequence[Invariance]) -> list[dict[str, Any]]:
    """The same for JSON, with every interval as [first, last]."""

    def pairs(intervals: Intervals) -> list[list[int | None]]:
        return [[interval.low, interval.high] for interval in intervals]

    objects = []
    for each in found:
        several = "batches" if each.of == "batch" else each.of
        objects.append(
            {
                **{name: axis_value(each.setting, name) for name in _axes(each)},
                "compared": each.of,
                several: list(each.sizes),
                f"reference_{each.of}": each.reference,
                f"constant_{several}": [each.constant.low, each.constant.high],
                f"same_for_all_{several}": pairs(each.same_for_all),
                "not_launched": each.not_launched,
                "tiles_compared": each.tiles_told,
                "differing": [
                    {
                        several: [part.sizes.low, part.sizes.high],
                        "seqlen_k": pairs(part.seqlen_k),
                        "share": part.share,
                    }
                    for part in each.differing
                ],
            }
        )
    return objects


def print_invariance(result: Sweep, found: Sequence[Invariance]) -> None:
    """Where the order of summation depends on batch or queries, in words and as tables."""
    console = make_console()
    for label, text in facts(result):
        labelled(console, label, text)
    for each in found:
        console.print()
        settings = [other.setting for other in found if other.of == each.of]
        shown_axes = [name for name in varying(settings, "seqlen_k") if name != each.of]
        which = ", ".join(f"{name} {axis_value(each.setting, name)}" for name in shown_axes)
        for index, sentence in enumerate(invariance_in_words(result, each)):
            label = "answer" if index == 0 else ""
            labelled(
                console, label, f"{which}: {sentence}" if which and index == 0 else _first_upper(sentence)
            )
    for table in invariance_tables(found):
        if table.rows:
            console.print()
            console.print(table.title, BOLD)
            print_table(table, console)


def invariance_in_words(result: Sweep, each: Invariance) -> list[str]:
    """Where the order of summation depends on a size, in sentences."""
    one, several = _WORDS[each.of]
    if each.nothing:
        return [f"none of the {several} given can be compared: {each.nothing}."]
    gaps = each.sizes[-1] - each.sizes[0] + 1 != len(each.sizes)
    sizes = str(Interval(each.sizes[0], each.sizes[-1]))
    all_of_them = f"the {len(each.sizes)} {several} given, {sizes}," if gaps else f"{one} {sizes}"
    what = ("split count, kernels and tiles", "split count, kernel or tile")
    unread = []
    if not each.tiles_told:
        what = ("split count and kernels", "split count or kernel")
        unread.append("The kernels' names do not tell their tiles: these were not compared.")
    if each.not_launched:
        total = len(each.sizes) * len(result.values)
        nothing = f"{each.not_launched:,} of {total:,} predictions launch nothing"
        unread.append(f"{nothing}: they were not compared.")
    if not each.differing:
        said = f"{all_of_them} all have the same {what[0]} {_at_lengths(result, 'every')}"
        if each.tiles_told:
            among = "among them " if gaps else ""
            said += f": {among}the order of summation does not depend on the {_depends(each.of)}"
        return [f"{said}.", *unread]
    sentences = [
        f"the order of summation depends on the {_depends(each.of)}: {each.num_differing} of "
        f"{len(each.sizes)} {several} differ from {one} {each.reference} {_at_lengths(result, 'some')}, in "
        f"{what[1]}. There the keys are summed in another order, and the low bits of the output may differ."
    ]
    if each.num_constant > 1:
        sentences.append(
            f"The longest range of {several} that agree at every length is {each.constant} "
            f"({each.num_constant} of the {len(each.sizes)} given)."
        )
    else:
        sentences.append(f"No two neighbouring {several} agree at every length.")
    if each.same_for_all:
        sentences.append(f"All {several} agree at {some(each.same_for_all)} keys.")
    else:
        sentences.append(f"At no length do all {several} agree.")
    return [*sentences, *unread]


def _at_lengths(result: Sweep, which: str) -> str:
    """As ``at every length from 1 to 64 keys``: of those that were swept."""
    low, high, count = int(result.values[0]), int(result.values[-1]), len(result.values)
    if count == 1:
        return f"at {low} keys"
    if count == high - low + 1:
        return f"at {which} length from {low} to {high} keys"
    return f"at {which} of the {count:,} lengths given, {low} to {high} keys".replace("every of", "each of")


def _depends(of: Size) -> str:
    return "batch" if of == "batch" else "number of queries"


def _first_upper(sentence: str) -> str:
    """The sentence with a capital to begin with; a field's name keeps its own."""
    if sentence.startswith("seqlen_q"):
        return sentence
    return sentence[:1].upper() + sentence[1:]
