"""Events of a torch profiler trace, thousands at a time and typed: what is never read is never decoded.

msgspec checks all of the JSON and makes no object of what no field asks for. Whatever is unusual (a value of
another type, NaN, half a surrogate, control characters) is left to :meth:`Rows.add`, event by event, whose
rows these are: the block is then not taken.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Raw, Struct, UnsetType, field

from attnprof.trace.graph_annotations import graph_node
from attnprof.trace.tables import Int64
from attnprof.trace.torch_rows import (
    CALL,
    COPY,
    INT32,
    KERNEL,
    KINDS,
    MODULE,
    OP,
    RANGE,
    WIDTHS,
    Rows,
    correlation,
    is_region,
    nanoseconds,
    number,
    three,
)

_MOST_KNOWN = 1 << 16  # names remembered
_LARGEST = 1 << 62  # ns: a start and a duration below it have a sum
_GRID = 7  # where a kernel's row has its grid
_NOT_READ = 255  # the kind of events that are left
_NONE = Raw(b"null")
_DIGITS, _SPACE, _NINE = b"0123456789", ord(" "), ord("9")
_MOST_DIGITS = 19  # of nanoseconds in 64 bits, where the first is no 9
_TENS = 10 ** np.arange(4)


class _Arguments(Struct, gc=False):
    device: int | str | UnsetType = UNSET
    stream: int | str | UnsetType = UNSET
    correlation: int | str | None = None
    node: int | str | None = field(default=None, name="graph node id")
    graph: int | str | None = field(default=None, name="graph id")
    grid: Raw = _NONE
    block: Raw = _NONE
    annotated: Raw = field(default=_NONE, name="annotation")
    named: Raw = field(default=_NONE, name="name")
    named_in_2_12: Raw = field(default=_NONE, name="str")
    layer: Raw = _NONE
    phase: Raw = _NONE


class _Event(Struct, gc=False):
    ph: str = ""
    cat: str = ""
    name: str = ""
    ts: Raw = _NONE
    dur: Raw = Raw(b"0")
    pid: int | str = "None"
    tid: int | str = "None"
    args: _Arguments | None = None


_NO_ARGUMENTS = _Arguments()


class _Found(NamedTuple):
    """Events of one kind: their places in the block, themselves, what a row holds of each one's name."""

    at: list[int]
    events: list[_Event]
    names: list[Any]


_EVENTS = msgspec.json.Decoder(list[_Event])
_TEXTS = msgspec.json.Decoder(list[Raw])
_JSON = json.JSONDecoder(parse_float=str, strict=False)  # as the stream decodes one event


class _UnusualError(Exception):
    """Something that is read event by event."""


def _is_annotated(arguments: _Arguments) -> bool:
    """Whether they may name a node: see :mod:`attnprof.trace.graph_annotations`."""
    a = arguments
    return any(text is not _NONE for text in (a.annotated, a.named, a.named_in_2_12, a.layer, a.phase))


class _Kinds(dict[str, int]):
    """The kind of events of a category."""

    def __missing__(self, category: str) -> int:
        kind = self[category] = KINDS.get(category.lower(), _NOT_READ)
        return kind


class Blocks:
    """Adds blocks of events to ``rows``."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._kinds = _Kinds()
        self._shapes: dict[bytes, tuple[int, int, int]] = {}  # by a grid's or block's JSON
        self._named: list[dict[str, tuple[int, ...] | None]] = [{} for _ in WIDTHS]  # of each kind, by name

    def take(self, text: str) -> bool:
        """Adds the events of a JSON list, in order; False, and nothing is added, where one is unusual."""
        caches: list[dict[Any, Any]] = [self._kinds, self._shapes, *self._named]
        for known in caches:
            if len(known) > _MOST_KNOWN:
                known.clear()
        texts = len(self._rows.texts)
        try:
            found = self._found(_EVENTS.decode(text))
            tables = self._tables(found)
            at = found[OP].at if OP in found else []
            whole = _TEXTS.decode(text) if at else []
            operators = [_decoded(bytes(whole[place])) for place in at]
        except (_UnusualError, msgspec.MsgspecError, RecursionError, ArithmeticError, ValueError):
            while len(self._rows.texts) > texts:
                self._rows.texts.popitem()
            for known in self._named:
                known.clear()
            return False
        for kind, table in tables.items():
            self._rows.rows[kind].frombytes(table.data.cast("B"))
        if KERNEL in tables:
            self._rows.shapeless += int(np.count_nonzero(tables[KERNEL][:, _GRID] == 0))
        for event in operators:
            self._rows.add(event)
        return True

    def _found(self, events: list[_Event]) -> dict[int, _Found]:
        """What is read of the events, by kind."""
        kinds = self._kinds
        codes = bytes([kinds[event.cat] if event.ph == "X" else _NOT_READ for event in events])
        code = np.frombuffer(codes, np.uint8)
        places = {kind: (code == kind).nonzero()[0].tolist() for kind in {*codes} - {_NOT_READ}}
        try:
            return _with_regions({kind: self._of_kind(kind, at, events) for kind, at in places.items()})
        except KeyError:  # names are numbered in order, whatever their kind
            for kind, event in zip(codes, events, strict=True):
                if kind != _NOT_READ and event.name not in (known := self._named[kind]):
                    known[event.name] = self._rows.named(kind, event.name)
        return _with_regions({kind: self._of_kind(kind, at, events) for kind, at in places.items()})

    def _of_kind(self, kind: int, at: list[int], events: list[_Event]) -> _Found:
        """Those of one kind, by their places. Raises KeyError where a name is new."""
        named = self._named[kind]
        some = [events[place] for place in at]
        names = [named[event.name] for event in some]
        if kind in (OP, MODULE) and None in names:
            kept = [number for number, name in enumerate(names) if name is not None]
            at, some, names = [at[k] for k in kept], [some[k] for k in kept], [names[k] for k in kept]
        return _Found(at, some, names)

    def _tables(self, found: dict[int, _Found]) -> dict[int, Int64]:
        """The rows of each kind but the operators, as ``Rows`` has them."""
        given = [(kind, one) for kind, one in found.items() if one.at and kind != OP]
        events = [event for _, one in given for event in one.events]
        if not events:
            return {}
        times = _times([e.ts for e in events] + [e.dur for e in events])
        if int(times.max()) > _LARGEST:
            raise OverflowError
        ids = _numbers([e.pid for e in events] + [e.tid for e in events])
        tables, first = {}, 0
        for kind, one in given:
            rows, others = (slice(first + more, first + more + len(one.at)) for more in (0, len(events)))
            table = np.empty((len(one.at), WIDTHS[kind]), np.int64)
            table[:, 0] = times[rows]
            table[:, 1] = times[rows] + times[others]
            for at, column in enumerate(self._columns(kind, one, ids[rows], ids[others]), 2):
                table[:, at] = column
            tables[kind], first = table, rows.stop
        return tables

    def _columns(self, kind: int, found: _Found, pid: Int64, tid: Int64) -> list[Int64]:
        """What a row holds beside its times."""
        named = _columns(found.names) if kind != COPY else ()
        thread = (pid & INT32) << 32 | tid & 0xFFFFFFFF
        if kind == RANGE:
            return [*named[:2], pid, thread, *named[2:]]
        if kind == MODULE:
            return [*named, pid, thread]
        arguments = [event.args or _NO_ARGUMENTS for event in found.events]
        launch = _numbers([a.correlation for a in arguments], correlation)
        if kind == CALL:
            return [*named, pid, thread, launch]
        device = _where_given([a.device for a in arguments], pid)
        stream = _where_given([a.stream for a in arguments], tid)
        if kind == COPY:
            return [device, stream, launch]
        nodes = [(a.node, a.graph) for a in arguments]
        known = {pair: graph_node({"graph node id": pair[0], "graph id": pair[1]}) for pair in {*nodes}}
        node = _numbers([known[pair] for pair in nodes])
        if node.any() and any(map(_is_annotated, arguments)):
            raise _UnusualError
        texts = [bytes(a.grid) for a in arguments], [bytes(a.block) for a in arguments]
        for text in {*texts[0], *texts[1]} - self._shapes.keys():
            self._shapes[text] = three(_decoded(text))
        shapes: list[Any] = [self._shapes[text] for text in chain(*texts)]
        sides = _columns(shapes).reshape(3, 2, -1)
        return [device, stream, launch, *named, node, *sides[:, 0], *sides[:, 1]]


def _with_regions(found: dict[int, _Found]) -> dict[int, _Found]:
    """Operators that are runs of compiled graphs are ranges, in the order of the block."""
    operators = found.get(OP)
    regions = [is_region(name) for name in operators.names] if operators else []
    if operators is None or not any(regions):
        return found
    ranges = found.get(RANGE, _Found([], [], []))
    moved = [row for row, region in zip(zip(*operators, strict=True), regions, strict=True) if region]
    kept = [row for row, region in zip(zip(*operators, strict=True), regions, strict=True) if not region]
    merged = sorted([*zip(*ranges, strict=True), *moved], key=itemgetter(0))
    apart = {RANGE: merged, OP: kept}
    return found | {
        kind: _Found(*(list(column) for column in zip(*rows, strict=True))) if rows else _Found([], [], [])
        for kind, rows in apart.items()
    }


def _columns(rows: list[tuple[int, ...]]) -> Int64:
    """The columns of rows of numbers."""
    columns: Int64 = _numbers([*chain.from_iterable(rows)]).reshape(len(rows), -1).T
    return columns


def _numbers(values: list[Any], rule: Callable[[object], int] = number) -> Int64:
    """What the rule makes of values that mostly are integers already. Raises OverflowError."""
    try:
        flat = array("q", values)
    except TypeError:
        flat = array("q", map(rule, values))
    return np.frombuffer(flat, np.int64) if flat else np.empty(0, np.int64)


def _where_given(values: list[Any], otherwise: Int64) -> Int64:
    if UNSET not in values:
        return _numbers(values)
    return _numbers([o if v is UNSET else v for v, o in zip(values, otherwise.tolist(), strict=True)])


def _times(texts: list[Raw]) -> Int64:
    """Microseconds as the file spells them, as :func:`nanoseconds` reads them."""
    joined = b" ".join(texts) + b" "
    if joined.translate(None, _DIGITS + b". "):
        odd = [at for at, text in enumerate(texts) if bytes(text).translate(None, _DIGITS + b".")]
    else:  # whole numbers and fractions, with a space behind each
        signs = np.frombuffer(joined, np.uint8)
        marks = np.flatnonzero(signs < _DIGITS[0])
        dots = signs[marks] != _SPACE
        spaces = np.flatnonzero(~dots)
        ends = marks[spaces]
        dotted = dots[spaces - 1]  # the first has a space before it: the last mark
        part = np.where(dotted, ends - marks[spaces - 1] - 1, 0)
        starts = np.append(0, ends[:-1] + 1)
        wide = ends - starts - dotted + 3 - part
        strange = (part > 3) | (wide > _MOST_DIGITS) | ((wide == _MOST_DIGITS) & (signs[starts] == _NINE))
        odd = np.flatnonzero(strange).tolist()
    if odd:
        plain = list(texts)
        exact = [nanoseconds(_decoded(bytes(texts[at]))) for at in odd]
        for at in odd:
            plain[at] = Raw(b"0")
        found = _times(plain)
        found[odd] = exact
        return found
    values = np.fromstring(joined.replace(b".", b"").decode(), np.int64, sep=" ")
    scaled: Int64 = values * _TENS[3 - part]
    return scaled


def _decoded(text: bytes) -> Any:
    return _JSON.decode(text.decode())
