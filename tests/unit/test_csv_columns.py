"""CSV by columns is CSV by rows, whatever the cells hold."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from attnprof.report.csv_columns import write_csv_columns
from attnprof.report.tables import Column, Table, to_csv

TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from([
        "", "=1+1", "-x", "'", '"', "a,b", "a\nb", "\r", "\x1b[2J", "\u202e", "hf_" + "a1B2" * 9, "/root/x",
        "password=hunter22", "＝",
    ]),
)  # fmt: skip
VALUES = st.one_of(st.none(), st.integers(), st.floats(), st.booleans(), TEXTS)


@given(st.lists(st.tuples(st.integers(), VALUES, TEXTS, st.integers(0, 99)), max_size=12), st.integers(1, 5))
def test_columns_are_written_as_rows_are(rows, size):
    rows = [(*row[:3], f":{row[3]}:7") for row in rows]
    titles = ["number", "=any", "text", "ours"]
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    blocks = ([[*column] for column in zip(*part, strict=True)] for part in parts)
    out = io.StringIO()
    write_csv_columns(titles, [False, False, False, True], blocks, out)
    assert out.getvalue() == to_csv(Table("t", [Column(title) for title in titles], rows))
