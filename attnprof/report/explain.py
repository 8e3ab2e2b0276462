"""One explained call as tables, as text and as plain values."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attnprof.analysis.explain import Explanation, LiveKeys, in_words
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.requests import lengths_in_words
from attnprof.model import AttentionCall, KernelLaunch
from attnprof.report.console import BOLD, make_console
from attnprof.report.occupancy import at_most, fill_note
from attnprof.report.tables import Column, Table, duration, percent, print_table, to_markdown
from attnprof.report.text import gpu_in_words, labelled
from attnprof.safety.quoting import markdown_words

_CHOSEN, _BEST, _FASTEST = "chosen", "best", "fastest"


def derivation_table(explained: Explanation) -> Table:
    """The steps of the derivation; the launches have a table of their own."""
    reasons = [reason for reason in explained.prediction.reasons if reason.rule != "launch"]
    rows = [(reason.rule, reason.value, reason.why) for reason in reasons]
    columns = (Column("rule"), Column("value", "gives", right=True), Column("why", wraps=True))
    return Table("derivation", columns, rows, title="Derivation")


def candidates_table(explained: Explanation) -> Table:
    """Every split count that was weighed, with its waves and efficiency."""
    columns = (
        Column("num_splits", "splits", right=True), Column("key_blocks", "key blocks each", right=True),
        Column("thread_blocks", "thread blocks", right=True), Column("waves", right=True),
        Column("efficiency", right=True), Column("of_best", "of the best", right=True),
        Column("reaches_85", "≥ 85 %"), Column("mark", ""),
    )  # fmt: skip
    weighed = explained.weighed
    candidates = weighed.choice.candidates if weighed else ()
    if weighed is None or not candidates:
        return Table("candidates", columns, [])
    best = max(candidates, key=lambda candidate: candidate.efficiency)
    rows, shown = [], []
    for each in candidates:
        mark = _CHOSEN if each.num_splits == weighed.choice.num_splits else _BEST if each is best else ""
        keys = -(-weighed.key_blocks // each.num_splits)
        blocks = weighed.thread_blocks * each.num_splits
        reaches = each.efficiency >= weighed.choice.threshold
        of_best = each.efficiency / best.efficiency if best.efficiency else 0.0
        rows.append((each.num_splits, keys, blocks, each.waves, each.efficiency, of_best, reaches, mark))
        shown.append([
            str(each.num_splits), str(keys), f"{blocks:,}", f"{each.waves:.3f}", percent(each.efficiency),
            percent(of_best), "yes" if reaches else "no", mark and f"← {mark}",
        ])  # fmt: skip
    line = f"{percent(weighed.choice.threshold)}, 85 % of the best"
    return Table("candidates", columns, rows, shown, f"Split counts weighed (the line: {line})")


def launches_table(explained: Explanation) -> Table:
    """The launches and how each fills the SMs."""
    columns = (
        Column("kernel"), Column("grid", right=True), Column("block", right=True),
        Column("thread_blocks", "blocks", right=True), Column("per_sm", "per SM", right=True),
        Column("waves", right=True), Column("last_wave", "last wave", right=True),
        Column("sms_busy", "SMs used", right=True),
    )  # fmt: skip
    rows, shown = [], []
    for launch, fill in zip(explained.prediction.launches, explained.fills, strict=True):
        grid, block = sizes(launch.grid), sizes(launch.block)
        busy = f"{fill.sms_busy}/{fill.num_sms}"
        last = f"{fill.last_wave:,}/{fill.slots:,}"
        rows.append(
            (
                fill.kernel,
                grid,
                block,
                fill.thread_blocks,
                fill.per_sm,
                fill.waves,
                fill.last_wave,
                fill.sms_busy,
            )
        )
        shown.append([
            fill.kernel, grid, str(launch.block[0]), f"{fill.thread_blocks:,}", at_most(fill),
            _waves(fill.waves), last, busy,
        ])  # fmt: skip
    return Table("launches", columns, rows, shown, "Launches")


def _waves(waves: float) -> str:
    return "<0.01" if 0 < waves < 0.005 else f"{waves:.2f}"


def live_table(explained: Explanation, live: LiveKeys) -> Table:
    """The choice made from the capacity beside the one for the keys in use."""
    columns = (
        Column("from"), Column("seqlen_k", "keys", right=True), Column("num_splits", "splits", right=True),
        Column("keys_per_split", "keys per split", right=True),
        Column("busy_splits", "splits with keys in use", right=True),
    )  # fmt: skip
    chosen = explained.prediction.num_splits
    rows = [
        ("capacity, as chosen", explained.call.seqlen_k, chosen, live.keys_per_split, live.busy_splits),
        ("keys in use, not asked", live.seqlen_k, live.num_splits, None, None),
    ]
    shown = [[name, *("" if value is None else f"{value:,}" for value in values)] for name, *values in rows]
    return Table("live", columns, rows, shown, "Capacity and use")


def observed_table(explained: Explanation) -> Table:
    """Predicted against observed, launch by launch."""
    columns = (
        Column("source"), Column("kernel"), Column("grid", right=True), Column("block", right=True),
        Column("num_splits", "splits", right=True), Column("duration_ns", "GPU time", right=True),
    )  # fmt: skip
    checked = explained.observed
    if checked is None or checked.observed is None:
        return Table("observed", columns, [])
    predicted = [
        ("predicted", *_launch(each), explained.prediction.num_splits, None)
        for each in explained.prediction.launches
    ]
    spent: list[int | None] = [checked.duration_ns, *[None] * len(checked.observed.launches)]
    ran = [
        ("observed", *_launch(each), checked.observed.num_splits, ns)
        for each, ns in zip(checked.observed.launches, spent, strict=False)
    ]
    rows = [*predicted, *ran]
    shown = [
        [source, kernel, grid, block, "" if splits is None else str(splits), duration(ns)]
        for source, kernel, grid, block, splits, ns in rows
    ]
    return Table("observed", columns, rows, shown, "Predicted against observed")


def measured_table(explained: Explanation) -> Table:
    """Each split count as it was timed, against the chosen one."""
    columns = (
        Column("num_splits", "splits", right=True), Column("us", "GPU time", right=True),
        Column("against_chosen_us", "against the chosen", right=True), Column("mark", ""),
    )  # fmt: skip
    timed, chosen = explained.measured, explained.prediction.num_splits
    if timed is None:
        return Table("measured", columns, [])
    times = dict(timed.us_by_num_splits)
    base, best = times.get(chosen or 0), timed.fastest[0]
    rows = [
        (
            count,
            us,
            None if base is None else round(us - base, 3),
            _CHOSEN if count == chosen else _FASTEST if count == best else "",
        )
        for count, us in times.items()
    ]
    shown = [
        [str(count), f"{us:.1f} µs", "" if more is None else f"{more:+.1f} µs", mark and f"← {mark}"]
        for count, us, more, mark in rows
    ]
    how = f"Measured on {timed.gpu.name}, {timed.date}: medians, by {timed.forced_by or 'unknown means'}"
    return Table("measured", columns, rows, shown, how)


def _launch(launch: KernelLaunch) -> tuple[str, str, str]:
    return parse_kernel_name(launch.kernel).kernel, sizes(launch.grid), sizes(launch.block)


def sizes(xyz: tuple[int, int, int]) -> str:
    """A grid or block as 1x6x32."""
    return "x".join(map(str, xyz))


def call_in_words(call: AttentionCall, version: str) -> str:
    """Library, entry and arguments of a call on one line."""
    shape = f"batch {call.batch}, seqlen_q {call.seqlen_q}, seqlen_k {call.seqlen_k}"
    heads = f"{call.num_heads}/{call.num_heads_k} heads x {call.head_dim}"
    elements = f"{call.dtype} over {call.kv_dtype} keys" if call.kv_dtype else call.dtype
    parts = [shape, heads, elements, "causal" if call.causal else "not causal"]
    if call.window != (-1, -1):
        parts.append(f"window {call.window[0]}, {call.window[1]}")
    for given, words in (
        (call.softcap, f"softcap {call.softcap:g}"), (call.alibi, "ALiBi"),
        (call.dropout_p, f"dropout {call.dropout_p:g}"), (call.num_splits, f"num_splits {call.num_splits}"),
        (call.page_block_size, f"pages of {call.page_block_size}"),
        (call.seqlen_knew, f"{call.seqlen_knew} new keys"),
    ):  # fmt: skip
        if given:
            parts.append(words)
    if told := lengths_in_words(call):
        parts.append(told)
    return f"{call.library} {version} {call.entry}: {', '.join(parts)}"


def _tables(explained: Explanation) -> list[Table]:
    tables = [derivation_table(explained), candidates_table(explained)]
    if explained.live is not None and explained.prediction.launches:
        tables.append(live_table(explained, explained.live))
    return [*tables, launches_table(explained), measured_table(explained), observed_table(explained)]


def print_explanation(explained: Explanation) -> None:
    """The answer in words, then every step it rests on."""
    console = make_console()
    labelled(console, "call", call_in_words(explained.call, explained.version))
    labelled(console, "gpu", gpu_in_words(explained.gpu))
    console.print()
    labelled(console, "answer", " ".join(in_words(explained)))
    for table in _tables(explained):
        if table.rows:
            console.print()
            console.print(table.title, BOLD)
            print_table(table, console)
    if explained.fills:
        console.print()
        labelled(console, "note", fill_note(explained.fills))
    if explained.observed is not None:
        checked = explained.observed
        labelled(
            console, "verdict", checked.verdict.value + (f": {checked.detail}" if checked.detail else "")
        )
    elif explained.prediction.launches:
        labelled(console, "observed", "nothing: all of this is predicted" + _but_times(explained))


def _but_times(explained: Explanation) -> str:
    return ", times aside, which were measured elsewhere" if explained.measured else ""


def markdown(explained: Explanation) -> str:
    """The same as Markdown."""
    parts = [
        f"# {call_in_words(explained.call, explained.version)}",
        f"{markdown_words(explained.gpu.name)}, {explained.gpu.num_sms} {explained.gpu.units}",
        markdown_words(" ".join(in_words(explained))),
    ]
    parts += [
        f"## {table.title}\n\n{to_markdown(table).rstrip()}" for table in _tables(explained) if table.rows
    ]
    if explained.observed is not None:
        parts.append(f"Verdict: {explained.observed.verdict.value}")
    return "\n\n".join(parts) + "\n"


def as_object(explained: Explanation) -> dict[str, Any]:
    """Everything as plain values for JSON."""
    prediction, weighed, checked = explained.prediction, explained.weighed, explained.observed
    launches = [
        {**asdict(launch), "fill": asdict(fill)}
        for launch, fill in zip(prediction.launches, explained.fills, strict=True)
    ]
    heuristic = None
    if weighed is not None:
        heuristic = {
            "thread_blocks": weighed.thread_blocks,
            "slots": weighed.slots,
            "key_blocks": weighed.key_blocks,
            "nearly_full_at": weighed.choice.nearly_full_at,
            "threshold": weighed.choice.threshold,
            "candidates": candidates_table(explained).objects(),
        }
    ran = None
    if checked is not None:
        shape = checked.observed
        ran = {
            "seq": checked.seq,
            "verdict": checked.verdict.value,
            "detail": checked.detail,
            "num_splits": shape.num_splits if shape else None,
            "launches": [asdict(launch) for launch in shape.launches] if shape else [],
            "duration_ns": checked.duration_ns,
        }
    return {
        "call": asdict(explained.call),
        "version": explained.version,
        "gpu": asdict(explained.gpu),
        "answer": in_words(explained),
        "error": prediction.error,
        "num_splits": prediction.num_splits,
        "splits_of_requests": list(prediction.splits_of_requests),
        "all_lengths_known": prediction.all_lengths_known,
        "derivation": derivation_table(explained).objects(),
        "heuristic": heuristic,
        "launches": launches,
        "live": asdict(explained.live) if explained.live else None,
        "measured": asdict(explained.measured) if explained.measured else None,
        "observed": ran,
    }
