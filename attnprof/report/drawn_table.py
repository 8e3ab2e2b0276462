"""Columns of text drawn as lines, as rich draws them: three blanks between columns, a rule below the head.

Of a table wider than the room it has, columns that may wrap give way, the widest first, in equal steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnprof.report.column_widths import GAP, Column
from attnprof.report.console import width_of, wrapped

_RULE, _PLAIN_RULE = "─", "-"
_PADDING = GAP - 1


def drawn(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int, encoding: str) -> list[str]:
    """The head, the rule and the rows, none ending in blanks; ``room`` is in columns of the terminal."""
    if not columns:
        return [""]
    natural = [
        max(1, width_of(column.title), *(width_of(row[index]) for row in rows))
        for index, column in enumerate(columns)
    ]
    widths = _narrowed(natural, columns, room - GAP * (len(columns) - 1))
    rule = _RULE if encoding.lower().startswith("utf") else _PLAIN_RULE
    lines = _drawn_row([column.title for column in columns], columns, widths)
    lines.append(rule * (sum(widths) + GAP * (len(columns) - 1)))
    for row in rows:
        lines += _drawn_row(row, columns, widths)
    return lines


def _narrowed(natural: Sequence[int], columns: Sequence[Column], room: int) -> list[int]:
    """The widths where the table has ``room`` columns for them."""
    blanks = [_PADDING] * (len(columns) - 1) + [0]  # behind a column, and shared out with it
    widths = [width + blank for width, blank in zip(natural, blanks, strict=True)]
    room += sum(blanks)
    while (excess := sum(widths) - room) > 0:
        may = [width for width, column in zip(widths, columns, strict=True) if column.wraps]
        most = max(may, default=0)
        step = min(excess, most - max([width for width in may if width != most], default=0))
        if not step:
            break
        gives = [column.wraps and width == most for width, column in zip(widths, columns, strict=True)]
        widths = _reduced(excess, gives, [step] * len(widths), widths)
    if excess > 0:
        widths = _reduced(excess, [width > 0 for width in widths], widths, widths)
    return [max(1, width - blank) for width, blank in zip(widths, blanks, strict=True)]


def _reduced(excess: int, gives: list[bool], most: list[int], widths: list[int]) -> list[int]:
    """The widths less an excess in equal shares, of ``most`` each, of those that give."""
    many, less = sum(gives), []
    for give, limit, width in zip(gives, most, widths, strict=True):
        share = min(limit, round(excess / many)) if give else 0
        excess, many = excess - share, many - give
        less.append(width - share)
    return less


def _drawn_row(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    """A row, as many lines as its tallest cell."""
    wide = zip(cells, columns, widths, strict=True)
    texts = [wrapped(cell, width) if column.wraps else [_cut(cell, width)] for cell, column, width in wide]
    lines = []
    for number in range(max(map(len, texts))):
        parts = []
        for text, column, width in zip(texts, columns, widths, strict=True):
            part = text[number] if number < len(text) else ""
            part = part.rstrip() if column.right else part
            blanks = " " * (width - width_of(part))
            parts.append(blanks + part if column.right else part + blanks)
        lines.append((" " * GAP).join(parts).rstrip())
    return lines


def _cut(cell: str, width: int) -> str:
    """A text that may not wrap, its end left out where there is no room."""
    if width_of(cell) <= width:
        return cell
    kept = cell[: width - 1]
    while width_of(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…"
