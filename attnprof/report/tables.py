"""A table and its forms: terminal, CSV, JSON, Markdown."""

from __future__ import annotations

import csv
import io
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TextIO

from attnprof.report.column_widths import Column as Column
from attnprof.report.column_widths import fitted
from attnprof.safety.printable import printable
from attnprof.safety.quoting import csv_cell, markdown
from attnprof.safety.redact import redact, redact_all, redact_rows

if TYPE_CHECKING:
    from rich.console import Console

TERMINAL_WIDTH = 100
_NARROWEST = 40  # a narrower terminal breaks the lines itself


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


def make_console() -> Console:
    """A console of at most 100 columns, plain where stdout is no terminal or NO_COLOR is set."""
    from rich.console import Console

    # rich takes FORCE_COLOR, which Jupyter sets for its terminals' children, for a terminal.
    console = Console(highlight=False, soft_wrap=False, force_terminal=sys.stdout.isatty())
    if not console.is_terminal or console.width > TERMINAL_WIDTH:
        console.width = TERMINAL_WIDTH
    console.width = max(console.width, _NARROWEST)
    return console


def print_table(table: Table, console: Console | None = None) -> None:
    """The table for a terminal, less its empty columns and those that it has no room for, which it names."""
    console = console or make_console()
    console.out(table_text(table, console), highlight=False)


def table_text(table: Table, console: Console | None = None) -> str:
    """The lines that :func:`print_table` prints."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    console = console or make_console()
    drawn = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0), header_style="bold"
    )
    rows = table.for_people()
    filled = [index for index in range(len(table.columns)) if any(row[index] for row in rows)]
    cells = [[printable(redact(row[index]).replace("\n", " ")) for index in filled] for row in rows]
    columns = [table.columns[index] for index in filled]
    kept, cells = fitted(columns, cells, console.width)
    for column in (columns[index] for index in kept):
        justify: Literal["right", "left"] = "right" if column.right else "left"
        drawn.add_column(
            column.title,
            justify=justify,
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
        )
    for row in cells:
        drawn.add_row(*map(Text, row))
    with console.capture() as captured:
        console.print(drawn)
    # rich pads every line to the table's width.
    lines = [line.rstrip() for line in captured.get().splitlines()]
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
