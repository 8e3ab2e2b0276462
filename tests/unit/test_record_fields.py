"""Lines of calls.jsonl that no recorder wrote are refused before anything is computed from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attnprof.calls.record_fields import require_record
from attnprof.calls.records import read_records
from attnprof.errors import RunError
from tests.support.generated_run import decode_call, record_of

FWD = record_of(0, 1, 0, decode_call(300))
SDPA = {**FWD, "library": "torch", "entry": "sdpa", "mask": None}
VARLEN = {
    **FWD,
    "entry": "varlen_fwd",
    "q": [10, 28, 128],
    "k": [500, 4, 128],
    "v": [500, 4, 128],
    "batch": 3,
}
KVCACHE = {
    **FWD,
    "entry": "fwd_kvcache",
    "has_cache_seqlens": True,
    "cache_batch_idx": False,
    "block_table": [1, 9],
}


@pytest.mark.parametrize(
    "fields",
    [
        FWD,
        SDPA,
        {**SDPA, "q": None},
        {**SDPA, "q": [2, 28, -1, 128]},  # a ragged length
        {**SDPA, "q": [1, 128]},
        VARLEN,
        {**VARLEN, "max_seqlen_q": None, "k": [7, 256, 4, 128], "block_table": [3, 2]},
        KVCACHE,
        {**KVCACHE, "q": [3, 28, 128], "k_new": [1, 1, 4, 128]},
        {**FWD, "step": None, "layer": None, "phase": "other", "unknown": object()},
    ],
)
def test_what_the_recorders_write_is_taken(fields: dict[str, Any]) -> None:
    require_record(fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "entry None is none of sdpa, fwd"),
        ({**FWD, "entry": "bwd"}, "entry 'bwd' is none"),
        ({**FWD, "q": None}, "q is missing"),
        ({**FWD, "dtype": None}, "dtype is missing"),
        ({key: value for key, value in FWD.items() if key != "layer"}, "layer is missing"),
        ({**FWD, "seq": -1}, "seq is -1"),
        ({**FWD, "seq": 2**31}, "seq is 2147483648"),
        ({**FWD, "step": "7"}, "step is '7'"),
        ({**FWD, "phase": "warmup"}, "phase 'warmup' is none of"),
        ({**FWD, "library": {}}, "library is dict of 0"),
        ({**FWD, "q": [1, 1, 28]}, r"q has the shape \[1, 1, 28\]"),
        ({**FWD, "k": [1, 300, 0, 128]}, r"k has the shape \[1, 300, 0, 128\]"),
        ({**FWD, "q": [-1, 1, 28, 128]}, "q has the shape"),
        ({**SDPA, "q": [2, 0, 1, 128]}, "q has the shape"),
        ({**SDPA, "q": [-2]}, "q has the shape"),
        ({**FWD, "window": [1]}, "window has 1 numbers"),
        ({**VARLEN, "batch": None}, "batch is missing"),
        ({**VARLEN, "max_seqlen_k": [300]}, "max_seqlen_k is list of 1"),
        ({**KVCACHE, "block_table": [1]}, "block_table has 1 numbers"),
        ({**KVCACHE, "k_new": [1]}, "k_new has 1 numbers"),
    ],
)
def test_what_no_recorder_writes_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        require_record(fields)


def test_the_line_of_a_bad_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(f"{json.dumps(FWD)}\n\n{json.dumps({**FWD, 'window': []})}\n")
    with pytest.raises(RunError, match=r"calls.jsonl:3: no attention call record: window has 0 numbers"):
        read_records(path)
