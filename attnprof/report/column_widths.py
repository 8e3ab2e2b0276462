"""How a table fits a terminal: names are shortened in their middle, then whole columns are left out.

No column is ever cut to an ellipsis. Of a name first goes what every kernel is called, then its middle, where
two different names stay different.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from attnprof.report.console import width_of

GAP = 3  # characters between columns
_SHORTEST = 20
_NOISE = "_kernel"
_BETWEEN = re.compile(r"[_ ]")  # words of a name
_LEAST_KEPT = 0.6  # of the width, where a name is cut between its words
_PLAIN_HEAD = 3  # of a shortened name, at least so many characters before the ellipsis


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its key in JSON and CSV, its heading for people, whether it aligns right or may wrap.

    Of a table too wide for a terminal, the columns of least ``use`` are left out first.
    """

    key: str
    heading: str = ""
    right: bool = False
    wraps: bool = False
    use: int = 1

    @property
    def title(self) -> str:
        return self.heading or self.key


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[int], list[list[str]]]:
    """(the columns that are kept, the rows of these) so that the table is at most ``width`` wide.

    Columns of names are shortened, evenly, down to a readable length. Then the least useful column goes, the
    rightmost of several alike; the first always stays.
    """
    natural = [
        max([width_of(column.title), *(width_of(row[index]) for row in rows)])
        for index, column in enumerate(columns)
    ]
    least = list(natural)
    for index, column in enumerate(columns):
        if column.wraps or (not column.right and any(map(_has_letters, (row[index] for row in rows)))):
            least[index] = min(natural[index], max(_SHORTEST, len(column.title)))
    kept = list(range(len(columns)))
    while sum(least[index] for index in kept) + GAP * (len(kept) - 1) > width and len(kept) > 1:
        kept.remove(min(kept[1:], key=lambda index: (columns[index].use, -index)))
    room = width - GAP * (len(kept) - 1) - sum(least[index] for index in kept)
    widths = _shared({i: (least[i], natural[i]) for i in kept}, room)
    cells = {
        index: shortened([row[index] for row in rows], widths[index])
        if widths[index] < natural[index] and not columns[index].wraps
        else [row[index] for row in rows]
        for index in kept
    }
    return kept, [[cells[index][number] for index in kept] for number in range(len(rows))]


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))


def _shared(limits: dict[int, tuple[int, int]], room: int) -> dict[int, int]:
    """Widths between (least, natural), ``room`` above the least shared: who needs little takes it first."""
    widths: dict[int, int] = {}
    for index in sorted(limits, key=lambda index: limits[index][1] - limits[index][0]):
        least, natural = limits[index]
        more = min(natural - least, max(0, room) // (len(limits) - len(widths)))
        widths[index] = least + more
        room -= more
    return widths


def shortened(names: Sequence[str], width: int) -> list[str]:
    """The names, those longer than ``width`` with an ellipsis in the middle; different ones stay so."""
    different = set(names)
    plain = {name: name.replace(_NOISE, "") if len(name) > width else name for name in different}
    if len(set(plain.values())) == len(different):
        names = [plain[name] for name in names]
        different = set(names)
    names_with = Counter(word for name in different for word in set(_BETWEEN.split(name)))
    whole = {name: _cut_between_words(name, width, names_with) for name in different}
    if len(set(filter(None, whole.values()))) == len(different):
        return [whole[name] for name in names]
    middle = (width - 1) // 2
    for offset in sorted(range(_PLAIN_HEAD, width - 1), key=lambda head: abs(head - middle)):
        short = {name: _cut(name, width, offset) for name in different}
        if len(set(short.values())) == len(different):
            return [short[name] for name in names]
    return [_cut(name, width, middle) for name in names]


def _cut_between_words(name: str, width: int, names_with: Mapping[str, int]) -> str:
    """The name without some of its words, those kept that fewest names have; "" where little is left."""
    if len(name) <= width:
        return name
    starts = [0, *(found.end() for found in _BETWEEN.finditer(name)), len(name)]
    best, chosen = (0.0, 0, 0), ""
    heads = [head for head in starts if head < width]  # no more of either end fits
    tails = [tail for tail in starts if len(name) - tail < width]
    for head, tail in product(heads, tails):
        if head >= tail:
            continue
        kept = head + len(name) - tail
        if _LEAST_KEPT * width <= kept + 1 <= width:
            told = sum(1 / names_with[word] for word in _BETWEEN.split(name[:head] + name[tail:]) if word)
            found = (told, kept, -abs(head - (len(name) - tail)))
            if found > best:
                best, chosen = found, f"{name[:head]}…{name[tail:]}"
    return chosen


def _cut(name: str, width: int, head: int) -> str:
    if len(name) <= width:
        return name
    tail = width - 1 - head
    return f"{name[:head]}…{name[len(name) - tail :]}"
