"""Names, paths and messages that try to drive the terminal they are shown on."""

from __future__ import annotations

import io
import json
import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from attnprof.errors import TraceError
from attnprof.safety.printable import GuardedStream, all_printable, guarded_output, printable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.text(st.characters()))
def test_what_is_shown_holds_no_control_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert {unicodedata.category(sign) for sign in shown if sign not in "\n\t"} & {"Cc", "Cs"} == set()
    assert printable(shown) == shown


@given(st.text())
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    kept = "".join(sign for sign in text if sign.isprintable())
    assert printable(kept) == kept


@given(st.text(st.characters()))
def test_json_stays_json_and_loses_nothing(text: str) -> None:
    assert json.loads(printable(json.dumps(text, ensure_ascii=False))) == text


def test_every_string_of_a_document_is_made_printable() -> None:
    assert all_printable({"a\x1b": ["\x9b", 1, {"b": "c\rd"}]}) == {
        r"a\u001b": [r"\u009b", 1, {"b": r"c\u000dd"}]
    }


def test_a_guarded_terminal_keeps_our_styles_and_no_other_sequence() -> None:
    terminal = Terminal()
    out = GuardedStream(terminal)
    out.writelines(["\x1b[1mbold\x1b[0m \x1b[32mgreen\x1b[39m\n", "\x1b[8mhidden \x1b[2J \x1b]0;title\x07\n"])
    assert terminal.getvalue() == (
        "\x1b[1mbold\x1b[0m \x1b[32mgreen\x1b[39m\n\\u001b[8mhidden \\u001b[2J \\u001b]0;title\\u0007\n"
    )


def test_a_pipe_gets_no_sequence_at_all() -> None:
    pipe = io.StringIO()
    GuardedStream(pipe).write("\x1b[1mx")
    assert pipe.getvalue() == r"\u001b[1mx"


def test_a_terminal_that_lacks_a_sign_gets_its_number() -> None:
    raw = io.BytesIO()
    latin = io.TextIOWrapper(raw, encoding="latin-1")
    GuardedStream(latin).write("µs ─")
    latin.flush()
    assert raw.getvalue() == "µs ".encode("latin-1") + rb"\u2500"


def test_a_progress_bar_may_move_the_cursor_on_stderr() -> None:
    from rich.console import Console

    before = sys.stderr
    terminal = Terminal()
    sys.stderr = terminal
    try:
        with guarded_output():
            Console(stderr=True, force_terminal=True).show_cursor(False)
            print("\x1b[2J", file=sys.stderr, end="")
    finally:
        sys.stderr = before
    assert terminal.getvalue() == "\x1b[?25l\\u001b[2J"


def test_an_error_that_quotes_a_file_is_printable_wherever_it_is_shown() -> None:
    error = TraceError("bad \x1b[31m\nname", hint="see \x07")
    assert (str(error), error.message, error.hint) == (
        r"bad \u001b[31m name",
        r"bad \u001b[31m name",
        r"see \u0007",
    )


def test_marks_that_reorder_text_are_spelled_out() -> None:
    assert printable("a\u202eb\u2066c\u2028") == r"a\u202eb\u2066c\u2028"
