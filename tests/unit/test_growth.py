"""Time grows with a text and no faster: every pattern, on repeated pieces of what it looks for."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from time import process_time
from typing import Any

import pytest

from tests.support.patterns import asked_whole, compiled, fragments, written_in_place

_LENGTH = 16_000
_QUICK_S = 0.008  # a pattern that looks at every pair of 16,000 characters takes ten times that
_GROWTH = 7.0  # for four times the text; 16 where time grows with the square
_ASKED_AGAIN = 3  # a busy machine's clock jumps once; what grows too fast does so each time
_PAIRED, _SHORT = 9, 14  # so many pieces of so few characters are also tried two and two
_GIVEN_UP_S = 1.5

# Patterns whose callers never give them a longer text; a file name has 255 bytes at most.
_SHORTER = {
    "attnprof.trace.torch_rows._ATTENTION_OP": 1024,
    "attnprof.trace.range_names.": 4096,
    "attnprof.runs.rank_traces.": 255,
    "attnprof.runs.export.ENDINGS": 255,
    "attnprof.runs.unfinished_folders._NAME": 255,
    "attnprof.trace.nsys_parquet.": 255,
}
_SHORT_S = 0.03  # the longest that one text of that length may take
# Made from others, which are measured where they are kept; or, of the last, a literal and one sign.
_COMPUTED = {
    "capture/nsys_messages.py: pattern",
    "safety/redact.py: re.escape(home) + '(?=[/\\\\s\\\\\"\\':,;)]|$)'",
}


@cache
def _patterns() -> dict[str, tuple[re.Pattern[Any], bool]]:
    in_place, _ = written_in_place()
    return {name: (pattern, asked_whole(name)) for name, pattern in compiled().items()} | in_place


class _StuckError(Exception):
    """A pattern does not come to an end."""


@contextmanager
def _given_up(after_s: float) -> Iterator[None]:
    def stuck(number: int, frame: object) -> None:
        raise _StuckError

    before = signal.signal(signal.SIGALRM, stuck)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _seconds(pattern: re.Pattern[Any], whole: bool, text: str) -> float:
    """Processor time of one pass over the text; infinite where it is given up."""
    asked: Any = text.encode("utf-8") if isinstance(pattern.pattern, bytes) else text
    began = process_time()
    try:
        with _given_up(_GIVEN_UP_S):
            if whole:
                pattern.match(asked), pattern.fullmatch(asked)
            else:
                for _ in pattern.finditer(asked):
                    pass
    except _StuckError:
        return float("inf")
    return process_time() - began


def _texts(pieces: list[str], length: int) -> Iterator[str]:
    """Each piece again and again, alone and with others, and something behind that fits nothing."""
    short = [piece for piece in pieces if len(piece) <= _SHORT][:_PAIRED]
    for piece in pieces:
        yield piece * (length // len(piece))
        yield piece * (length // len(piece)) + "\x01"
    for one in short:
        for other in short:
            if one != other:
                yield (one + other) * (length // len(one + other)) + "\x01"
                yield one + other * (length // len(other)) + "\x01"


def _grows_too_fast(pattern: re.Pattern[Any], whole: bool, longest: int | None) -> str:
    """The text for which it does, "" for none."""
    pieces = fragments(pattern)
    for text in _texts(pieces, min(longest or _LENGTH, _LENGTH)):
        seconds = _seconds(pattern, whole, text)
        if longest is not None:
            if seconds > _SHORT_S and min(_seconds(pattern, whole, text) for _ in range(3)) > _SHORT_S:
                return f"{text[:60]!r}… takes {seconds:.3f} s"
        elif seconds > _QUICK_S:
            for _ in range(_ASKED_AGAIN):
                quarter = _seconds(pattern, whole, text[: len(text) // 4] + text[-1])
                if seconds <= max(_QUICK_S, _GROWTH * quarter):
                    break
                seconds = _seconds(pattern, whole, text)
            else:
                return f"{text[:60]!r}… takes {seconds:.3f} s, a quarter of it {quarter:.3f} s"
    return ""


@pytest.mark.parametrize("name", sorted(_patterns()))
def test_no_pattern_takes_longer_than_its_text_is_long(name: str) -> None:
    pattern, whole = _patterns()[name]
    longest = next((limit for begin, limit in _SHORTER.items() if name.startswith(begin)), None)
    assert _grows_too_fast(pattern, whole, longest) == ""


@pytest.mark.parametrize(
    ("pattern", "whole"),
    [
        (r"(?:[0-4;]|2[234])*m", False),  # two readings of every 22
        (r"sk-(?=[a-z\-]*\d)\w+", False),  # looks ahead to the end from every beginning
        (r"(?:a|b)*[ab]*!", True),
        (r"execute_(\d+_)?context_0\(.*_generation_[1-9]", False),
    ],
)
def test_a_pattern_that_does_is_found(pattern: str, whole: bool) -> None:
    assert _grows_too_fast(re.compile(pattern), whole, None) != ""


def test_every_pattern_is_measured() -> None:
    _, computed = written_in_place()
    assert set(computed) == _COMPUTED
    assert len(_patterns()) > 80
    assert all(any(name.startswith(begin) for name in _patterns()) for begin in _SHORTER)
