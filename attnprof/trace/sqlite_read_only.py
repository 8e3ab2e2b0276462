"""Opening an SQLite file that anybody may have written."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

_FUNCTIONS = frozenset(  # cheap, and of use to a reader
    {"abs", "coalesce", "count", "ifnull", "instr", "length", "like", "max", "min", "nullif", "sum", "typeof"}
)
_PRAGMAS = frozenset({"table_info", "table_xinfo"})
_LONGEST = 1 << 28  # bytes of one text or one row; an nsys export's longest is a few hundred kilobytes


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that reads ``path`` and nothing else: neither the file nor its folder can change.

    What else is asked of it is refused with sqlite3.DatabaseError: writing, attaching, loading an extension,
    calling a function that is not on the list.
    """
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON", "mmap_size = 0"):
        db.execute(f"PRAGMA {pragma}")
    if sys.version_info >= (3, 11):
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    if sys.version_info >= (3, 12):
        db.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
    db.set_authorizer(_may)
    return db


def _may(action: int, name: str | None, second: str | None, *_: object) -> int:
    """Reading, and nothing else."""
    if action == sqlite3.SQLITE_FUNCTION:
        allowed = second in _FUNCTIONS
    elif action == sqlite3.SQLITE_PRAGMA:
        allowed = name in _PRAGMAS
    else:
        allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
