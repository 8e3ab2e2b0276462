"""What a capture says of the trace it has just made: ranges that are missing in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnprof.capture.trace_facts import about_trace
from tests.support.build_trace import TraceBuilder

OPEN_OR_LOST = (
    "the program did not come to its end, and {} of 3 recorded attention calls have a range: the others were"
    " still open, or nsys lost them"
)
LOST = "nsys lost the ranges of a program that did not come to its end"

KEPT_NONE = "no NVTX range arrived: nsys 2022.4 knows the domain attnprof, and kept none of its ranges"


@pytest.mark.parametrize(
    ("ranges", "status", "whole", "pid", "said"),
    [
        (3, "complete", True, 7, []),
        (3, "interrupted", False, 7, []),
        (4, "interrupted", False, 7, []),  # the journal of a killed program lacks its last calls
        (2, "complete", True, 7, ["3 attention calls were recorded but 2 ranges arrived: some were lost"]),
        (4, "complete", True, 7, ["3 attention calls were recorded but 4 ranges arrived: some were lost"]),
        (2, "complete", False, 7, [OPEN_OR_LOST.format(2)]),
        (1, "interrupted", True, 7, [OPEN_OR_LOST.format(1)]),
        (0, "interrupted", False, None, [LOST]),
        (0, "complete", True, 7, [KEPT_NONE]),
    ],
)  # fmt: skip
def test_ranges_that_did_not_arrive_are_counted(
    tmp_path: Path, ranges: int, status: str, whole: bool, pid: int | None, said: list[str]
) -> None:
    builder = TraceBuilder()
    builder.domain("attnprof", 1)
    for number in range(ranges):
        builder.range("attn", 100 * number, 100 * number + 50, domainId=1)
    builder.range("attn", 1000, 1050)  # somebody else's range of that name
    workload = {"num_calls": 3, "status": status, "device": "cpu"} | ({"pid": pid} if pid else {})
    assert about_trace(builder.write(tmp_path / "t.sqlite"), workload, "2022.4", whole=whole) == said
