"""Lines that differ in batch and lengths alone: what they have alike is read, and prepared for, once."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

from attnprof.calls.call_files import FIELDS, call_fields, parse_call, parse_object
from attnprof.files.untrusted import INT32_MAX
from attnprof.model import AttentionCall, Gpu

Prepared = TypeVar("Prepared")

_VARIED = ("batch", "seqlen_q", "seqlen_k")
_LENGTH = re.compile(rb'"(batch|seqlen_q|seqlen_k)": ?(0|[1-9][0-9]{0,8})(?=[,}])')
_STAND_INS = (900000001, 900000002, 900000003)  # for the lengths of a line
_EACH_ITS_OWN = ("seqlens_q", "seqlens_k")  # which also say how many queries there are
_ALIKE = tuple(name for name in FIELDS if name not in (*_VARIED, *_EACH_ITS_OWN, "cache_seqlen"))
_NOT_THERE = dict.fromkeys(_ALIKE, ...)  # null is another thing
_values_alike = itemgetter(*_ALIKE)
_MOST = 4096  # kinds of lines, and of calls, that are remembered
_TRIED = 256  # lines unlike all before them, from which on they must be fewer than the others


class _Kind(NamedTuple):
    """Of lines that differ in three numbers: what was prepared, and which number is which."""

    prepared: Any
    batch: int
    seqlen_q: int
    seqlen_k: int


class CallsAlike(Generic[Prepared]):
    """Reads lines of calls. ``prepare`` is asked once for calls that differ in batch and lengths alone.

    It is given one of them, with its GPU and its version as :func:`parse_call` reads them.
    """

    def __init__(
        self, prepare: Callable[[AttentionCall, Gpu, str | None], Prepared], default_gpu: Gpu | None
    ) -> None:
        self.prepare, self.default_gpu = prepare, default_gpu
        self.lines: dict[tuple[bytes, ...], _Kind | None] = {}  # None of what has to be read each time
        self.calls: dict[str, Prepared] = {}
        self.like, self.unlike = 0, 0

    def read(self, line: bytes) -> tuple[Prepared, int, int, int]:
        """(what was prepared for such calls, batch, seqlen_q, seqlen_k) of the call that a line holds.

        Raises UsageError as :func:`parse_object`, :func:`parse_call` and ``prepare`` do.
        """
        if self.unlike > _TRIED + self.like:
            return self._of_object(parse_object(line))
        parts = _LENGTH.split(line)
        numbers = parts[2::3]
        del parts[2::3]
        key = tuple(parts)
        kind = self.lines.get(key)
        if kind is not None:
            self.like += 1
            prepared, batch, seqlen_q, seqlen_k = kind
            return prepared, int(numbers[batch]), int(numbers[seqlen_q]), int(numbers[seqlen_k])
        self.unlike += 1
        read = self._of_object(parse_object(line))
        if key not in self.lines:
            if len(self.lines) >= _MOST:
                self.lines.clear()
            self.lines[key] = self._kind(parts, read[0]) if len(numbers) == 3 else None
        return read

    def _kind(self, parts: list[bytes], prepared: Prepared) -> _Kind | None:
        """The kind of a line that was read, ``parts`` what is around its three numbers; None of no such.

        The line is read with stand-ins in their place, and where the call has these as its lengths, there the
        numbers are: JSON stays JSON when a number in it becomes another.
        """
        first, name_1, text_1, name_2, text_2, name_3, last = parts
        line = b'%b"%b": %d%b"%b": %d%b"%b": %d%b' % (
            first, name_1, _STAND_INS[0], text_1, name_2, _STAND_INS[1], text_2, name_3, _STAND_INS[2], last
        )  # fmt: skip
        fields = call_fields(parse_object(line))
        found = [fields.get(name) for name in _VARIED]
        if sorted(map(repr, found)) != list(map(repr, _STAND_INS)) or any(map(fields.get, _EACH_ITS_OWN)):
            return None
        return _Kind(prepared, *map(_STAND_INS.index, found))

    def _of_object(self, value: dict[str, Any]) -> tuple[Prepared, int, int, int]:
        fields = call_fields(value)
        batch, seqlen_q, seqlen_k = fields.get("batch"), fields.get("seqlen_q"), fields.get("seqlen_k")
        key = None
        if (
            type(batch) is type(seqlen_q) is type(seqlen_k) is int
            and 0 <= batch <= INT32_MAX
            and 0 <= seqlen_q <= INT32_MAX
            and 0 <= seqlen_k <= INT32_MAX
            and "seqlens_q" not in fields
            and "seqlens_k" not in fields
        ):
            key = _key(fields)
            known = None if key is None else self.calls.get(key)
            if known is not None:
                return known, batch, seqlen_q, seqlen_k
        call, gpu, version = parse_call(value, self.default_gpu)
        prepared = self.prepare(call, gpu, version)
        if key is not None:
            if len(self.calls) >= _MOST:
                self.calls.clear()
            self.calls[key] = prepared
        return prepared, call.batch, call.seqlen_q, call.seqlen_k


def _key(fields: dict[str, Any]) -> str | None:
    """All of a call but its lengths, with the type of each value; None of what is nested absurdly deep."""
    alike = (fields.get("cache_seqlen") is None, *_values_alike({**_NOT_THERE, **fields}))
    try:
        return repr(alike)
    except RecursionError:
        return None
