"""A trace's JSON, one event at a time: a profile of a few seconds is gigabytes as one Python object."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

_CHUNK = 1 << 17  # bytes: what is made of so many stays in the cache
_LONGEST = 1 << 26  # characters of one event or one value beside the events
_SPACE = re.compile(r"[ \t\r\n\ufeff]*")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*(?=[^ \t\r\n])")
_NOTHING_LEFT = (b"", 0)
_CUT = 16  # an error this near the end of the buffer may be only the end of the buffer


_END = re.compile(r"\},[ \t\r\n]{0,64}\{")  # between two objects
_ENDS_TRIED = 4


class Text(Protocol):
    """What text is read from; "" at its end."""

    def read(self, size: int, /) -> str: ...


class Utf8:
    """A binary file as text, as ``open`` would give it; a few times faster where it is all ASCII."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder("utf-8")("replace"), translate=True
        )
        self._plain = True  # nothing of what was read before is left in the decoder

    def read(self, size: int, /) -> str:
        while True:
            raw = self._file.read(size)
            if self._plain and raw.isascii() and b"\r" not in raw:
                return raw.decode("ascii")
            text = self._decoder.decode(raw, final=not raw)
            self._plain = self._decoder.getstate() == _NOTHING_LEFT
            if text or not raw:
                return text


class JsonStream:
    """Pulls the events out of ``{"traceEvents": [...], ...}`` or a bare list; fractions stay as text.

    ``head`` collects the other top-level values and is whole once ``events`` is exhausted.
    Raises json.JSONDecodeError, with the position in the whole text.
    """

    def __init__(self, file: Text) -> None:
        self._file = file
        self._take_block: Callable[[str], bool] | None = None
        self._refused_to = 0  # in the whole text: the end of what was offered last, and not taken
        self._text = ""
        self._at = 0
        self._read_before = 0
        self._ended = False
        self._decoder = json.JSONDecoder(parse_float=str, strict=False)
        self.head: dict[str, Any] = {}
        self.has_events = False

    def events(self, take_block: Callable[[str], bool] | None = None) -> Iterator[Any]:
        """Each element of the event list but those that ``take_block`` takes, a JSON list of many of them."""
        self._take_block = take_block
        if self._take("["):
            self.has_events = True
            yield from self._items()
        elif self._take("{"):
            closed = self._take("}")
            while not closed:
                key = self._value()
                self._expect(":")
                if key == "traceEvents" and self._take("["):
                    self.has_events = True
                    yield from self._items()
                else:
                    self.head[str(key)] = self._value()
                closed = self._take("}")
                if not closed:
                    self._expect(",")
        else:
            self._expect("{")
        if self._peek():
            raise self._error("Extra data")

    def _items(self) -> Iterator[Any]:
        closed = self._take("]")
        while not closed:
            if not (self._take_block and self._offered(self._take_block)):
                yield self._decoded()
            following = _COMMA.match(self._text, self._at)
            if following:  # the common case, a few times faster than sign by sign
                self._at = following.end()
                continue
            closed = self._take("]")
            if not closed:
                self._expect(",")
                self._peek()

    def _offered(self, take_block: Callable[[str], bool]) -> bool:
        """Whether all elements up to some end in what is read of the text were taken, as one block.

        Where it ends is a guess. A wrong one, inside an element, leaves no JSON, and what is JSON is whole.
        """
        if self._read_before + self._at < self._refused_to:
            return False
        if len(self._text) - self._at < _CHUNK // 2:
            self._fill()
        end = self._last_end()
        self._refused_to = self._read_before + (end or len(self._text))
        if not end or not take_block(f"[{self._text[self._at : end]}]"):
            return False
        self._at = end
        return True

    def _last_end(self) -> int:
        """Where what is read has the end of an element with another behind it; 0 where none is found."""
        end = len(self._text)
        for _ in range(_ENDS_TRIED):
            end = self._text.rfind("},", self._at, end)
            if end < 0:
                break
            if _END.match(self._text, end):
                return end + 1
        return 0

    def _value(self) -> Any:
        self._peek()
        return self._decoded()

    def _decoded(self) -> Any:
        try:
            value, end = self._decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _CUT
            if cut and self._fill():
                return self._decoded()
            raise self._error(error.msg, error.pos) from None
        except ValueError as error:  # a number of more digits than Python takes
            raise self._error(str(error)) from None
        if end == len(self._text) and self._fill():  # a number may go on in the next chunk
            return self._decoded()
        self._at = end
        return value

    def _peek(self) -> str:
        """The next character that is not space; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._fill():
                return self._text[self._at : self._at + 1]

    def _take(self, sign: str) -> bool:
        found = self._peek() == sign
        self._at += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._error(f"Expecting '{sign}'")

    def _fill(self) -> bool:
        """Forget what was read and read on, at least as much as is left; False at the end."""
        left = self._text[self._at :]
        if len(left) > _LONGEST:
            raise self._error(f"a value of more than {_LONGEST:,} characters")
        more = "" if self._ended else self._file.read(max(_CHUNK, len(left)))
        self._ended = not more
        if more:
            self._read_before += self._at
            self._text, self._at = left + more, 0
        return bool(more)

    def _error(self, message: str, at: int | None = None) -> json.JSONDecodeError:
        error = json.JSONDecodeError(message, "", 0)
        error.pos = self._read_before + (self._at if at is None else at)
        return error
