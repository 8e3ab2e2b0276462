"""Text as other programs take it for nothing but text: a shell, a spreadsheet, a Markdown reader."""

from __future__ import annotations

import re
import shlex

from attnprof.safety.printable import printable

# What begins a formula in Excel, LibreOffice or Google Sheets, the wide forms in some countries' too; and the
# sign that is put before it, which has to stay tellable from one that was there.
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠", "'")

# What Markdown, or GitHub's reading of it, makes something of. A < before a digit, an _ between letters and a
# single * are only signs.
_MARKED = re.compile(
    r"[*`\[\]\\~$@#|]|<[A-Za-z/!?]|&[#\w]|://|www\.|:[\w+\-]+:|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE
)
_TICKS = re.compile("`+")


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: such a text, and one that begins with ', gets a ' more.

    Numbers stay numbers. To read it back, take one ' from the front of each text that has one.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def markdown(text: str) -> str:
    """A text in a line, or a cell, of Markdown as it is: what would be markup stands in a code span."""
    line = " ".join(printable(text).splitlines())
    if not _MARKED.search(line):
        return line
    if "\\|" in line:  # no cell can show these two
        line = line.replace("|", "\\u007c")
    fence = "`" * (1 + max((len(ticks) for ticks in _TICKS.findall(line)), default=0))
    space = " " if line.startswith(("`", " ")) or line.endswith(("`", " ")) else ""
    return f"{fence}{space}{line.replace('|', chr(92) + '|')}{space}{fence}"


def markdown_words(text: str) -> str:
    """A sentence of ours in Markdown, the words of others in it as they are."""
    return " ".join(markdown(word) if word else "" for word in text.replace("\n", " ").split(" "))


def quoted(argument: str) -> str:
    """The argument as one word of a shell, on one line; a leading ~/ stays outside the quotes.

    What cannot be printed is spelled out, as bash, zsh and ksh read it.
    """
    if argument.startswith("~/"):
        return "~/" + quoted(argument[2:]) if len(argument) > 2 else argument
    if printable(argument) == argument and not {"\n", "\t"} & set(argument):
        return shlex.quote(argument)
    return "$'" + "".join(map(_spelled, argument)) + "'"


def _spelled(sign: str) -> str:
    if sign in "\\'":
        return "\\" + sign
    if sign not in "\n\t" and printable(sign) == sign:
        return sign
    return "".join(f"\\x{byte:02x}" for byte in sign.encode("utf-8", "surrogateescape"))
