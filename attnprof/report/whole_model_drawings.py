"""The page's drawings of the whole model: what each phase's GPU time went to, and the KV cache by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from attnprof.report.kv_cache import size_in_words
from attnprof.report.tables import Table, duration, percent
from attnprof.report.work import PARTS, part_name

_WIDTH, _LEFT, _RIGHT = 1000, 130, 20
_BAR, _GAP, _TOP = 28, 12, 6
_LABELLED = 0.055  # of a bar: narrower pieces have their share in the tooltip alone
_HEIGHT, _BOTTOM = 190, 30  # of the cache's drawing


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a phase's bar, in the drawing's units; ``label`` is "" where there is no room for it."""

    x: float
    width: float
    style: int
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class PhaseBar:
    """A phase's GPU time, all of it as one bar."""

    y: float
    name: str
    time: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class WorkDrawing:
    """The bars, and what each style stands for."""

    width: int
    height: int
    left: int
    bar: int
    bars: tuple[PhaseBar, ...]
    legend: tuple[tuple[int, str], ...]


def draw_work(table: Table) -> WorkDrawing | None:
    """The table ``modules`` as bars; None where it has no rows."""
    bars, used = [], set[int]()
    shown = [(row, cells[0]) for row, cells in zip(table.objects(), table.for_people(), strict=True)]
    for number, (name, members) in enumerate(groupby(shown, key=lambda one: one[1])):
        rows = {row["kind"]: row for row, _ in members}
        total = sum(row["gpu_ns"] for row in rows.values())
        pieces, x, scale = [], float(_LEFT), _WIDTH - _LEFT - _RIGHT
        for kinds, style in PARTS:
            spent = sum(rows[kind]["gpu_ns"] for kind in kinds if kind in rows)
            if not spent:
                continue
            share = spent / total
            title = f"{part_name(style)}: {percent(share)} of {name}'s GPU time, {duration(spent)}"
            label = percent(share) if share >= _LABELLED else ""
            pieces.append(Piece(round(x, 2), round(share * scale, 2), style, label, title))
            x += share * scale
            used.add(style)
        y = _TOP + number * (_BAR + _GAP)
        if pieces:
            bars.append(PhaseBar(y, name, duration(total), tuple(pieces)))
    if not bars:
        return None
    legend = tuple((style, part_name(style)) for _, style in PARTS if style in used)
    height = int(bars[-1].y) + _BAR + _TOP
    return WorkDrawing(_WIDTH, height, _LEFT, _BAR, tuple(bars), legend)


@dataclass(frozen=True, slots=True)
class CacheDrawing:
    """What steps of the first process read, as an SVG path; ``ticks`` are (y, text), ``steps`` (x, text)."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    path: str
    ticks: tuple[tuple[float, str], ...]
    steps: tuple[tuple[float, str], ...]
    at_least: bool


def draw_cache(table: Table) -> CacheDrawing | None:
    """The table ``cache_steps`` as a line; None where fewer than two steps are known."""
    rows = table.objects()
    rows = [row for row in rows if row["process"] == rows[0]["process"]]
    most = max((row["read_bytes"] for row in rows), default=0)
    first, last = (rows[0]["step"], rows[-1]["step"]) if rows else (0, 0)
    if len(rows) < 2 or not most:
        return None
    each = (_WIDTH - _LEFT - _RIGHT) / (last - first + 1)
    scale = (_HEIGHT - _BOTTOM - _TOP) / most
    bottom = _HEIGHT - _BOTTOM
    path = []
    for n, row in enumerate(rows):
        x, y = _LEFT + (row["step"] - first) * each, bottom - row["read_bytes"] * scale
        follows = n and rows[n - 1]["step"] + 1 == row["step"]
        path.append(f"{'L' if follows else 'M'}{x:.1f} {y:.1f}H{x + each:.1f}")
    ticks = tuple(
        (round(bottom - most * part * scale, 1), size_in_words(most * part)) for part in (0, 0.5, 1)
    )
    ends = ((round(_LEFT + each / 2, 1), f"{first:,}"), (round(_WIDTH - _RIGHT - each / 2, 1), f"{last:,}"))
    least = any(row["lower_bound"] for row in rows)
    return CacheDrawing(_WIDTH, _HEIGHT, _LEFT, _WIDTH - _RIGHT, bottom, "".join(path), ticks, ends, least)


def drawings(tables: Sequence[Table]) -> dict[str, WorkDrawing | CacheDrawing | None]:
    """The drawings by the table that each stands over."""
    by_name = {table.name: table for table in tables}
    found: dict[str, WorkDrawing | CacheDrawing | None] = {}
    if "modules" in by_name:
        found["modules"] = draw_work(by_name["modules"])
    if "cache_steps" in by_name:
        found["cache"] = draw_cache(by_name["cache_steps"])
    return found
