"""Seeded ways to damage a trace."""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.conftest import TESTS
from tests.support.build_trace import TraceBuilder

TRACES = TESTS / "data" / "traces"
SEEDS = (
    "nsys2022.4_nvtx_only_python.sqlite.gz",
    "nsys2025.5_rtx3060_cuda_graph_trace.sqlite.gz",
    "nsys2026.1_rtx3080_tiny_nonvtx.sqlite.gz",
    "torch_h100_bert-small_pytorch_flash.json.gz",
    "torch_mi300x_sglang_qwen3-8b_decode.json.gz",
)
NASTY_TEXT = (
    "", "\0", "a\0b", "'; DROP TABLE NVTX_EVENTS; --", "<script>alert(1)</script>", "\x1b[31m\x1b]0;x\x07",
    "x" * 20_000, "step=99999999999999999999", "layer=-1", "flash_fwd_kernel<", "attnprof", "decode",
    "flash::flash_fwd_kernel<<<<>>>", "_ZN5flash16flash_fwd_kernelI", "../../../etc/passwd", "%s%n", "\ud83d",
)  # fmt: skip
NASTY_NUMBERS = (
    0, -1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63), 10**30, 1e308, float("nan"), None, "x", b"\xff",
)  # fmt: skip
_TABLES = (
    "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS", "StringIds",
    "TARGET_INFO_GPU", "META_DATA_EXPORT", "EXPORT_META_DATA", "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
    "DIAGNOSTIC_EVENT",
)  # fmt: skip

Mutation = Callable[[random.Random, bytes], bytes]


def originals() -> dict[str, bytes]:
    """Name to content of the traces to damage, unpacked; a built one has attention kernels."""
    found = {name.removesuffix(".gz"): gzip.decompress((TRACES / name).read_bytes()) for name in SEEDS}
    return {**found, "built.sqlite": built_trace()}


def built_trace() -> bytes:
    """A decode of two steps with ranges, launches and FlashAttention kernels."""
    import tempfile

    builder = TraceBuilder()
    builder.domain("attnprof", 1)
    shape = "(int)128, (int)128, (int)64, (int)4"
    traits = (
        f"Flash_fwd_kernel_traits<{shape}, (bool)0, (bool)0, cutlass::half_t, Flash_kernel_traits<{shape}, "
    )
    flags = ", ".join(f"(bool){flag}" for flag in (0, 0, 0, 0, 0, 1, 0, 0))
    name = f"void flash::flash_fwd_kernel<{traits}, {flags}>(flash::Flash_fwd_params)"
    for step in range(20):
        start = 1000 * (step + 1)
        builder.call(start + 10, start + 20, step + 1)
        builder.kernel(name, start + 30, start + 90, step + 1, grid=(1, 1, 4), block=(128, 1, 1))
        builder.range("attn", start + 5, start + 100, domainId=1, int64Value=step)
        builder.range("decode", start, start + 200, domainId=1, int64Value=step + 1)
    with tempfile.TemporaryDirectory() as folder:
        path = builder.write(Path(folder) / "built.sqlite")
        return path.read_bytes()


def mutated(rng: random.Random, name: str, content: bytes) -> bytes:
    """One damaged version of a trace; now and then gzipped, or damaged after gzip."""
    kinds = _SQLITE if name.endswith(".sqlite") else _JSON
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(kinds)(rng, content)
    if rng.random() < 0.1:
        content = gzip.compress(content, 1)
        if rng.random() < 0.5:
            content = rng.choice((flip_bytes, truncate))(rng, content)
    return content


def flip_bytes(rng: random.Random, content: bytes) -> bytes:
    """Single bytes changed, mostly near the front where headers are."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 4, 64))):
        if data:
            data[min(int(rng.expovariate(4) * len(data)), len(data) - 1)] = rng.randrange(256)
    return bytes(data)


def truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def zero_block(rng: random.Random, content: bytes) -> bytes:
    """A page or the header overwritten with zeros, as a killed export leaves it."""
    size = rng.choice((16, 100, 4096))
    start = rng.choice((0, rng.randrange(len(content) + 1) // 4096 * 4096))
    return content[:start] + bytes(min(size, max(0, len(content) - start))) + content[start + size :]


def splice(rng: random.Random, content: bytes) -> bytes:
    """A piece of the file repeated elsewhere in it."""
    if len(content) < 2:
        return content
    a, b = sorted(rng.randrange(len(content)) for _ in range(2))
    at = rng.randrange(len(content))
    return content[:at] + content[a : min(b, a + 8192)] + content[at:]


def _in_sqlite(change: Callable[[random.Random, sqlite3.Connection], None]) -> Mutation:
    """A change made through SQL; a file that SQLite no longer opens is flipped instead."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.sqlite"
            path.write_bytes(content)
            db = sqlite3.connect(path)
            try:
                change(rng, db)
                db.commit()
            except (sqlite3.Error, OverflowError, UnicodeError, IndexError):
                with suppress(sqlite3.Error, UnicodeError):
                    db.rollback()
            finally:
                db.close()
            return path.read_bytes() or content

    return mutate


def _tables(db: sqlite3.Connection) -> list[str]:
    here = {row[0] for row in db.execute("select name from sqlite_master where type='table'")}
    return [table for table in _TABLES if table in here]


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]


def _drop_table(rng: random.Random, db: sqlite3.Connection) -> None:
    tables = _tables(db)
    if tables:
        db.execute(f'DROP TABLE "{rng.choice(tables)}"')


def _empty_table(rng: random.Random, db: sqlite3.Connection) -> None:
    tables = _tables(db)
    if tables:
        db.execute(f'DELETE FROM "{rng.choice(tables)}"')


def _rename_column(rng: random.Random, db: sqlite3.Connection) -> None:
    table = rng.choice(_tables(db))
    db.execute(f'ALTER TABLE "{table}" RENAME COLUMN "{rng.choice(_columns(db, table))}" TO "other"')


def _set_value(rng: random.Random, db: sqlite3.Connection) -> None:
    """Nasty values in a column, of one row, some or all."""
    table = rng.choice(_tables(db))
    column = rng.choice(_columns(db, table))
    value: Any = rng.choice(NASTY_NUMBERS) if rng.random() < 0.7 else rng.choice(NASTY_TEXT)
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    where = rng.choice(("", f"WHERE rowid % {rng.randrange(1, 7)} = 0", "WHERE rowid = 1"))
    db.execute(f'UPDATE "{table}" SET "{column}" = ? {where}', (value,))


def _replace_by_view(rng: random.Random, db: sqlite3.Connection) -> None:
    table = rng.choice(_tables(db))
    db.execute(f'ALTER TABLE "{table}" RENAME TO "real_one"')
    db.execute(f'CREATE VIEW "{table}" AS SELECT * FROM "real_one"')


def _reverse_times(rng: random.Random, db: sqlite3.Connection) -> None:
    table = rng.choice([t for t in _tables(db) if "start" in _columns(db, t)])
    db.execute(f'UPDATE "{table}" SET start = end, end = start')


def _deep_ranges(rng: random.Random, db: sqlite3.Connection) -> None:
    """Ten thousand nested or never-closed ranges."""
    columns = set(_columns(db, "NVTX_EVENTS"))
    if not {"start", "end", "eventType", "globalTid", "text"} <= columns:
        return
    close = rng.random() < 0.5
    rows = [(i, 10**9 - i if close else None, 59, 1 << 24 | 7, f"range {i}") for i in range(10_000)]
    db.executemany(
        "INSERT INTO NVTX_EVENTS (start, end, eventType, globalTid, text) VALUES (?, ?, ?, ?, ?)", rows
    )


def _in_json(change: Callable[[random.Random, dict[str, Any]], None]) -> Mutation:
    """A change of the parsed document; one that no longer parses is flipped instead."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        try:
            document = json.loads(content)
            change(rng, document)
            return json.dumps(document).encode("utf-8", "surrogatepass")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return flip_bytes(rng, content)

    return mutate


def _drop_key(rng: random.Random, document: dict[str, Any]) -> None:
    document.pop(rng.choice(list(document)))


def _nasty_field(rng: random.Random, document: dict[str, Any]) -> None:
    for _ in range(rng.choice((1, 50))):
        event = rng.choice(document["traceEvents"])
        place = event["args"] if "args" in event and rng.random() < 0.5 else event
        place[rng.choice(list(place) or ["name"])] = rng.choice(
            (*NASTY_NUMBERS[:-1], *NASTY_TEXT, [], {}, [[]])
        )


def _not_events(rng: random.Random, document: dict[str, Any]) -> None:
    document["traceEvents"] = rng.choice((None, 3, "x", {}, [[]], [None], [1, 2], [{}]))


def _nested(rng: random.Random, document: dict[str, Any]) -> None:
    value: Any = []
    for _ in range(rng.choice((50, 500))):
        value = [value]
    document["traceEvents"][0] = value


_ANY: tuple[Mutation, ...] = (flip_bytes, truncate, zero_block, splice)
_SQLITE: tuple[Mutation, ...] = (
    *_ANY,
    *map(
        _in_sqlite,
        (
            _drop_table, _empty_table, _rename_column, _set_value, _set_value, _set_value, _replace_by_view,
            _reverse_times, _deep_ranges,
        ),
    ),
)  # fmt: skip
_JSON: tuple[Mutation, ...] = (
    *_ANY,
    *map(_in_json, (_drop_key, _nasty_field, _nasty_field, _not_events, _nested)),
)
