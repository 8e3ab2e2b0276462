"""One attention call explained: what was weighed, what follows, how full the SMs get, and that in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from attnprof.analysis.measured_splits import MeasuredSplits, advice, bandwidth, find, not_measured
from attnprof.analysis.next_change import NEXT_CHANGE_LIMIT, next_change
from attnprof.analysis.sm_fill import SmFill, sm_fill
from attnprof.analysis.sum_order import launched
from attnprof.dispatch.heuristic import SplitChoice, ceil_div
from attnprof.dispatch.libraries import FLASH, library, predict, predict_by_function
from attnprof.dispatch.limits import GRID_REFUSAL
from attnprof.dispatch.requests import ONLY_LONGEST, split_range
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction

if TYPE_CHECKING:
    from attnprof.check.check_run import CheckedCall


@dataclass(frozen=True, slots=True)
class Weighed:
    """What the heuristic was given and what it chose; thread blocks are those before splitting."""

    thread_blocks: int
    slots: int
    key_blocks: int
    choice: SplitChoice

    @property
    def nearly_full(self) -> bool:
        """Whether the thread blocks alone fill 80 % of the slots, which ends the search."""
        return self.thread_blocks >= self.choice.nearly_full_at


@dataclass(frozen=True, slots=True)
class LiveKeys:
    """A cache's capacity against the keys in it.

    ``num_splits``: what the heuristic would choose for ``seqlen_k`` live keys.  ``keys_per_split``: of the
    choice made from the capacity; ``busy_splits`` of them hold any live key, the others exit at once. Both
    None where the library shares keys out otherwise.
    """

    seqlen_k: int
    num_splits: int | None
    keys_per_split: int | None
    busy_splits: int | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """A call with everything that explains its dispatch.

    ``weighed`` is None where the heuristic was not asked or is not one that attnprof can lay open.
    ``observed`` is the same call as it ran, where a run holds it.  ``measured``: its split counts as timed,
    where it is among what was ``asked_of``, every call that evidence times.
    """

    call: AttentionCall
    gpu: Gpu
    version: str
    prediction: Prediction
    weighed: Weighed | None
    fills: tuple[SmFill, ...]
    live: LiveKeys | None = None
    observed: CheckedCall | None = None
    asked_of: tuple[MeasuredSplits, ...] | None = None

    @property
    def measured(self) -> MeasuredSplits | None:
        """What was timed of just this call."""
        return find(self.asked_of or (), self.call, self.gpu, self.version)

    @property
    def main(self) -> SmFill | None:
        """The fill of the launch that attends."""
        return next((fill for fill in self.fills if fill.is_main), None)

    def rule(self, name: str) -> tuple[str, str] | None:
        """(value, why) of a step of the derivation."""
        return next(((r.value, r.why) for r in self.prediction.reasons if r.rule == name), None)


def explain(
    call: AttentionCall, gpu: Gpu, version: str, *, live_seqlen: int | None = None,
    observed: CheckedCall | None = None, measured: Sequence[MeasuredSplits] | None = None,
) -> Explanation:  # fmt: skip
    """Explains ``call``. ``live_seqlen``: the keys really in a cache whose capacity is ``call.seqlen_k``.

    Raises UsageError for an unknown library or version, and for a live length that makes no sense.
    """
    ran = observed is not None  # as the flash backend, or it would have no prediction
    prediction = (predict if ran else predict_by_function)(call, gpu, version, explain=True)
    return Explanation(
        call,
        gpu,
        version,
        prediction,
        _weighed(call, prediction),
        tuple(sm_fill(launch, gpu, call.library, version) for launch in prediction.launches),
        None if live_seqlen is None else _live(call, gpu, version, prediction, live_seqlen),
        observed,
        None if measured is None else tuple(measured),
    )


def _weighed(call: AttentionCall, prediction: Prediction) -> Weighed | None:
    given = {reason.rule: reason.value for reason in prediction.reasons}
    if not {"thread blocks", "slots", "key blocks"} <= given.keys():
        return None
    blocks, slots, keys = (int(given[name]) for name in ("thread blocks", "slots", "key blocks"))
    choice = library(call.library).weigh(blocks, slots, keys)
    return Weighed(blocks, slots, keys, choice) if choice else None


def _live(call: AttentionCall, gpu: Gpu, version: str, prediction: Prediction, live_seqlen: int) -> LiveKeys:
    if call.entry != "fwd_kvcache":
        raise UsageError(
            f"--live-seqlen is for fwd_kvcache: {call.entry} dispatches on the length in use",
            hint="give --entry fwd_kvcache, with the cache's capacity as --seqlen-k",
        )
    if not 0 <= live_seqlen <= call.seqlen_k:
        raise UsageError(
            f"--live-seqlen {live_seqlen} does not fit a cache of {call.seqlen_k} keys",
            hint="--seqlen-k is the capacity, --live-seqlen what it holds",
        )
    wanted = predict(replace(call, seqlen_k=live_seqlen, num_splits=0), gpu, version).num_splits
    keys = library(call.library).cache_block(call)
    if keys is None or not prediction.num_splits:
        return LiveKeys(live_seqlen, wanted, None, None)
    blocks_per_split = ceil_div(ceil_div(call.seqlen_k, keys), prediction.num_splits)
    busy = min(prediction.num_splits, ceil_div(ceil_div(live_seqlen, keys), max(1, blocks_per_split)))
    return LiveKeys(live_seqlen, wanted, blocks_per_split * keys, busy)


def in_words(explained: Explanation) -> list[str]:
    """Which kernel and why, how full the GPU gets and when it changes, in plain sentences."""
    prediction = explained.prediction
    named = f"{explained.call.library} {explained.version}"
    if prediction.error == GRID_REFUSAL:
        rule = explained.rule("grid")
        why = f"{rule[1]}. " if rule else ""
        return [f"This call cannot be launched: {why}{named} ends in {prediction.error}."]
    if prediction.error is not None:
        return [f"{named} refuses this call, so nothing is launched: {prediction.error}"]
    if prediction.backend not in (None, FLASH):
        return [*_backend(explained), "Its launches are not predicted."]
    if not prediction.launches:
        why = ": there are no keys" if explained.call.seqlen_k == 0 else " for this call"
        return [f"{named} launches no attention kernel{why}."]
    sentences = [*_backend(explained), _opening(explained), *_why(explained), *_fill(explained)]
    if explained.live is not None:
        sentences += _live_in_words(explained, explained.live)
    change = _next_change(explained)
    return [*sentences, *([change] if change else []), *_measured(explained)]


def _measured(explained: Explanation) -> list[str]:
    """What was timed of the call, where it was asked for."""
    if explained.asked_of is None:
        return []
    timed, chosen = explained.measured, explained.prediction.num_splits
    if timed is None or chosen is None:
        return [not_measured(explained.asked_of)]
    return [sentence for sentence in (advice(timed, chosen), bandwidth(timed)) if sentence]


def _backend(explained: Explanation) -> list[str]:
    """Which backend takes the call, and what ruled out the others."""
    prediction, call = explained.prediction, explained.call
    if prediction.backend is None:
        return []
    others = [
        f"{reason.rule.removeprefix('not ')} is not taken: {reason.why}"
        for reason in prediction.reasons
        if reason.rule.startswith("not ")
    ]
    taken = explained.rule("backend")
    function = taken[1].removeprefix("what ").removesuffix(" takes") if taken else call.library
    return [f"{function} takes its {prediction.backend} backend ({'; '.join(others)})."]


def _opening(explained: Explanation) -> str:
    splits, where = explained.prediction.num_splits, f"On {explained.gpu.name} this call is"
    main = explained.main.kernel if explained.main else launched(explained.prediction.launches)
    before = [fill.kernel for fill in explained.fills if fill.family == "scheduler_aux"]
    planned = f", planned by {before[0]}" if before else ""
    if splits == 1:
        rest = [one.kernel for one in explained.fills if one.family != "scheduler_aux" and one.kernel != main]
        after = f", then {' + '.join(rest)}" if rest else " alone"
        return f"{where} not split: {main} runs{after}{planned}."
    combine = next((fill.kernel for fill in explained.fills if fill.role == "combine"), None)
    each = explained.prediction.splits_of_requests
    if each and (min(each), max(each)) != (splits, splits):
        after = f", and {combine} adds up the partial results" if combine else ""
        known = "" if explained.prediction.all_lengths_known else f"; {ONLY_LONGEST}"
        ways = f"{split_range(each)} ways, as each request's own length has it{known}"
        return f"{where} split along its keys {ways}: {main} runs{planned}{after}."
    after = f", and {combine} adds up the {splits} partial results" if combine else ""
    return f"{where} split {splits} ways along its keys: {main} runs{planned}{after}."


def _why(explained: Explanation) -> list[str]:
    weighed = explained.weighed
    forced = explained.rule("split kernel")
    if weighed is None:
        return [*_why_not_asked(explained), *([f"{_capital(forced[1])}."] if forced else [])]
    counted = _counted(explained, weighed)
    if weighed.nearly_full:
        limit = f"{weighed.choice.nearly_full_at:.1f}".removesuffix(".0")
        return [
            f"{counted} That is at least 0.8 x {weighed.slots} = {limit}: nearly full without splitting, so "
            "the library does not look further.",
            *_batch_limit(explained, weighed),
        ]
    candidates = weighed.choice.candidates
    if len(candidates) <= 1:
        rule = explained.rule("num_splits")
        return [f"{counted} {_capital(rule[1])}." if rule else counted]
    most = weighed.choice.max_splits
    best = max(candidates, key=lambda candidate: candidate.efficiency)
    chosen = next(c for c in candidates if c.num_splits == weighed.choice.num_splits)
    unlike = f" that divide the {weighed.key_blocks} key blocks differently" if len(candidates) < most else ""
    told = (
        f"{counted} Of {len(candidates)} split counts{unlike}, {best.num_splits} fills the slots best, to "
        f"{_percent(best.efficiency)}; "
    )
    line = _percent(weighed.choice.threshold)
    if chosen.num_splits == best.num_splits:
        return [f"{told}no smaller one reaches 85 % of that ({line})."]
    return [
        f"{told}{chosen.num_splits} is the smallest to reach 85 % of that ({line}), with "
        f"{_percent(chosen.efficiency)}."
    ]


def _counted(explained: Explanation, weighed: Weighed) -> str:
    """How many thread blocks there are before splitting, for how many slots."""
    call, fold = explained.call, explained.rule("fold query heads")
    blocks, slots = explained.rule("thread blocks"), explained.rule("slots")
    folded = ""
    if fold and fold[0] != "no":
        groups = call.num_heads // call.num_heads_k
        folded = (
            f"With one query, the {groups} query heads of each KV head are folded into one block of queries: "
            f"{call.num_heads_k} head{'s' * (call.num_heads_k != 1)} count, not {call.num_heads}. "
        )
    product = f" ({blocks[1]})" if blocks else ""
    room = f" ({slots[1]})" if slots else ""
    there = (
        "is 1 thread block" if weighed.thread_blocks == 1 else f"are {weighed.thread_blocks:,} thread blocks"
    )
    return f"{folded}Before splitting there {there}{product} for {weighed.slots} slots{room}."


def _why_not_asked(explained: Explanation) -> list[str]:
    call, fold = explained.call, explained.rule("fold query heads")
    if call.dropout_p > 0 and call.entry != "fwd_kvcache":
        return ["Splitting is not implemented with dropout."]
    if call.entry == "fwd_kvcache" and call.num_splits >= 1:
        free = predict(replace(call, num_splits=0), explained.gpu, explained.version).num_splits
        same = "the same" if free == call.num_splits else str(free)
        return [
            f"The caller asked for num_splits={call.num_splits}; left to itself the library would choose "
            f"{same}."
        ]
    chosen = explained.rule("num_splits")
    if chosen is None or chosen[0] != "not chosen":
        return [f"{_capital(chosen[1])}."] if chosen else []
    if call.entry == "varlen_fwd":
        why = f", and here {fold[1]}" if fold else ""
        return [
            f"The varlen entry asks for a split count only after folding query heads into one block{why}: "
            "such a call is never split, however long its keys.",
            *_other_entries(explained),
        ]
    return []


def _other_entries(explained: Explanation) -> list[str]:
    """What the entries that always ask would choose for the same shape."""
    call = explained.call
    function = library(call.library).functions.get("fwd_kvcache")
    if call.seqlen_q != 1 or call.page_block_size is not None or function is None:
        return []
    other = replace(call, entry="fwd_kvcache", cache_seqlens=True, total_q=None)
    splits = predict(other, explained.gpu, explained.version).num_splits
    if splits is None:
        return []
    return [f"{function} with the same shape would get {_many(splits)}."]


def _batch_limit(explained: Explanation, weighed: Weighed) -> list[str]:
    """Up to which batch the same call would be below 80 %."""
    per_sequence, odd = divmod(weighed.thread_blocks, explained.call.batch)
    if odd or not per_sequence:
        return []
    most = ceil(weighed.choice.nearly_full_at / per_sequence) - 1
    if most < 1:
        return ["No batch is small enough for it to be split."]
    return [f"Up to batch {most} it would weigh splitting."]


def _fill(explained: Explanation) -> list[str]:
    """How the main kernel's thread blocks meet the SMs."""
    main = explained.main
    if main is None or not main.slots:
        return []
    scheduler = explained.rule("scheduler")
    if scheduler and scheduler[0] == "persistent":
        return [f"{main.kernel} is persistent: {main.thread_blocks:,} thread blocks, whatever the work."]
    blocks = f"{main.kernel} launches {main.thread_blocks:,} thread block{'s' * (main.thread_blocks != 1)}"
    room = f"{main.slots:,} slots"
    sentences = []
    if main.thread_blocks < main.num_sms:
        idle, units = main.num_sms - main.thread_blocks, explained.gpu.units
        sentences.append(
            f"{blocks} for {main.num_sms} {units}: {idle} of the {units} ({_percent(idle / main.num_sms)}) "
            "get none."
        )
    elif not main.exact and explained.rule("slots") is None:  # nobody knows how many run at once
        units = explained.gpu.units
        sentences.append(f"{blocks} for {main.num_sms} {units}, each of which holds at most {main.per_sm}.")
    elif main.thread_blocks == main.slots:
        sentences.append(f"{blocks} for {room}: exactly one wave.")
    elif main.whole_waves == 1:
        sentences.append(f"{blocks} for {room}: one wave, {_percent(main.fill)} full.")
    elif main.last_wave == main.slots:
        sentences.append(f"{blocks} for {room}: exactly {main.whole_waves} waves.")
    else:
        sentences.append(
            f"{blocks} for {room}: {main.whole_waves} waves, the last of them with {main.last_wave} blocks "
            f"only ({_percent(main.last_wave / main.slots)}), although it takes about as long as a full one."
        )
    counted = explained.rule("slots")
    if counted and main.slots != int(counted[0]):
        verb = "admits" if main.limited_by == "shared memory" else "admit"
        known = f" ({main.registers} registers a thread)" if main.limited_by == "registers" else ""
        sentences.append(
            f"The library counts {counted[0]} slots, but {main.limited_by} {verb} {main.per_sm} such block"
            f"{'s' * (main.per_sm != 1)} per SM{known}."
        )
    return sentences


def _live_in_words(explained: Explanation, live: LiveKeys) -> list[str]:
    call, splits = explained.call, explained.prediction.num_splits
    told = (
        f"The choice was made from the capacity of {call.seqlen_k:,} keys, not from the {live.seqlen_k:,} in "
        f"use, for which the library would choose {_many(live.num_splits or 1)}."
    )
    if live.busy_splits is None or not splits or live.keys_per_split is None or splits == 1:
        return [told]
    hold = "holds" if live.busy_splits == 1 else "hold"
    if live.busy_splits == splits:
        return [
            told,
            f"Each of the {splits} splits covers {live.keys_per_split:,} keys and holds some in use.",
        ]
    blocks = sum(fill.thread_blocks for fill in explained.fills if fill.is_main)
    return [
        told,
        f"Each split covers {live.keys_per_split:,} keys of the capacity, so {live.busy_splits} of the "
        f"{splits} {hold} keys in use: {blocks // splits * live.busy_splits} of the {blocks} thread blocks "
        "do all the work. The others exit at once, but are launched and their empty results combined.",
    ]


def _next_change(explained: Explanation) -> str:
    """At which length the split count changes next."""
    call, now = explained.call, explained.prediction.num_splits
    asked = call.entry != "fwd_kvcache" or call.num_splits < 1
    if explained.weighed is None or explained.weighed.nearly_full or not asked or now is None:
        return ""
    if call.seqlen_k >= NEXT_CHANGE_LIMIT or library(call.library).key_block(call) is None:
        return ""
    change = next_change(call, explained.gpu, explained.version)
    what = "a cache of " if call.entry == "fwd_kvcache" else ""
    if change is None:
        return f"For longer keys, up to {NEXT_CHANGE_LIMIT:,}, it stays at {_many(now)}."
    keys, splits = change
    return f"The next change comes with {what}{keys:,} keys: {_many(splits)}."


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _many(splits: int) -> str:
    return "1 split" if splits == 1 else f"{splits} splits"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"
