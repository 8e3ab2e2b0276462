"""CSV column by column: as ``tables.write_csv`` writes it row by row, for tables of millions of rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from attnprof.safety.quoting import csv_cell
from attnprof.safety.redact import redact

_MOST_KNOWN = 1 << 16  # texts remembered


def write_csv_columns(
    titles: Sequence[str], own: Sequence[bool], blocks: Iterable[Sequence[list[Any]]], out: TextIO
) -> None:
    """Values under titles; each block holds a list per column.

    A column is ``own`` where attnprof spelled its texts, of signs that no form of output takes for anything
    else: they are written as they are.
    """
    csv.writer(out, lineterminator="\n").writerow(titles)
    known = _Cells()
    for columns in blocks:
        cells = [values if ours else known.of(values) for values, ours in zip(columns, own, strict=True)]
        out.write("".join([f"{row}\n" for row in map(",".join, zip(*cells, strict=True))]))


class _Cells(dict[str, str]):
    """Texts as they stand in a cell, without what is shaped like a secret."""

    def of(self, values: list[Any]) -> list[str]:
        """The cells of some values, empty where one is None."""
        kinds = set(map(type, values))
        if kinds <= {int, float}:
            return [*map(str, values)]
        if len(self) > _MOST_KNOWN:
            self.clear()
        if kinds <= {str}:
            return [self[value] for value in values]
        return ["" if v is None else self[v] if isinstance(v, str) else str(v) for v in values]

    def __missing__(self, text: str) -> str:
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerow((csv_cell(redact(text)), ""))
        cell = self[text] = written.getvalue()[:-2]
        return cell
