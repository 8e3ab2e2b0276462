"""Columns read from the pages of a database file equal what sqlite3 gives for them."""

from __future__ import annotations

import sqlite3
import tracemalloc
from contextlib import closing, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.errors import TraceError
from attnprof.trace import sqlite_pages, sqlite_records
from attnprof.trace.nsys_sqlite import read_nsys_sqlite
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.sqlite_pages import is_tree

WANTED = {"a": -1, "b": 0, "c": None, "absent": 4}


@pytest.fixture
def from_pages(monkeypatch):
    """Whether each table read so far came from its pages; the list fills as tables are read."""
    came = []
    original = Database._from_pages

    def watched(self, *arguments):
        found = original(self, *arguments)
        came.append(found is not None)
        return found

    monkeypatch.setattr(Database, "_from_pages", watched)
    return came


def written(
    path, rows, columns="a INTEGER, note TEXT, b INTEGER, c INTEGER, d REAL", page_size=4096, after=""
):
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA page_size = {page_size}")
        db.execute(f"CREATE TABLE t ({columns})")
        for row in rows:
            db.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(row))})", row)
        db.executescript(after)
        db.commit()
    return path


def check(path, wanted=WANTED):
    """The columns, after comparing them with what sqlite3 itself reads."""
    with closing(Database(path)) as db:
        found = db.integers("t", wanted)
        here = {c: null for c, null in wanted.items() if c in db.columns("t")}
        for column, values in db._from_rows("t", here).items():
            assert found[column].tolist() == values.tolist()
    return found


sizes = st.sampled_from([0, 1, 7, 8, 15, 16, 23, 24, 31, 32, 47, 48, 62, 63])
numbers = st.one_of(st.none(), st.builds(lambda bits, near, sign: sign * ((1 << bits) + near), sizes,
                                          st.integers(-2, 1), st.sampled_from([-1, 1])))  # fmt: skip
numbers = numbers.filter(lambda n: n is None or -(1 << 63) <= n < 1 << 63)
notes = st.one_of(st.none(), st.text(max_size=5), st.integers(50, 700).map(lambda n: "x" * n))
records = st.tuples(
    numbers, notes, numbers, st.integers(-5, 300), st.one_of(st.none(), st.floats(allow_nan=False))
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(records, max_size=25),
    repeats=st.integers(1, 60),
    page_size=st.sampled_from([512, 1024, 4096, 65536]),
    reserved=st.booleans(),
)
def test_columns_come_out_as_they_went_in(tmp_path_factory, rows, repeats, page_size, reserved):
    path = tmp_path_factory.getbasetemp() / "columns.sqlite"
    rows = [row for row in rows for _ in range(repeats)]
    after = "DELETE FROM t WHERE rowid % 3 = 0;" if reserved else ""
    written(path, rows, page_size=page_size, after=after)
    found = check(path)
    kept = [row for i, row in enumerate(rows, 1) if not (reserved and i % 3 == 0)]
    assert found["a"].tolist() == [-1 if row[0] is None else row[0] for row in kept]
    assert found["b"].tolist() == [0 if row[2] is None else row[2] for row in kept]
    assert found["c"].tolist() == [row[3] for row in kept]
    assert found["absent"].tolist() == [4] * len(kept)


@pytest.fixture
def walked(monkeypatch):
    """How many records were walked field by field; the list fills as tables are read."""
    records = []
    original = sqlite_records._by_walking

    def watched(raw, cell, *rest):
        records.append(len(cell))
        return original(raw, cell, *rest)

    monkeypatch.setattr(sqlite_records, "_by_walking", watched)
    return records


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(numbers, st.sampled_from([None, "", "note"]), numbers, st.integers(-5, 300), st.none()),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_records_of_few_headers_are_as_sqlite_reads_them(tmp_path_factory, kinds, random):
    rows = [random.choice(kinds) for _ in range(127)]  # whose rowids take one byte
    check(written(tmp_path_factory.getbasetemp() / "headers.sqlite", rows, page_size=65536))


@pytest.mark.parametrize(("headers", "by_walking"), [(1, False), (24, False), (25, True)])
def test_records_of_few_headers_alone_are_read_by_stride(tmp_path, from_pages, walked, headers, by_walking):
    rows = [(1 << 40, "x" * (n % headers), n, -(1 << 50), None) for n in range(2, 127)]
    found = check(written(tmp_path / "t.sqlite", rows, page_size=65536))
    assert found["b"].tolist() == [*range(2, 127)]
    assert (from_pages, walked) == ([True], [125] if by_walking else [])


@pytest.mark.parametrize("block", [1, 4096, 1 << 22])
def test_a_deep_tree_is_read_in_order_whatever_the_block(tmp_path, monkeypatch, from_pages, block):
    monkeypatch.setattr(sqlite_pages, "_BLOCK", block)
    rows = [(i * i, "x" * (i % 90), -i, 5, None) for i in range(6000)]
    found = check(written(tmp_path / "t.sqlite", rows, page_size=512))
    assert found["a"].tolist() == [i * i for i in range(6000)]
    assert from_pages == [True]


def test_a_constant_column_takes_no_memory_and_small_numbers_little(tmp_path, from_pages):
    found = check(written(tmp_path / "t.sqlite", [(1 << 40, None, i, 7, None) for i in range(5000)]))
    assert found["a"].strides == found["c"].strides == (0,)
    assert found["b"].strides == (2,)
    assert from_pages == [True]


def test_rowids_of_every_length_are_passed_over(tmp_path, from_pages):
    ids = [1, 127, 128, 1 << 14, 1 << 21, 1 << 28, 1 << 35, 1 << 48]
    after = "".join(f"INSERT INTO t (rowid, a, c) VALUES ({i}, {i}, 0);" for i in ids)
    assert check(written(tmp_path / "t.sqlite", [], after=after))["a"].tolist() == ids
    assert from_pages == [True]


@pytest.mark.parametrize(
    ("columns", "row", "after"),
    [
        ("a INTEGER, note TEXT, b INTEGER, c INTEGER", (1, "x" * 9000, 2, 3), ""),
        ("a INTEGER, c INTEGER", (1, 3), "ALTER TABLE t ADD COLUMN b INTEGER DEFAULT 9;"),
        ("a INTEGER PRIMARY KEY, c INTEGER", (1, 3), ""),
        ("a INTEGER, c INTEGER, b INTEGER AS (a + c)", None, "INSERT INTO t VALUES (1, 3);"),
        ("c INTEGER", (3,), "INSERT INTO t (rowid, c) VALUES (-5, 4);"),
    ],
    ids=["overflow", "column added later", "rowid alias", "generated", "negative rowid"],
)
def test_what_is_unusual_is_left_to_sqlite(tmp_path, from_pages, columns, row, after):
    check(written(tmp_path / "t.sqlite", [row] if row else [], columns, after=after))
    assert from_pages == [False]


@pytest.mark.parametrize("value", ["soon", 1.5, b"1", None])
def test_a_value_that_is_no_integer_is_an_error(tmp_path, value):
    path = written(tmp_path / "t.sqlite", [(1, "", 2, 3, 0.0), (1, "", 2, value, 0.0)])
    with closing(Database(path)) as db, pytest.raises(TraceError, match="not an integer"):
        db.integers("t", WANTED)


def test_a_required_column_that_is_missing_is_named_and_a_missing_table_is_empty(tmp_path):
    with closing(Database(written(tmp_path / "t.sqlite", []))) as db:
        assert db.integers("nothing", WANTED)["c"].tolist() == []
        assert db.integers("t", WANTED)["c"].tolist() == []
        with pytest.raises(TraceError, match="table t has no column z"):
            db.integers("t", {"z": None})


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=40),
    st.sampled_from([1, 70]),
)
def test_damaged_pages_end_in_a_value_or_an_sqlite_error_never_in_another(tmp_path_factory, damage, notes):
    path = tmp_path_factory.getbasetemp() / "damaged.sqlite"
    written(path, [(i, "x" * (i % notes), i, i, 0.5) for i in range(900)], page_size=1024)
    raw = bytearray(path.read_bytes())
    for at, byte in damage:
        raw[2048 + at % (len(raw) - 2048)] = byte
    path.write_bytes(raw)
    with closing(Database(path)) as db, suppress(sqlite3.DatabaseError, TraceError):
        assert all(isinstance(values, np.ndarray) for values in db.integers("t", WANTED).values())


def test_few_pages_that_stand_for_billions_of_rows_are_told_without_following_them(tmp_path):
    size = 1024
    path = written(tmp_path / "t.sqlite", [(1, "", 2, 3, 0.0)], page_size=size)
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 't'").fetchone()
    raw = bytearray(path.read_bytes())
    first = len(raw) // size + 1
    leaf = raw[(root - 1) * size : root * size]
    cells = 160
    for child in (first + 1, first + 2, first + 3, first + 4):  # each points to the next, 161 times
        pointers = b"".join((size - 5).to_bytes(2, "big") for _ in range(cells))
        page = b"\x05" + bytes(2) + cells.to_bytes(2, "big") + bytes(3) + child.to_bytes(4, "big") + pointers
        raw += page.ljust(size - 5, b"\0") + child.to_bytes(4, "big") + b"\1"
    raw += leaf + bytes(500 * size)  # so many pages that they could be a tree of this depth
    raw[(root - 1) * size : root * size] = raw[(first - 1) * size : first * size]
    raw[28:32] = (len(raw) // size).to_bytes(4, "big")
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        assert not is_tree(path, root)
        with (
            closing(Database(path)) as db,
            pytest.raises(sqlite3.DatabaseError, match="pages of t are damaged"),
        ):
            db.integers("t", WANTED)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_keys_that_are_not_in_order_are_damage(tmp_path):
    path = tmp_path / "t.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT)")
        db.execute("CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER)")
        db.executemany("INSERT INTO StringIds VALUES (?, ?)", [(100, "aaaa"), (101, "bbbb")])
        db.commit()
    raw = path.read_bytes()
    assert raw.count(b"\x65\x03\x00\x15bbbb") == 1
    path.write_bytes(raw.replace(b"\x65\x03\x00\x15bbbb", b"\x05\x03\x00\x15bbbb"))
    with pytest.raises(TraceError, match="keys of StringIds are damaged"):
        read_nsys_sqlite(path)
