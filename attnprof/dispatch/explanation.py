"""What launches say of the call behind them: every kind of call for which a library launches just these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from attnprof.dispatch.intervals import Interval, Intervals, intersect, union
from attnprof.gpus import GPUS, is_amd, make_gpu
from attnprof.model import Entry, Gpu, KernelLaunch, Library

LONGEST = 131_072  # keys; strengths are shares of the lengths up to it
STRONG = 0.05
_TILE_CLASSES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a trace states of a GPU: its SM count and its compute capability, None where it does not.

    ``vendor``: "amd" where its name says so; a gfx90a calls itself 9.0, as Hopper does.
    """

    num_sms: int | None = None
    sm: tuple[int, int] | None = None
    vendor: Literal["nvidia", "amd"] = "nvidia"

    @property
    def may_be_amd(self) -> bool:
        """Whether its name says so, or nothing is stated that tells."""
        return self.vendor == "amd" or (self.sm is None and self.num_sms is None)

    @property
    def as_amd(self) -> GpuFacts:
        """The same, taken for an AMD GPU."""
        return replace(self, vendor="amd")

    def candidates(self) -> tuple[Gpu, ...]:
        """The GPUs it may be: one for each way in which tiles are chosen, with each SM count of the table's
        GPUs of that kind, from which split counts follow."""
        classes = (self.sm,) if self.sm else _TILE_CLASSES
        return tuple(
            make_gpu("", *sm, sms)
            for sm in classes
            for sms in ((self.num_sms,) if self.num_sms else _sm_counts(sm, self.vendor))
        )


@cache
def _sm_counts(sm: tuple[int, int], vendor: str) -> tuple[int, ...]:
    """Ascending; of every GPU of the table where it has none of that compute capability. AMD's are AMD's."""
    if vendor == "amd":
        return tuple(sorted({model.num_sms for model in GPUS if is_amd(model.name)}))
    of_kind = {model.num_sms for model in GPUS if model.sm == sm}
    return tuple(sorted(of_kind or {model.num_sms for model in GPUS}))


@dataclass(frozen=True, slots=True)
class Observed:
    """The launches of one attention call; a grid or block of zeros is one the trace does not hold.

    ``again``: the second launch of the main kernel, by a call that halves its heads.
    """

    main: KernelLaunch
    combine: KernelLaunch | None = None
    before: KernelLaunch | None = None
    again: KernelLaunch | None = None

    @property
    def launches(self) -> tuple[KernelLaunch, ...]:
        launches = (self.before, self.main, self.again, self.combine)
        return tuple(launch for launch in launches if launch is not None)

    @property
    def unread(self) -> tuple[str, ...]:
        """Which sizes the trace does not hold."""
        absent = (
            what
            for launch in self.launches
            for what, size in (("grid", launch.grid), ("block", launch.block))
            if not any(size)
        )
        return tuple(dict.fromkeys(absent))


@dataclass(frozen=True, slots=True)
class Explanation:
    """A kind of call for which a build of a library launches exactly what was observed.

    ``versions``: first and last release of the build.  ``folded``: one query per sequence, and the heads of a
    KV group became ``seqlen_q`` queries of one head; ``heads`` counts what is left.  ``batch`` and ``heads``
    are None where only their product ``batch_heads`` shows.  ``seqlen_k``: every KV length (the capacity, for
    fwd_kvcache), of which only multiples of ``multiple_of`` and none of ``no_multiple_of`` (0 for none).
    ``chosen``: the library chose ``num_splits`` from these lengths; else the caller gave it, or nobody asked.
    Of a kernel whose grid does not show the count, ``num_splits`` is the least of those possible, and
    ``batch_heads`` None.  ``sm_margin``: SMs that the caller asks the kernel to leave free.
    """

    library: Library
    versions: tuple[str, str]
    entry: Entry
    folded: bool
    batch: int | None
    heads: int | None
    batch_heads: int | None
    seqlen_q: Interval
    head_dim: Interval
    num_splits: int
    chosen: bool
    seqlen_k: Intervals
    multiple_of: int = 1
    no_multiple_of: int = 0
    appends: bool = False
    sm_margin: int = 0

    def has_length(self, seqlen_k: int) -> bool:
        """Whether a KV length is among those explained."""
        whole = seqlen_k % self.multiple_of == 0
        ragged = not self.no_multiple_of or seqlen_k % self.no_multiple_of != 0
        return whole and ragged and any(seqlen_k in interval for interval in self.seqlen_k)

    @property
    def share(self) -> float:
        """The share of KV lengths up to LONGEST that give these launches."""
        known = (max(0, min(i.high or LONGEST, LONGEST) - max(i.low, 1) + 1) for i in self.seqlen_k)
        return sum(known) / LONGEST / self.multiple_of


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Every explanation of a call's launches.

    ``unread``: what could not be read, and is not claimed.  ``nearest``: where nothing explains them, the
    fields in which they differ from the nearest launches that a library makes, in words.  ``cut``: what is
    launched is a part of a call, whose rest may lie outside the trace.  ``shared``: in words, that other
    programs' kernels have the name too, so that its library is not claimed; "" where the name is its own.
    ``windowed``: a window of the layer, which no name states, may be why this kernel ran and not another.
    ``of``: whose the kernel is, as a possessive, where several known libraries have one of that name.
    """

    explanations: tuple[Explanation, ...] = ()
    unread: tuple[str, ...] = ()
    nearest: str = ""
    cut: bool = False
    shared: str = ""
    of: str = ""
    windowed: bool = False

    @property
    def builds(self) -> frozenset[tuple[Library, tuple[str, str]]]:
        """The builds of a library that launch this."""
        return frozenset((one.library, one.versions) for one in self.explanations)

    @property
    def may_never_split(self) -> bool:
        """Whether the entry may be the one that splits no calls but those whose query heads it folds."""
        return any(
            one.entry == "varlen_fwd" and not one.chosen and not one.folded for one in self.explanations
        )

    @property
    def chosen(self) -> tuple[Explanation, ...]:
        """The explanations in which the library chose the split count itself."""
        return tuple(explanation for explanation in self.explanations if explanation.chosen)

    @property
    def seqlen_k(self) -> Intervals:
        """The KV lengths, from 1 on, for which the library would choose this split count."""
        return intersect(union(explanation.seqlen_k for explanation in self.chosen), (Interval(1, None),))

    @property
    def share(self) -> float | None:
        """The share of calls like it, of every KV length, that would have passed as well.

        Where the library may have chosen the split count, of such calls; 1.0 where no length would have
        shown. None where nothing explains the launches.
        """
        told = self.chosen or self.explanations
        return min(1.0, max(explanation.share for explanation in told)) if told else None


def strength(share: float | None) -> str:
    """ "strong" or "weak", by how many other lengths would have given the same launches; "" where unknown."""
    return "" if share is None else "strong" if share <= STRONG else "weak"


def tightened(lengths: Intervals, multiple_of: int) -> Intervals:
    """The intervals drawn in to the multiples they hold; those without any are left out."""
    if multiple_of == 1:
        return lengths
    found = []
    for interval in lengths:
        low = -(-interval.low // multiple_of) * multiple_of
        high = None if interval.high is None else interval.high // multiple_of * multiple_of
        if high is None or low <= high:
            found.append(Interval(low, high))
    return tuple(found)


def merged(answers: Sequence[ReadBack]) -> ReadBack | None:
    """What several libraries say of one launch; None where none says anything."""
    if not answers:
        return None
    found = tuple(dict.fromkeys(one for answer in answers for one in answer.explanations))
    nearest = "" if found else next((answer.nearest for answer in answers if answer.nearest), "")
    cut = not found and any(answer.cut for answer in answers)
    shared = next((answer.shared for answer in answers if answer.explanations), "")
    of = " or ".join(dict.fromkeys(answer.of for answer in answers if answer.of and answer.explanations))
    windowed = any(answer.windowed for answer in answers)
    return ReadBack(found, answers[0].unread, nearest, cut, shared, of, windowed)
