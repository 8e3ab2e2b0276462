"""Each request's lengths: from the record to the call and its splits, and what is said where not known.

The splits of FlashAttention-3's packed sequences rest on reading alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from attnprof.analysis.splits import split_rows
from attnprof.calls.records import CallRecord, attention_call
from attnprof.check.call_rows import CALL_COLUMNS, call_row
from attnprof.check.check_run import check
from attnprof.check.observed_calls import observe
from attnprof.check.recording import Recording
from attnprof.check.verdicts import CheckedCall, Verdict
from attnprof.dispatch import libraries
from attnprof.dispatch.requests import lengths_in_words, split_range
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from attnprof.report.page_contents import call_data
from attnprof.report.run_tables import splits_table
from attnprof.trace.open_trace import open_trace
from attnprof.trace.timeline import build_timeline
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof

H100 = gpu_by_name("h100")
FLASH: dict[str, Any] = {
    "dtype": "bf16", "causal": True, "window": [-1, -1], "softcap": 0.0, "alibi": False, "dropout_p": 0.0,
    "return_softmax": False, "device": "cuda:0",
}  # fmt: skip
VARLEN = {
    **FLASH, "library": "flash_attn", "entry": "varlen_fwd", "q": [12, 28, 128], "k": [900, 4, 128],
    "v": [900, 4, 128], "batch": 3, "max_seqlen_q": 10, "max_seqlen_k": 800, "block_table": None,
    "cu_seqlens_q": [0, 10, 11, 12], "cu_seqlens_k": [0, 800, 850, 900],
}  # fmt: skip
CACHE = {
    **FLASH, "library": "flash_attn", "entry": "fwd_kvcache", "q": [2, 1, 28, 128], "k": [2, 4096, 4, 128],
    "v": [2, 4096, 4, 128], "k_new": [2, 1, 4, 128], "block_table": None, "num_splits": 0,
    "has_cache_seqlens": True, "cache_batch_idx": False, "cache_seqlens": [7, 400],
}  # fmt: skip
PACKED = AttentionCall(
    "flash_attn_3", "varlen_fwd", 4, 1, 65536, 28, 4, 128, causal=True, total_q=4, num_splits=-1,
    seqlens_q=(1, 1, 1, 1), seqlens_k=(65536, 9000, 600, 10),
)  # fmt: skip


def call_of(fields: dict[str, Any], **changes: Any) -> AttentionCall:
    call = attention_call(CallRecord(0, 0, "decode", 0, fields | changes), fields["library"])
    assert isinstance(call, AttentionCall)
    return call


def test_a_packed_batch_carries_the_lengths_between_its_starts() -> None:
    call = call_of(VARLEN)
    assert (call.seqlens_q, call.seqlens_k) == ((10, 1, 1), (800, 50, 50))
    assert call_of(VARLEN, seqused_k=[700, 50, 3]).seqlens_k == (700, 50, 3)


def test_a_cache_carries_what_it_holds_with_the_new_keys() -> None:
    assert call_of(CACHE).seqlens_k == (8, 401)
    assert call_of(CACHE, k_new=None).seqlens_k == (7, 400)
    assert call_of(CACHE, cache_seqlens=9).seqlens_k == (10, 10)


@pytest.mark.parametrize(
    "starts",
    [None, "0,1", [0, 10, 11], [0, 10, 5, 12], [0, 10, True, 12], [0, -1, 3, 4], [0, 1, 2, 1 << 40], 7],
)
def test_lengths_that_are_none_are_not_known(starts: object) -> None:
    call = call_of(VARLEN, cu_seqlens_q=starts, cu_seqlens_k=starts)
    assert (call.seqlens_q, call.seqlens_k) == ((), ())
    assert lengths_in_words(call) == "of the requests' lengths only the maxima are known"


def test_what_is_known_of_the_lengths_is_said() -> None:
    assert lengths_in_words(call_of(VARLEN)) == "each of 3 requests with 1 to 10 queries and 50 to 800 keys"
    unknown = call_of(CACHE, cache_seqlens=None)
    assert lengths_in_words(unknown) == "of the requests' lengths only the cache's capacity is known"
    assert lengths_in_words(replace(unknown, batch=1)) == ""


def test_rows_hold_each_length_and_which_are_known() -> None:
    def row(call: AttentionCall) -> dict[str, Any]:
        predicted = libraries.predict(call, H100)
        checked = CheckedCall(Verdict.MATCH, "", 0, 0, "decode", 0, call=call, predicted=predicted)
        return dict(zip(CALL_COLUMNS, call_row(checked), strict=True))

    known = row(PACKED)
    assert (known["seqlens_k"], known["lengths"]) == ("65536 9000 600 10", "each request's")
    assert known["predicted_splits"] == split_range(libraries.predict(PACKED, H100).splits_of_requests)
    unknown = row(replace(PACKED, seqlens_q=(), seqlens_k=()))
    assert (unknown["seqlens_k"], unknown["lengths"], unknown["predicted_splits"]) == (
        None,
        "only the maxima",
        None,
    )


def test_packed_sequences_share_the_gpu_by_their_key_blocks() -> None:
    """By hand: 373, 52, 4 and 1 blocks of 176 keys and one of queries; 430 x 1.1 x 4 heads / 132 SMs."""
    prediction = libraries.predict(PACKED, H100, "2.8.3")
    assert prediction.splits_of_requests == tuple(
        max(min(-(-blocks // 15), prediction.num_splits or 0), 1) for blocks in (373, 52, 4, 1)
    )
    assert len(set(prediction.splits_of_requests)) > 1
    alone = libraries.predict(replace(PACKED, seqlens_q=(), seqlens_k=()), H100, "2.8.3")
    assert (alone.splits_of_requests, alone.all_lengths_known) == ((), False)
    assert alone.launches == prediction.launches


def test_ranges_are_shown_by_explain_predict_and_the_split_table() -> None:
    asked = ("--library", "flash_attn_3", "--entry", "varlen_fwd", "--gpu", "h100", "--num-splits", "-1")
    known = (*asked, "--seqlens-k", "65536,9000,600,10", "--seqlens-q", "1,1,1,1")
    shown = split_range(libraries.predict(PACKED, H100).splits_of_requests)
    for command in ("explain", "predict"):
        done = attnprof(command, *known)
        assert done.code == 0, done.err
        told = " ".join(done.out.split())
        assert f"splits per sequence {shown}" in told
        assert "each of 4 requests with 10 to 65536 keys" in told
        told = " ".join(attnprof(command, *asked, "--batch", "4", "--seqlen-k", "65536").out.split())
        assert "of the requests' lengths only the maxima are known" in told
        assert "these are not known" in told
    answer = json.loads(attnprof("explain", *known, "--format", "json").out)
    assert answer["splits_of_requests"] == list(libraries.predict(PACKED, H100).splits_of_requests)
    predicted = libraries.predict(PACKED, H100)
    checked = [
        CheckedCall(Verdict.NOT_OBSERVED, "", layer, 0, "decode", layer, call=PACKED, predicted=predicted)
        for layer in range(2)
    ]
    table = splits_table(split_rows(checked))
    assert table.shown is not None
    assert shown in table.shown[0]


@pytest.mark.parametrize(
    "flags", [("--seqlens-k", "1,x"), ("--seqlens-k", "1,2", "--seqlens-q", "1"), ("--seqlens-k", "-5")]
)
def test_lengths_that_are_no_lengths_are_refused(flags: tuple[str, ...]) -> None:
    done = attnprof("predict", "--entry", "varlen_fwd", *flags)
    assert (done.code, "--seqlens" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("library", "more"),
    [
        ("sglang_triton", ("--entry", "fwd_kvcache")),
        ("flash_mla", ("--entry", "fwd_kvcache", "--heads", "128", "--kv-heads", "1", "--head-dim", "576")),
        ("flash_attn_3", ("--entry", "varlen_fwd", "--num-splits", "-1")),
        ("vllm_triton", ("--entry", "batch_paged")),
    ],
)
def test_splits_of_requests_are_a_range_in_words_and_derivation(library: str, more: tuple[str, ...]) -> None:
    asked = ("--library", library, "--gpu", "h100", *more)
    lengths = (65536, 9000, 600, 10)
    answer = json.loads(
        attnprof("explain", *asked, "--seqlens-k", ",".join(map(str, lengths)), "--format", "json").out
    )
    splits = answer["splits_of_requests"]
    assert len(splits) == len(lengths)
    assert splits == sorted(splits, reverse=True)
    assert splits[0] > splits[-1] == 1
    each = f"1 to {splits[0]}"
    assert any(step["value"] == each for step in answer["derivation"])
    assert f"{each} ways, as each request's own length has it" in answer["answer"][0]
    longest = attnprof("explain", *asked, "--batch", "4", "--seqlen-k", "65536", "--format", "json").out
    assert json.loads(longest)["all_lengths_known"] is False


def test_the_page_shows_the_range_and_the_lengths(tmp_path: Path) -> None:
    """Of recorded calls of packed batches, in the data that the page's script reads."""
    fields = VARLEN | {
        "library": "flash_attn_3", "q": [4, 28, 128], "k": [75146, 4, 128], "v": [75146, 4, 128], "batch": 4,
        "max_seqlen_q": 1, "max_seqlen_k": 65536, "cu_seqlens_q": [0, 1, 2, 3, 4], "num_splits": -1,
        "cu_seqlens_k": [0, 65536, 74536, 75136, 75146],
    }  # fmt: skip
    config = {"workload": {"gpu": asdict(H100), "versions": {"flash_attn_3": "2.8.3"}}}
    builder = TraceBuilder()
    builder.add("TARGET_INFO_GPU", vmId=1, id=0, name="H100", smCount=132, computeMajor=9, computeMinor=0)
    timeline = build_timeline(open_trace(builder.write(tmp_path / "t.sqlite")))
    records = [CallRecord(0, 0, "decode", 0, fields)]
    recording = Recording(
        "t", "t", "complete", True, timeline, observe(timeline), records, True, gpu=H100, config=config
    )
    result = check(recording)
    data = call_data(recording, result, [], [-1] * len(result.calls))
    (shape,) = data["shapes"]
    expected = libraries.predict(PACKED, H100, "2.8.3").splits_of_requests
    assert data["strings"][shape["of_requests"]] == split_range(expected)
    assert "each of 4 requests with 10 to 65536 keys" in data["strings"][shape["call"]]
