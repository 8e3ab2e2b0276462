"""What people read is drawn as rich draws it, which takes longer to import than a command takes."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich import box
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.table import Table as RichTable
from rich.text import Text

from attnprof.report import console as ours
from attnprof.report.column_widths import Column
from attnprof.report.console import BOLD, GREEN, Console, make_console, width_of, wrapped
from attnprof.report.drawn_table import drawn

WORDS = st.text(st.sampled_from("ab -_<>,:µ×→≤…語é"), max_size=30)


def as_rich(columns: list[Column], rows: list[list[str]], width: int) -> list[str]:
    """The same table, drawn by rich."""
    console = RichConsole(highlight=False, width=width, force_terminal=False, file=io.StringIO())
    table = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0), header_style="bold"
    )
    for column in columns:
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Column], list[list[str]], int]:
    """Columns of which the narrow ones do not wrap, as ``fitted`` leaves them, and a width."""
    kinds = draw(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=5))
    columns = [
        Column(f"c{number}", right=right and not wraps, wraps=wraps)
        for number, (right, wraps) in enumerate(kinds)
    ]
    cells = st.tuples(*(st.text("ab -µ→語", max_size=60) if c.wraps else WORDS for c in columns))
    rows = [list(row) for row in draw(st.lists(cells, max_size=4))]
    fixed = sum(max([2, *(cell_len(row[i]) for row in rows)]) for i, c in enumerate(columns) if not c.wraps)
    wrapping = sum(column.wraps for column in columns)
    least = fixed + 3 * (len(columns) - 1) + 4 * wrapping
    return columns, rows, max(40, least + draw(st.integers(0, 60)))


@settings(max_examples=300, deadline=None)
@given(tables())
def test_a_table_is_drawn_as_rich_draws_it(table: tuple[list[Column], list[list[str]], int]) -> None:
    columns, rows, width = table
    assert drawn(columns, rows, width, "utf-8") == as_rich(columns, rows, width)


@pytest.mark.parametrize("width", [40, 60])
def test_a_single_column_without_room_is_cut_as_rich_cuts_it(width: int) -> None:
    columns, rows = [Column("name")], [["x" * 100], ["short"]]
    assert drawn(columns, rows, width, "utf-8") == as_rich(columns, rows, width)


def test_the_signs_taken_for_narrow_are_one_column_wide() -> None:
    narrow = [chr(code) for code in range(0x20, 0x3000) if ours._NARROW.fullmatch(chr(code))]
    assert len(narrow) > 100
    assert [sign for sign in narrow if cell_len(sign) != 1] == []
    assert width_of("語") == 2


@settings(max_examples=200, deadline=None)
@given(st.text("ab -µ語", max_size=80), st.integers(4, 30))
def test_text_wraps_as_rich_wraps_it(text: str, width: int) -> None:
    lines = Text(text).wrap(RichConsole(width=width), width, overflow="fold")
    assert wrapped(text, width) == [line.plain.rstrip() for line in lines]


def test_a_rule_that_the_output_cannot_show_is_of_dashes() -> None:
    assert drawn([Column("name")], [["a"]], 80, "latin-1") == ["name", "----", "a"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "bold", "green", "width"),
    [
        ({"TERM": "xterm", "COLUMNS": "90"}, True, True, 90),
        ({"TERM": "xterm", "COLUMNS": "190"}, True, True, 100),
        ({"TERM": "xterm", "COLUMNS": "9"}, True, True, 40),
        ({"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "90"}, True, False, 90),
        ({"TERM": "dumb", "COLUMNS": "90"}, False, False, 80),
    ],
)
def test_a_terminal_shows_what_rich_would_show(
    environment: dict[str, str], bold: bool, green: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "COLORTERM", "LINES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    console, rich = make_console(), RichConsole(force_terminal=True)
    assert console.width == max(40, min(rich.width, 100)) == width
    assert (console.styled("x", BOLD) != "x") is bold
    assert (console.styled("x", GREEN) != "x") is green
    for style, code in (("bold", BOLD), ("green", GREEN)):
        with rich.capture() as captured:
            rich.print(Text("x", style=style), end="")
        assert captured.get() == console.styled("x", code)


def test_a_pipe_is_plain_and_100_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("COLUMNS", "60")
    console = make_console()
    assert (console.width, console.styled("x", BOLD)) == (100, "x")
    Console().print("")
    assert sys.stdout.getvalue() == "\n"  # type: ignore[attr-defined]
