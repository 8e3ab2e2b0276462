"""Text that anybody may have written, made safe to show: names in a trace, paths, configuration."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from attnprof.safety import streams

# Control characters but line ends and tabs, which a terminal obeys, marks that reorder text, and halves of
# surrogate pairs, which cannot be encoded. Named, not what is left: that takes Python ten times as long.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What rich writes; nothing that conceals.
_STYLE = re.compile("\x1b\\[(?:(?:[0-4]|2[234]|[39][0-79])?(?:;|(?=m))){0,9}m")


def printable(text: str) -> str:
    r"""``text`` with every character that a terminal would obey, or cannot show, spelled out: ``\u001b``.

    The spelling is JSON's own, so that JSON stays JSON.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def all_printable(value: Any) -> Any:
    """The same for every string inside dicts and lists, keys included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): all_printable(item) for key, item in value.items()}
    return [all_printable(item) for item in value] if isinstance(value, (list, tuple)) else value


class GuardedStream:
    """A text stream through which no escape sequence reaches a terminal but the styles of our own tables.

    ``own_controls``: what rich writes passes as it is, for a progress bar that moves the cursor.
    ``spare``: where no more can be written, that changes nothing: what is said there is lost.
    """

    def __init__(self, stream: Any, *, own_controls: bool = False, spare: bool = False) -> None:
        self._stream = stream
        self._styled = stream.isatty()
        self._spare = spare
        if own_controls:
            self.rich_proxied_file = stream  # where rich looks for the stream behind a wrapper

    def write(self, text: str) -> int:
        shown = text if text.isascii() and text.isprintable() else self._guarded(text)
        try:
            self._stream.write(shown)
        except UnicodeEncodeError as error:  # a terminal that is not UTF-8
            self._stream.write(shown.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Of a spare stream; else the error is raised again."""
        if self._spare:
            streams.drop(self._stream)
            return
        if isinstance(error, BrokenPipeError):
            raise streams.ReaderGoneError from error
        raise error

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def _guarded(self, text: str) -> str:
        if not self._styled:
            return printable(text)
        shown, at = [], 0
        for style in _STYLE.finditer(text):
            shown += [printable(text[at : style.start()]), style.group()]
            at = style.end()
        return "".join([*shown, printable(text[at:])])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_output() -> Iterator[None]:
    """stdout and stderr are guarded streams meanwhile."""
    out, err = sys.stdout, sys.stderr
    guarded: Any = GuardedStream(out), GuardedStream(err, own_controls=True, spare=True)
    sys.stdout, sys.stderr = guarded
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, err
