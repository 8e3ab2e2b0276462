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
        parts = [
            ("%s", values) if ours else known.of(values) for values, ours in zip(columns, own, strict=True)
        ]
        row = ",".join([form for form, _ in parts]) + "\n"
        out.write("".join(map(row.__mod__, zip(*(cells for _, cells in parts), strict=True))))


class _Cells(dict[str, str]):
    """Texts as they stand in a cell, without what is shaped like a secret."""

    def of(self, values: list[Any]) -> tuple[str, list[Any]]:
        """How some values are put in a row, and they or their cells, empty where one is None."""
        kinds = set(map(type, values))
        if kinds <= {int, float}:
            return "%d" if kinds <= {int} else "%s", values  # which are str of them, and quicker
        if len(self) > _MOST_KNOWN:
            self.clear()
        if kinds <= {str}:
            return "%s", [*map(self.__getitem__, values)]
        if kinds <= {int, type(None)}:
            return "%s", ["" if value is None else value for value in values]
        return "%s", ["" if v is None else self[v] if isinstance(v, str) else str(v) for v in values]

    def __missing__(self, text: str) -> str:
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerow((csv_cell(redact(text)), ""))
        cell = self[text] = written.getvalue()[:-2]
        return cell
