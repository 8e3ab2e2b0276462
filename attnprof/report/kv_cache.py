"""The K and V that attention reads: per step, per stretch of decode steps, and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from attnprof.analysis.kv_cache import KvGrowth, StepRead, decode_growth
from attnprof.report.numbers import span
from attnprof.report.tables import Column, Table

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_in_words(size: float | None) -> str:
    """Bytes in the unit that suits them, with three digits."""
    if size is None:
        return ""
    unit = 0
    while abs(size) >= 1023.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    digits = 0 if unit == 0 or size == int(size) or size >= 100 else 1 if size >= 10 else 2
    return f"{size:,.{digits}f} {_UNITS[unit]}"


def cache_table(reads: Sequence[StepRead]) -> Table:
    """K and V that each step's attention reads, step by step."""
    columns = (
        Column("process"), Column("step", right=True), Column("phase"), Column("requests", right=True),
        Column("tokens", right=True), Column("keys", right=True), Column("calls", right=True),
        Column("read_bytes", "K and V read", right=True), Column("lower_bound", "at least"),
        Column("cache_bytes", "caches", right=True),
    )  # fmt: skip
    rows = [
        (
            one.process, one.step, one.phase, one.requests, one.tokens, one.keys, one.calls, one.read_bytes,
            one.lower_bound, one.cache_bytes,
        )
        for one in reads
    ]  # fmt: skip
    shown = [
        [
            str(row[0] or ""), str(row[1]), row[2], *(f"{n:,}" for n in row[3:7]), size_in_words(row[7]),
            "at least" if row[8] else "", size_in_words(row[9]),
        ]
        for row in rows
    ]  # fmt: skip
    return Table("cache_steps", columns, rows, shown, "KV cache step by step")


def growth_table(reads: Sequence[StepRead]) -> Table:
    """The same, a row per prefill and per stretch of decode steps of as many requests."""
    columns = (
        Column("process"), Column("phase"), Column("first_step"), Column("last_step"),
        Column("steps_shown", "steps"), Column("requests", right=True),
        Column("first_keys"), Column("last_keys"),
        Column("keys_shown", "longest", right=True), Column("first_bytes", "K and V read", right=True, use=2),
        Column("last_bytes", "at its end", right=True, use=2),
        Column("bytes_per_token", "per token more", right=True), Column("lower_bound", "at least"),
        Column("cache_bytes", "caches hold", right=True),
    )  # fmt: skip
    rows, shown = [], []
    for first, last, per_token in _stretches(reads):
        steps, keys = span(first.step, last.step), span(first.keys, last.keys)
        lower = first.lower_bound or last.lower_bound
        rows.append(
            (
                first.process, first.phase, first.step, last.step, steps, first.requests, first.keys,
                last.keys, keys, first.read_bytes, last.read_bytes, per_token, lower, last.cache_bytes,
            )
        )  # fmt: skip
        end = size_in_words(last.read_bytes) if last is not first else ""
        shown.append(
            [
                "", first.phase, "", "", steps, f"{first.requests:,}", "", "", keys,
                size_in_words(first.read_bytes), end, size_in_words(per_token), "at least" if lower else "",
                size_in_words(last.cache_bytes),
            ]
        )  # fmt: skip
    title = "KV cache that attention reads in a step, all layers (each key once)"
    return Table("cache", columns, rows, shown, title)


def _stretches(reads: Sequence[StepRead]) -> list[tuple[StepRead, StepRead, int | None]]:
    """(first step, last step, growth) of each prefill and stretch of decode steps, in order."""
    grown = [(one.first, one.last, one.per_token) for one in decode_growth(reads)]
    others = [(one, one, None) for one in reads if one.phase in ("prefill", "mixed")]
    return sorted([*grown, *others], key=lambda one: (one[0].process, one[0].step))


def cache_sentence(reads: Sequence[StepRead]) -> str:
    """What the longest stretch of decode steps reads and by how much that grows; "" without one."""
    stretches = decode_growth(reads)
    if not stretches:
        return ""
    longest = max(stretches, key=lambda one: one.steps)
    first, last = longest.first, longest.last
    lower = first.lower_bound or last.lower_bound
    if not last.read_bytes:
        return _held(last)
    least = "at least " if lower else ""
    text = f"Decode step {first.step} reads {least}{size_in_words(first.read_bytes)} of K and V"
    if longest.steps > 1:
        text += f", step {last.step} reads {least}{size_in_words(last.read_bytes)}"
    return f"{text}{_grows(longest)}. {_held(last)}".rstrip()


def _grows(stretch: KvGrowth) -> str:
    if stretch.per_token is None:
        return ""
    if stretch.per_token == 0:
        return ": it does not grow"
    of = " of each request" if stretch.first.requests > 1 else ""
    return f": {size_in_words(stretch.per_token)} more per token{of}"


def _held(step: StepRead) -> str:
    """What the caches behind the calls hold room for."""
    return f"The caches given hold {size_in_words(step.cache_bytes)}." if step.cache_bytes else ""
