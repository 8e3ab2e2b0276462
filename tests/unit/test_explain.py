"""What explain says: the cases people asked about, each step's numbers, and every form of output."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from attnprof.analysis.explain import explain, in_words
from attnprof.dispatch import default_version, num_splits_heuristic, predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall
from tests.support.command import Done, attnprof
from tests.unit.test_sweep import calls

DECODE = AttentionCall("flash_attn", "fwd", 1, 1, 4096, 28, 4, 128, causal=True)
TRACE = Path(__file__).parent.parent / "data" / "traces" / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"


def answer(done: Done) -> str:
    """The paragraph in words, on one line."""
    assert (done.code, done.err) == (0, "")
    after = done.out.partition("\nanswer ")[2]
    return " ".join(after.partition("\n\n")[0].split())


def test_40_heads_on_8_at_batch_33_are_exactly_one_wave() -> None:
    words = answer(
        attnprof("explain", "--seqlen-k", "4096", "--batch", "33", "--heads", "40", "--kv-heads", "8")
    )
    assert "8 heads count, not 40" in words
    assert "264 thread blocks (batch 33 x 8 heads x 1 query block) for 264 slots (132 SMs x 2)" in words
    assert "at least 0.8 x 264 = 211.2" in words
    assert "flash_fwd_kernel launches 264 thread blocks for 264 slots: exactly one wave." in words
    assert "Up to batch 26 it would weigh splitting." in words


def test_40_heads_on_8_at_batch_34_need_a_second_wave() -> None:
    words = answer(
        attnprof("explain", "--seqlen-k", "4096", "--batch", "34", "--heads", "40", "--kv-heads", "8")
    )
    assert "272 thread blocks for 264 slots: 2 waves, the last of them with 8 blocks only (3.0 %)" in words


def test_the_batch_up_to_which_splitting_is_weighed_is_the_last_one() -> None:
    for batch in (26, 27):
        call = replace(DECODE, batch=batch, num_heads=40, num_heads_k=8)
        weighed = explain(call, gpu_by_name("h100"), "2.8.3").weighed
        assert weighed is not None
        assert weighed.nearly_full == (batch == 27)


def test_a_large_cache_with_few_keys_is_split_for_its_capacity() -> None:
    done = attnprof(
        *("explain", "--entry", "fwd_kvcache", "--seqlen-k", "131072", "--live-seqlen", "1024"),
        *("--gpu", "a100"),
    )
    words = answer(done)
    assert "split 47 ways" in words
    assert "capacity of 131,072 keys, not from the 1,024 in use" in words
    assert "would choose 8 splits" in words
    assert "1 of the 47 holds keys in use: 4 of the 188 thread blocks do all the work" in words
    table = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "capacity, as chosen 131,072 47 2,816 1" in table
    assert "keys in use, not asked 1,024 8" in table


@pytest.mark.parametrize("live", [0, 1, 128, 129, 2816, 2817, 100_000, 131_072])
def test_splits_that_hold_keys_are_those_the_kernel_does_not_leave_at_once(live: int) -> None:
    call = replace(DECODE, entry="fwd_kvcache", seqlen_k=131072, cache_seqlens=True)
    explained = explain(call, gpu_by_name("a100"), "2.8.3", live_seqlen=live)
    splits, per_split = explained.prediction.num_splits, -(-1024 // 47)
    assert explained.live is not None
    # As compute_attn_1rowblock_splitkv: block range of each split, of which an empty one exits early.
    live_blocks = -(-live // 128)
    ranges = [(s * per_split, min(live_blocks, (s + 1) * per_split)) for s in range(splits or 0)]
    assert explained.live.busy_splits == sum(first < after for first, after in ranges)


def test_mha_through_varlen_never_splits_and_kvcache_would() -> None:
    flags = ("--num-heads", "32", "--num-heads-k", "32", "--seqlen-k", "8192")
    words = answer(attnprof("explain", "--entry", "varlen_fwd", *flags))
    assert "every query head has its own KV head: such a call is never split" in words
    splits = predict(
        replace(DECODE, entry="fwd_kvcache", num_heads=32, num_heads_k=32, seqlen_k=8192), gpu_by_name("h100")
    ).num_splits
    assert f"flash_attn_with_kvcache with the same shape would get {splits} splits." in words
    assert "100 of the SMs (75.8 %) get none" in words
    other = answer(attnprof("explain", "--entry", "fwd_kvcache", *flags))
    assert f"split {splits} ways" in other


def test_one_kv_head_at_batch_1_cannot_fill_the_gpu() -> None:
    words = answer(attnprof("explain", "--heads", "8", "--kv-heads", "1", "--seqlen-k", "4096"))
    assert "1 head count, not 8" in words
    assert "there is 1 thread block" in words
    assert "split 32 ways" in words
    assert "32 thread blocks for 132 SMs: 100 of the SMs (75.8 %) get none." in words


def test_a_persistent_kernel_is_not_judged_by_its_grid() -> None:
    words = answer(
        attnprof("explain", "--library", "flash_attn_3", "--entry", "fwd_kvcache", "--seqlen-k", "8192")
    )
    assert "FlashAttnFwdSm90 is persistent: 132 thread blocks, whatever the work." in words
    assert "FlashAttnFwdCombine adds up" in words


def test_a_caller_who_forces_one_split_learns_what_the_library_would_choose() -> None:
    words = answer(
        attnprof(
            "explain", "--entry", "fwd_kvcache", "--seqlen-k", "144000", "--num-splits", "1", "--gpu", "a100"
        )
    )
    free = predict(
        replace(DECODE, entry="fwd_kvcache", seqlen_k=144000, cache_seqlens=True), gpu_by_name("a100")
    ).num_splits
    assert f"The caller asked for num_splits=1; left to itself the library would choose {free}." in words
    assert "4 thread blocks for 108 SMs" in words


def test_the_library_may_count_more_slots_than_shared_memory_admits() -> None:
    words = answer(attnprof("explain", "--seqlen-k", "4096", "--gpu", "4090"))
    assert "The library counts 256 slots, but shared memory admits 1 such block per SM." in words


def test_every_candidate_is_shown_with_the_choice_and_the_line() -> None:
    done = attnprof("explain", "--seqlen-k", "4096", "--batch", "8", "--gpu", "a100", "--format", "json")
    told = json.loads(done.out)
    heuristic = told["heuristic"]
    assert (heuristic["thread_blocks"], heuristic["slots"], heuristic["key_blocks"]) == (32, 216, 32)
    candidates = heuristic["candidates"]
    assert [c["num_splits"] for c in candidates] == [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 32]
    assert [c["num_splits"] for c in candidates if c["mark"] == "chosen"] == [6] == [told["num_splits"]]
    best = max(candidates, key=lambda c: c["efficiency"])
    assert best["mark"] == "best"
    assert heuristic["threshold"] == pytest.approx(0.85 * best["efficiency"])
    assert [c["num_splits"] for c in candidates if c["reaches_85"]] == [6, 11, 32]
    assert [launch["fill"]["thread_blocks"] for launch in told["launches"]] == [192, 56]
    assert told["observed"] is None


def test_terminal_and_markdown_hold_the_same_tables() -> None:
    flags = ("explain", "--seqlen-k", "4096", "--batch", "8", "--gpu", "a100")
    table, markdown = attnprof(*flags).out, attnprof(*flags, "--format", "md").out
    assert max(map(len, table.splitlines())) <= 100
    assert "…" not in table
    for words in ("Derivation", "Split counts weighed (the line: 80.6 %", "Launches", "← chosen", "192/216"):
        assert words in table
        assert words in markdown
    assert "nothing: all of this is predicted" in table


@given(call=calls())
@settings(max_examples=200, deadline=None)
def test_what_is_weighed_is_what_is_predicted(call: AttentionCall) -> None:
    gpu, version = gpu_by_name("h100"), default_version(call.library)
    explained = explain(call, gpu, version)
    assert all(sentence for sentence in in_words(explained))
    weighed = explained.weighed
    if weighed is not None and explained.prediction.num_splits is not None:
        assert weighed.choice.num_splits == explained.prediction.num_splits
        given = (weighed.thread_blocks, weighed.slots, weighed.key_blocks)
        assert num_splits_heuristic(*given) == explained.prediction.num_splits


def test_a_refused_call_says_only_that() -> None:
    words = answer(attnprof("explain", "--seqlen-k", "64", "--head-dim", "264", "--heads", "8"))
    assert words == (
        "flash_attn 2.8.3 refuses this call, so nothing is launched: FlashAttention forward only supports "
        "head dimension at most 256"
    )


def test_a_call_of_a_trace_is_explained_beside_what_ran() -> None:
    checked = json.loads(attnprof("check", str(TRACE), "--format", "json").out)
    seq = next(call["seq"] for call in checked["calls"] if call["verdict"] == "match")
    done = attnprof("explain", "--call", str(seq), "--run", str(TRACE))
    assert done.code == 0
    assert "Predicted against observed" in done.out
    assert "verdict    match" in done.out
    assert "nothing: all of this is predicted" not in done.out
    told = json.loads(attnprof("explain", "--call", str(seq), "--run", str(TRACE), "--format", "json").out)
    assert told["observed"]["num_splits"] == told["num_splits"]
    assert told["observed"]["duration_ns"] > 0


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--run", "x", "--seqlen-k", "1"], 2, "--run needs --call"),
        (["--call", "1", "--seqlen-k", "1"], 2, "--call and --seqlen-k describe two calls"),
        (["--call", "99999", "--run", str(TRACE)], 2, "has no call 99999: its calls are"),
        (["--seqlen-k", "1", "--live-seqlen", "1"], 2, "--live-seqlen is for fwd_kvcache"),
        (["--entry", "fwd_kvcache", "--seqlen-k", "1", "--live-seqlen", "2"], 2, "does not fit a cache of 1"),
        ([], 2, "--seqlen-k is missing"),
        (["--call", "0", "--run", "no-such-run"], 2, "no run or trace called no-such-run"),
    ],
)
def test_wrong_flags_give_one_error(flags: list[str], code: int, says: str) -> None:
    done = attnprof("explain", *flags)
    assert done.code == code
    assert says in done.err.splitlines()[0]


def test_the_candidates_can_be_drawn_and_without_any_that_is_an_error(tmp_path: Path) -> None:
    figure = tmp_path / "efficiency.png"
    done = attnprof("explain", "--seqlen-k", "4096", "--plot", str(figure))
    assert (done.code, done.err) == (0, f"wrote {figure}\n")
    assert figure.read_bytes().startswith(b"\x89PNG")
    full = attnprof("explain", "--seqlen-k", "4096", "--batch", "99", "--plot", str(figure))
    assert full.code == 2
    assert "weighed no split counts" in full.err


def test_waves_are_not_counted_where_nobody_knows_how_many_blocks_run_at_once() -> None:
    asked = ("--engine", "sglang", "--model", "qwen2.5-7b", "--gpu", "b200", "--seqlen-k", "32768")
    told = answer(attnprof("explain", *asked))
    assert "launches 148 thread blocks for 148 SMs, each of which holds at most 4." in told
    assert "wave" not in told
