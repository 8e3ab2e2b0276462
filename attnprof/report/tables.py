"""A table and its forms: terminal, CSV, JSON, Markdown."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

from attnprof.report.column_widths import Column as Column
from attnprof.report.column_widths import fitted
from attnprof.report.console import BOLD, Console, make_console
from attnprof.report.drawn_table import drawn
from attnprof.safety.printable import printable
from attnprof.safety.quoting import csv_cell, markdown
from attnprof.safety.redact import redact, redact_all, redact_rows


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain values under columns; ``shown`` has them as people read them, where that differs.

    Every form leaves out what is shaped like a secret, a terminal also columns in which nothing is shown.
    """

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    shown: Sequence[Sequence[str]] | None = None
    title: str = ""

    def objects(self) -> list[dict[str, Any]]:
        """A dict per row."""
        return [dict(zip((column.key for column in self.columns), row, strict=True)) for row in self.rows]

    def first(self, rows: int) -> Table:
        """The table's first rows."""
        shown = None if self.shown is None else self.shown[:rows]
        return replace(self, rows=self.rows[:rows], shown=shown)

    def for_people(self) -> Sequence[Sequence[str]]:
        """The rows as text."""
        return (
            self.shown if self.shown is not None else [[_text(value) for value in row] for row in self.rows]
        )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def to_csv(table: Table) -> str:
    """Comma-separated values with a header line; empty where a value is unknown."""
    text = io.StringIO()
    write_csv(table, text)
    return text.getvalue()


def write_csv(table: Table, out: TextIO) -> None:
    """The same, row by row into a file; no spreadsheet takes a text for a formula."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(column.key for column in table.columns)
    writer.writerows([csv_cell(value) for value in row] for row in redact_rows(table.rows))


def write_json(table: Table, out: TextIO) -> None:
    """A JSON list with an object per row, each on its line, row by row into a file."""
    keys = [column.key for column in table.columns]
    out.write("[")
    for number, row in enumerate(redact_rows(table.rows)):
        line = json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False)
        out.write(f"{',' if number else ''}\n {line}")
    out.write("\n]\n")


def print_json(value: dict[str, Any], rows: Table | None = None) -> None:
    """Plain values as indented JSON on stdout, without what is shaped like a secret.

    ``rows`` are a last value, under the table's name, whose objects are written one by one.
    """
    text = json.dumps(redact_all(value), indent=1, ensure_ascii=False)
    if rows is None:
        print(text)
        return
    out, keys = sys.stdout, [column.key for column in rows.columns]
    out.write(f'{text.removesuffix(_END)},{_NEXT}"{rows.name}": [')
    for number, row in enumerate(redact_rows(rows.rows)):
        # As indent would write it, but with json's quick encoder, which takes no indent.
        values = json.dumps(
            dict(zip(keys, row, strict=True)), ensure_ascii=False, separators=(f",{_NEXT}  ", ": ")
        )
        out.write(f"{',' if number else ''}{_NEXT} {{{_NEXT}  {values[1:-1]}{_NEXT} }}")
    out.write(f"{_NEXT if len(rows.rows) else ''}]{_END}\n")


_NEXT, _END = "\n ", "\n}"  # where a value begins, and where the object ends


def to_markdown(table: Table) -> str:
    """A Markdown table, every value shown as it is."""
    text = io.StringIO()
    write_markdown(table, text)
    return text.getvalue()


def write_markdown(table: Table, out: TextIO) -> None:
    """The same, row by row into a file."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |\n"

    out.write(line([column.title for column in table.columns]))
    out.write(line(["---:" if column.right else "---" for column in table.columns]))
    rows = ([_text(value) for value in row] for row in table.rows) if table.shown is None else table.shown
    out.writelines(line(map(markdown, row)) for row in redact_rows(rows))


def print_table(table: Table, console: Console | None = None) -> None:
    """The table for a terminal, less its empty columns and those that it has no room for, which it names."""
    console = console or make_console()
    head, *lines = table_text(table, console).split("\n")
    console.out("\n".join([console.styled(head, BOLD), *lines]))


def table_text(table: Table, console: Console | None = None) -> str:
    """The lines that :func:`print_table` prints, plain."""
    console = console or make_console()
    rows = table.for_people()
    filled = [index for index in range(len(table.columns)) if any(row[index] for row in rows)]
    cells = [[printable(redact(row[index]).replace("\n", " ")) for index in filled] for row in rows]
    columns = [table.columns[index] for index in filled]
    kept, cells = fitted(columns, cells, console.width)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    lines = drawn([columns[index] for index in kept], cells, console.width, encoding)
    if lost := [column.title for index, column in enumerate(columns) if index not in kept]:
        lines += textwrap.wrap(f"left out at this width: {', '.join(lost)}", console.width)
    return "\n".join(lines)


def write_table(table: Table, output_format: str) -> None:
    """The table on stdout as "table", "csv", "json" or "md"."""
    if output_format == "table":
        print_table(table)
    elif output_format == "csv":
        write_csv(table, sys.stdout)
    elif output_format == "json":
        write_json(table, sys.stdout)
    else:
        sys.stdout.write(to_markdown(table))


def duration(ns: float | None) -> str:
    """A time with three significant digits in the unit that suits it; never a non-zero as 0."""
    if ns is None:
        return ""
    for limit, scale, unit in ((1e3, 1.0, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms")):
        if abs(ns) < limit * 0.9995:
            return f"{_three_digits(ns / scale)} {unit}"
    return f"{_three_digits(ns / 1e9)} s"


def _three_digits(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """A share of 0 to 1 as a percentage; never a non-zero as 0."""
    if share is None:
        return ""
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{share * 100:.1f} %"
