"""The NVTX ranges of an nsys export, with the domains they are in."""

from __future__ import annotations

import numpy as np

from attnprof.arrays import Narrow, taken
from attnprof.safety.printable import printable
from attnprof.trace.nsys_devices import assign, pid_of
from attnprof.trace.nsys_tables import DOMAIN, NVTX, PUSH_POP, START_END
from attnprof.trace.nsys_texts import Texts, as_text
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.tables import Int32, Ranges, rows_in_order

_OPEN = -1  # end of a range that was never closed
_NULL = -(1 << 63)
_PAYLOADS = ("int64Value", "uint64Value", "int32Value", "uint32Value")
# a column and what stands for NULL or for its absence; None makes it required
RANGE_COLUMNS = {
    "start": None,
    "end": _OPEN,
    "eventType": None,
    "globalTid": 0,
    "textId": -1,
    "domainId": 0,
    **dict.fromkeys(_PAYLOADS, _NULL),
}


def read_ranges(db: Database, texts: Texts) -> tuple[Ranges, tuple[str, ...], bool]:
    """The ranges, the names of their domains, and whether domains exist whose ranges never arrived."""
    events = db.integers(NVTX, RANGE_COLUMNS)
    events |= {time: events[time].astype(np.int64, copy=False) for time in ("start", "end")}
    kind = events.pop("eventType")
    kept = np.flatnonzero((kind == PUSH_POP) | (kind == START_END))
    c = {column: taken(values, kept) for column, values in events.items()}
    name = texts.index(c["textId"])
    if "text" in db.columns(NVTX):
        inline = f"SELECT text FROM {NVTX} NOT INDEXED WHERE eventType IN ({PUSH_POP}, {START_END})"
        if db.rows(NVTX, f"{inline} AND text IS NOT NULL LIMIT 1").fetchone():
            own = texts.add(text for (text,) in db.rows(NVTX, f"{inline} ORDER BY rowid"))
            name = np.where(own >= 0, own, name)
    pid = pid_of(c["globalTid"])
    domain, names, created = _domains(db, texts, pid, c["domainId"])
    end, payload = c["end"], np.broadcast_to(np.int64(_NULL), (len(kept),))
    if len(kept) and end.min() == _OPEN:
        end = np.where(end == _OPEN, max(int(end.max()), int(c["start"].max())), end)
    for column in _PAYLOADS:
        if not np.all(c[column] == _NULL):
            payload = np.where(payload == _NULL, c[column], payload)
    has_payload = payload != _NULL
    payload = (
        np.where(has_payload, payload, 0) if has_payload.any() else np.broadcast_to(np.int64(0), kept.shape)
    )
    ranges = Ranges(
        start=c["start"],
        end=end,
        name=name,
        domain=domain,
        thread=c["globalTid"].astype(np.int64, copy=False),
        pid=pid,
        payload=payload,
        has_payload=has_payload,
        nested=kind[kept] == PUSH_POP,
    )
    return rows_in_order(ranges), names, created and not len(kept)


def _domains(db: Database, texts: Texts, pid: Int32, number: Narrow) -> tuple[Int32, tuple[str, ...], bool]:
    """Text index of each range's domain, the domains' names, and whether any was created.

    A domain number belongs to its process; 0 is the default domain, which has no name.
    """
    domain = np.zeros(len(pid), np.int32)
    if not {"text", "globalTid", "domainId"} <= db.columns(NVTX).keys():
        return domain, (), False
    select = f"SELECT globalTid, domainId, text FROM {NVTX} WHERE eventType = {DOMAIN}"
    created = db.rows(NVTX, select).fetchall()
    names = [as_text(text) for *_, text in created]
    index = texts.add(names).tolist()
    named = {
        ((thread or 0) >> 24 & 0xFFFFFF, one): at
        for (thread, one, _), at in zip(created, index, strict=True)
        if isinstance(thread or 0, int) and isinstance(one, int)
    }
    assign(domain, pid, number, named)
    return domain, tuple(dict.fromkeys(printable(name) for name in names if name)), bool(created)
