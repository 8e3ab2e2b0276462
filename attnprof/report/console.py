"""What is written for people: lines of at most 100 columns, bold and coloured where a terminal shows that.

rich draws the same, and is not asked: its import takes longer than most commands.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

TERMINAL_WIDTH = 100
_NARROWEST, _UNKNOWN = 40, 80  # columns: a narrower terminal breaks the lines itself
_DUMB = ("dumb", "unknown")
BOLD, GREEN, YELLOW, RED = "1", "32", "33", "31"
_COLOURS = (GREEN, YELLOW, RED)
# Signs of our own words, each one column wide, as ASCII is. Of any other text the width is looked up.
_NARROW = re.compile("[\x20-\x7e\xb5\xb7\xd7\u2013\u2026\u2190\u2192\u2264\u2265]*")
_WORD = re.compile(r"\S+\s*")


class Console:
    """Where lines go: stdout, in ``width`` columns."""

    def __init__(self, width: int = TERMINAL_WIDTH, *, styled: bool = False, coloured: bool = True) -> None:
        self.width, self._styled, self._coloured = width, styled, coloured

    def print(self, text: str = "", *style: str) -> None:
        """A sentence, wrapped."""
        for line in wrapped(text, self.width):
            self.out(self.styled(line, *style))

    def out(self, text: str) -> None:
        """Lines as they are: tables, and commands that people copy."""
        print(text)

    def styled(self, text: str, *style: str) -> str:
        """The text in BOLD, GREEN, YELLOW or RED, where that is shown."""
        shown = [code for code in style if self._coloured or code not in _COLOURS]
        return f"\x1b[{';'.join(shown)}m{text}\x1b[0m" if self._styled and shown and text else text


def make_console() -> Console:
    """A console of at most 100 columns, plain where stdout is no terminal; NO_COLOR leaves bold."""
    if not sys.stdout.isatty():
        return Console()
    dumb = os.environ.get("TERM", "").lower() in _DUMB
    width = _UNKNOWN if dumb else _columns()
    width = max(_NARROWEST, min(width, TERMINAL_WIDTH))
    return Console(width, styled=not dumb, coloured=not os.environ.get("NO_COLOR"))


def _columns() -> int:
    """The terminal's columns."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit():
        return int(asked)
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            return os.get_terminal_size(descriptor).columns or _UNKNOWN
    return _UNKNOWN


def width_of(text: str) -> int:
    """The columns that a text takes in a terminal."""
    if text.isascii() or _NARROW.fullmatch(text):
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most ``width`` columns, broken between words, and within one that is longer."""
    if width_of(text) <= width:
        return [text.rstrip()]
    breaks: list[int] = []
    taken = 0
    blanks = len(text) - len(text.lstrip())  # which belong to the first word
    for found in _WORD.finditer(text, blanks):
        start = 0 if found.start() == blanks else found.start()
        word = text[start : found.end()]
        needed = width_of(word.rstrip())
        if needed <= width - taken:
            taken += width_of(word)
        elif needed > width:
            *whole, last = _folded(word, width)
            if start:
                breaks.append(start)
            for piece in whole:
                start += len(piece)
                breaks.append(start)
            taken = width_of(last)
        elif taken and start:
            breaks.append(start)
            taken = width_of(word)
    edges = [0, *breaks, len(text)]
    return [text[a:b].rstrip() for a, b in pairwise(edges)]


def _folded(word: str, width: int) -> Sequence[str]:
    """A word in pieces of ``width`` columns."""
    if word.isascii() or _NARROW.fullmatch(word):
        return [word[at : at + width] for at in range(0, len(word), width)]
    from rich.cells import chop_cells

    return chop_cells(word, width)
