"""Attention on AMD GPUs against the wheels' own Python and host code (benchmarks/record_rocm_attn.py).

Resting on reading alone: the threads of Triton's paged decode, which leaves its warps to the default.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from tests.conftest import GOLDEN, golden_rows
from tests.support.command import attnprof

MI300X = gpu_by_name("mi300x")
FACTS = GpuFacts(MI300X.num_sms, (MI300X.sm_major, MI300X.sm_minor), "amd")
STEP = AttentionCall(
    "vllm_rocm", "batch_paged", 64, 1, 4096, 28, 4, 128, causal=True, page_block_size=16
)  # fmt: skip
Launches = tuple[KernelLaunch, ...]


def launched(row: dict) -> list[tuple[str, list[int], list[int]]]:
    """What upstream launched; four waves where it asks for no number of them."""
    return [
        (one["kernel"], one["grid"], one.get("block") or [64 * (one["num_warps"] or 4), 1, 1])
        for one in row["expect"]["launches"]
    ]


def ours(answer: dict) -> list[tuple[str, list[int], list[int]]]:
    return [(one["kernel"], one["grid"], one["block"]) for one in answer["launches"]]


def answers(name: str) -> list[tuple[dict, dict]]:
    """(row, answer) through the command line, one a row."""
    done = attnprof("predict", "--calls", str(GOLDEN / name))
    assert done.code == 0, done.err
    return list(zip(golden_rows(name), map(json.loads, done.out.splitlines()), strict=True))


def told(launches: Launches) -> tuple[int | None, ...] | None:
    """Batch, heads, splits and head dim of vLLM's one explanation; None of none."""
    back = libraries.library("vllm_rocm").explain(Observed(*launches), FACTS)
    found = back.explanations if back else ()
    assert len(found) <= 1
    return next(((one.batch, one.heads, one.num_splits, one.head_dim.low) for one in found), None)


def test_rocm_attns_kernels_grids_and_refusals_are_upstreams() -> None:
    kernels: Counter[str] = Counter()
    for row, answer in answers("vllm_rocm_0.33.0.jsonl.gz"):
        assert (answer["error"], ours(answer)) == (row["expect"]["error"], launched(row)), row["call"]
        kernels.update(name for name, *_ in ours(answer))
    assert set(kernels) == {
        "_fwd_kernel", "_fwd_kernel_alibi", "kernel_paged_attention_2d",
        "paged_attention_ll4mi_QKV_mfma4_kernel", "paged_attention_ll4mi_QKV_mfma16_kernel",
        "paged_attention_ll4mi_reduce_kernel",
    }  # fmt: skip
    assert min(kernels.values()) > 15


def test_every_decode_of_upstreams_hip_kernels_is_read_back_and_each_spoilt_size_is_found() -> None:
    seen = 0
    for row in golden_rows("vllm_rocm_0.33.0.jsonl.gz"):
        call = row["call"]
        made = tuple(
            KernelLaunch(one["kernel"], tuple(one["grid"]), tuple(one["block"]))
            for one in row["expect"]["launches"]
            if "ll4mi" in one["kernel"]
        )
        if not made:
            continue
        seen += 1
        partitions = -(-max(call["seqlens_k"]) // 256)
        assert told(made) == (call["batch"], call["num_heads"], partitions, call["head_dim"])
        main, reduce = made
        batch, _, heads_k = main.grid
        spoilt = (
            (replace(main, grid=(batch + 1, partitions, heads_k)), reduce),
            (replace(main, grid=(batch, 513, heads_k)), reduce),
            (replace(main, block=(128, 1, 1)), reduce),
            (main, replace(reduce, grid=(call["num_heads"] * 17, batch, 1))),
            (main, replace(reduce, block=(96, 1, 1))),
        )
        assert [told(each) for each in spoilt] == [None] * 5
    assert seen > 50


def test_every_launch_of_upstreams_triton_kernels_is_read_back_and_each_spoilt_size_is_found() -> None:
    """Prompts' kernel is not claimed: whatever launches it otherwise may be another program's."""
    seen: Counter[str] = Counter()
    for row in golden_rows("vllm_rocm_0.33.0.jsonl.gz"):
        call = row["call"]
        for name, grid, block in launched(row):
            if "ll4mi" in name:
                continue
            seen[name] += 1
            made = KernelLaunch(name, tuple(grid), tuple(block))
            back = libraries.explain(Observed(made), FACTS)
            claimed = name == "kernel_paged_attention_2d"
            assert bool(back.shared) != claimed
            heads = call["num_heads_k"] if claimed else call["num_heads"]
            assert any(
                (one.library, one.batch, one.heads, one.num_splits) == ("vllm_rocm", call["batch"], heads, 1)
                and (one.entry, max(call["seqlens_q"]) in one.seqlen_q) == (call["entry"], True)
                and call["head_dim"] in one.head_dim
                for one in back.explanations
            ), row
            x, y, _ = grid
            spoilt = (replace(made, block=(192, 1, 1)), replace(made, block=(block[0], 2, 1)))
            spoilt += (replace(made, grid=(x, y, 2)),) if claimed else ()
            for broken in spoilt:
                back = libraries.explain(Observed(broken), FACTS)
                assert back.explanations == ()  # no kernel of Triton's has such a block
            other = libraries.explain(Observed(replace(made, block=(1024, 1, 1))), FACTS)
            assert other.explanations == () if claimed else other is None
    assert min(seen[name] for name in ("_fwd_kernel", "_fwd_kernel_alibi", "kernel_paged_attention_2d")) > 10


@pytest.mark.parametrize(("blocks", "tile"), [(16, 128), (7, 64), (8, None)])
def test_the_tile_that_a_paged_prefills_name_states_is_one_for_so_many_blocks(
    blocks: int, tile: int | None
) -> None:
    """Of 8 blocks either may be: 1,000 queries, or 500."""
    prefill = replace(AITER, entry="varlen_fwd", batch=1, seqlen_q=1000, seqlen_k=1000)
    (launch,) = libraries.predict(prefill, MI300X).launches
    made = replace(launch, grid=(32, 1, blocks))
    shape = "ck_tile::TileFmhaShape<ck_tile::sequence<{}, 128, 32, 128, 32, 128> >"
    for stated in (128, 64):
        name = f"void ck_tile::kentry<2, ck_tile::{made.kernel}<{shape.format(stated)}> >(Args)"
        found = libraries.explain(Observed(replace(made, kernel=name)), FACTS).explanations
        assert [one.seqlen_q.high for one in found] == [blocks * stated] * (tile in (None, stated))
    whole = libraries.explain(Observed(made), FACTS).explanations
    assert {(one.batch, one.heads) for one in whole} == {(1, 32)}
    added = KernelLaunch("ck_tile::FmhaFwdSplitKVCombineKernel", (1, 1, 1), (256, 1, 1))
    assert libraries.explain(Observed(made, added), FACTS).explanations == ()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"window": (1023, 0)}, "a sliding window"),
        ({"dtype": "fp32"}, "fp32 queries"),
        ({"head_dim": 96}, "a head dim of 96"),
        ({"page_block_size": 64}, "pages of 64"),
        ({"num_heads": 68}, "17 query heads per KV head"),
        ({"seqlen_k": 131_073}, "a request of 131073 keys"),
    ],
)
def test_triton_decodes_what_hips_kernels_do_not_take_and_says_why(change: dict, why: str) -> None:
    assert len(libraries.predict(STEP, MI300X).launches) == 2
    other = libraries.predict(replace(STEP, **change), MI300X)
    assert [one.kernel for one in other.launches] == ["kernel_paged_attention_2d"]
    assert why in next(reason.why for reason in other.reasons if reason.rule == "decode")


def test_a_prompt_is_not_split_though_decodes_kernels_run_too() -> None:
    mixed = replace(STEP, batch=2, seqlen_q=300, seqlens_q=(300, 1), seqlens_k=(300, 2000), seqlen_k=2000)
    prediction = libraries.predict(mixed, MI300X)
    assert (prediction.splits_of_requests, len(prediction.launches)) == ((1, 8), 3)
    done = attnprof("explain", "--engine", "vllm", "--gpu", "mi300x", "--batch", "4", "--seqlen-q", "600",
                    "--seqlen-k", "4096", "--model", "qwen2.5-7b")  # fmt: skip
    words = " ".join(done.out.split())
    assert "is not split: _fwd_kernel runs, then paged_attention_ll4mi_QKV_mfma16_kernel + paged_" in words


AITER = AttentionCall("aiter_paged", "fwd_kvcache", 32, 1, 40_960, 32, 8, 128, page_block_size=1)


UNIFIED = ("0.1.7", "0.1.20.post1")  # the last package, and a tag of upstream's repository


@pytest.mark.parametrize("version", UNIFIED)
def test_aiters_unified_attention_launches_as_its_own_code_does(version: str) -> None:
    segments: Counter[int] = Counter()
    for row, answer in answers(f"aiter_unified_{version}.jsonl.gz"):
        assert (answer["error"], ours(answer)) == (row["expect"]["error"], launched(row)), row["call"]
        segments[answer["num_splits"] or 0] += 1
    assert set(segments) == {0, 1, 8, 16, 32, 64, 128}


def split_steps() -> list[tuple[dict, GpuFacts, Launches]]:
    """Steps of v0.1.20.post1 whose keys are split."""
    found = []
    for row in golden_rows("aiter_unified_0.1.20.post1.jsonl.gz"):
        device = row["call"]["device"]
        made = tuple(KernelLaunch(name, tuple(grid), tuple(block)) for name, grid, block in launched(row))
        if len(made) == 2:
            facts = GpuFacts(device["num_sms"], (device["sm_major"], device["sm_minor"]), "amd")
            found.append((row["call"], facts, made))
    return found


def test_names_that_state_constants_are_read_back_with_them_and_each_spoilt_one_is_found() -> None:
    steps = split_steps()
    assert len(steps) > 80
    for call, facts, (main, reduce) in steps:
        (one,) = libraries.explain(Observed(main, reduce), facts).explanations
        assert (one.library, one.versions, one.batch, one.heads, one.num_splits) == (
            "aiter_paged", ("0.1.20.post1",) * 2, call["batch"], call["num_heads"], main.grid[2],
        )  # fmt: skip
        assert one.has_length(max(call["seqlens_k"]))
        assert (max(call["seqlens_q"]) in one.seqlen_q, one.head_dim.low) == (True, call["head_dim"])
        count = main.grid[2]
        fewer = main.kernel.replace(f"PER_SEQ_{count}_", f"PER_SEQ_{count // 2}_")
        spoilt = (
            (replace(main, grid=(*main.grid[:2], count // 2)), reduce),
            (replace(main, kernel=fewer), reduce),
            (replace(main, kernel=fewer, grid=(*main.grid[:2], count // 2)), reduce),
            (replace(main, block=(192, 1, 1)), reduce),
            (main, replace(reduce, grid=(reduce.grid[0], call["num_heads"] + 1, 1))),
            (main, replace(reduce, kernel="reduce_segments")),
            (main, None),
        )
        told = [libraries.explain(Observed(*each), facts) for each in spoilt]
        assert [back.explanations for back in told] == [()] * len(spoilt)
    assert libraries.explain(Observed(steps[0][2][1]), FACTS).cut  # what adds up without the kernel before it


def test_a_name_states_its_constants_or_is_not_read() -> None:
    stated = libraries.library("aiter_paged").template_fields
    call, _, (main, reduce) = split_steps()[0]
    fields = dict(stated(main.kernel) or ())
    assert (fields["num_query_heads"], fields["BLOCK_SIZE"]) == (call["num_heads"], call["page_size"])
    assert dict(stated(reduce.kernel) or ())["HEAD_SIZE"] == call["head_dim"]
    cut = (
        main.kernel[:-1],
        f"{main.kernel}x",
        main.kernel.replace("num_warps_2", "num_warps_"),
        "reduce_segments",
    )
    assert [stated(name) for name in cut] == [None] * len(cut)


def test_a_kernel_is_known_by_its_function_however_long_its_constants_are() -> None:
    main, reduce = split_steps()[0][2]
    assert [parse_kernel_name(one.kernel).family for one in (main, reduce)] == [
        "triton_unified",
        "triton_reduce",
    ]
    assert dict(parse_kernel_name(main.kernel).stated)["num_splits"] == main.grid[2]
    tail = "_NUM_Q_HEADS_64_NUM_K_HEADS_8_BLOCK_M_128_BLOCK_N_64_IS_FP8_0_VARLEN_1_NUM_XCD_8_ENABLE_SINK_0"
    for start, kernel, role in (
        ("_attn_fwd_IS_CAUSAL_1", "_attn_fwd", "main"),
        ("_mla_decode_fwd_kernel_num_query_heads_16", "_mla_decode_fwd_kernel", "main"),
        ("_mla_decode_fwd_reduce_kernel_num_query_heads_16", "_mla_decode_fwd_reduce_kernel", "combine"),
        ("bwd_kernel_causal_BLOCK_M1_32", "bwd_kernel_causal", "backward"),
    ):
        found = parse_kernel_name(f"{start}{tail}")
        assert (found.kernel, found.role) == (kernel, role)
    assert not parse_kernel_name(f"_softmax_kernel_online{tail}").is_attention


def test_every_step_of_aiters_unified_attention_is_read_back() -> None:
    for row in golden_rows("aiter_unified_0.1.7.jsonl.gz"):
        call, device = row["call"], row["call"]["device"]
        made = tuple(KernelLaunch(name, tuple(grid), tuple(block)) for name, grid, block in launched(row))
        if not made:
            continue
        facts = GpuFacts(device["num_sms"], (device["sm_major"], device["sm_minor"]), "amd")
        back = libraries.explain(Observed(*made), facts)
        assert back is not None
        one, *others = back.explanations
        assert (one.library, max(call["seqlens_q"]) in one.seqlen_q) == ("aiter_paged", True)
        newer = [other for other in others if other.library == "aiter_paged"]
        assert bool(newer) == (made[0].kernel == "kernel_unified_attention_2d")  # called alike in both
        rest = {other.library for other in others if other not in newer}
        assert rest == ({"vllm_triton"} if "vLLM" in back.of else set())
        assert one.has_length(max(call["seqlens_k"]))
        assert (one.batch, one.heads) in ((None, None), (call["batch"], call["num_heads"]))
        vllms_too = made[0].block == (256, 1, 1)  # vLLM's own prompts have it
        assert back.of == ("AITER's or vLLM's" if vllms_too else "AITER's")
        wider = libraries.explain(Observed(replace(made[0], block=(192, 1, 1)), *made[1:]), facts)
        assert wider is not None
        assert wider.explanations == ()


def test_paged_prefill_takes_smaller_tiles_where_cus_would_be_idle() -> None:
    """By the formula read in Composable Kernel's generator: nothing of it was recorded."""
    prefill = replace(AITER, entry="varlen_fwd", batch=1, seqlen_q=1000, seqlen_k=1000)
    grids = [libraries.predict(replace(prefill, batch=n), MI300X).launches[0].grid for n in (1, 2)]
    assert grids == [(32, 1, 8), (32, 2, 8)]  # 256 blocks of 128 queries are more than 243.2 CUs
    assert libraries.predict(replace(prefill, seqlen_q=900), MI300X).launches[0].grid == (32, 1, 8)
    assert libraries.predict(replace(prefill, seqlen_q=890), MI300X).launches[0].grid == (32, 1, 14)


TRACES = Path(__file__).parents[1] / "data" / "traces"
GPT_OSS = replace(AITER, entry="batch_paged", seqlen_k=9000, num_heads=64, head_dim=64, causal=True)
REAL = (
    ("sglang_qwen3-8b", "paged_attention", AITER, 72),
    ("vllm_gpt-oss", "unified_attention_3d", replace(GPT_OSS, page_block_size=64), 24),
    ("vllm_gpt-oss", "unified_attention_2d", replace(GPT_OSS, window=(127, 0)), 12),
)


def ran(trace: str) -> list[KernelLaunch]:
    """What a public trace of a CUDA graph's capture on an MI300X says was launched."""
    whole = json.loads(gzip.decompress((TRACES / f"torch_mi300x_{trace}_capture.json.gz").read_bytes()))
    told = [event["args"] for event in whole["traceEvents"] if "kernel" in event.get("args", {})]
    return [KernelLaunch(one["kernel"], tuple(one["grid"]), tuple(one["block"])) for one in told]


@pytest.mark.parametrize(("trace", "operation", "call", "count"), REAL)
def test_an_mi300xs_own_launches_are_those_predicted(
    trace: str, operation: str, call: AttentionCall, count: int
) -> None:
    """SGLang's and vLLM's; the servers' context, page and window, which no trace holds, are the models'."""
    predicted = [(one.kernel, one.grid, one.block) for one in libraries.predict(call, MI300X).launches]
    seen = [(parse_kernel_name(one.kernel).kernel, one.grid, one.block) for one in ran(trace)]
    mine = [one for one in seen if operation in one[0] or one[0] == predicted[-1][0]]
    assert (len(mine), set(mine)) == (count, set(predicted))


def test_whose_paged_attention_ran_its_template_tells() -> None:
    pair = [one for one in ran("sglang_qwen3-8b") if "paged_attention" in one.kernel][:2]
    (one,) = libraries.explain(Observed(*pair), FACTS).explanations
    assert (one.library, one.batch, one.heads, one.num_splits) == ("aiter_paged", 32, 32, 160)
    assert one.seqlen_k == (Interval(40_705, 40_960),)  # the server's context
    main, reduce = pair
    for spelled, other in ((" 128, 256", " 64, 256"), ("false, 4,", "false, 8,")):
        spoilt = replace(main, kernel=main.kernel.replace(spelled, other))
        assert libraries.explain(Observed(spoilt, reduce), FACTS).explanations == ()
    loops = replace(reduce, kernel=reduce.kernel.replace("256, 3,", "256, 2,"))
    assert libraries.explain(Observed(main, loops), FACTS).explanations == ()
    drafts = replace(reduce, grid=(*reduce.grid[:2], 2))  # of two queries, where the template says one
    assert libraries.explain(Observed(main, drafts), FACTS).explanations == ()


def test_aiters_decode_of_several_queries_is_added_up_for_each() -> None:
    """Read in the wheel's paged_attention_v1, whose ``mtp`` is the depth of the reduction: not recorded."""
    _, reduce = libraries.predict(replace(AITER, seqlen_q=2), MI300X).launches
    assert reduce.grid == (32, 32, 2)
    assert libraries.predict(AITER, MI300X).launches[1].grid == (32, 32, 1)


def test_a_prompt_of_aiters_long_blocks_is_in_three_at_least() -> None:
    """256 queries and more, of 128 or fewer a block: in upstream's launches too."""
    wide = KernelLaunch("kernel_unified_attention_2d", (8, 3, 1), (256, 1, 1))
    assert libraries.library("aiter_paged").explain(Observed(wide), FACTS).explanations
    few = replace(wide, grid=(8, 2, 1))
    (other,) = libraries.library("aiter_paged").explain(Observed(few), FACTS).explanations
    assert (other.versions[0], other.head_dim.low) == ("0.1.20.post1", 512)  # a wide head's, of any step
    blocks = [
        grid[1]
        for row in golden_rows("aiter_unified_0.1.7.jsonl.gz")
        for name, grid, block in launched(row)
        if name == wide.kernel and block == [256, 1, 1]
    ]
    assert len(blocks) > 10
    assert min(blocks) >= 3


@pytest.mark.parametrize(("name", "count"), [("sglang_qwen3-8b_decode", 36), ("vllm_gpt-oss_replay", 24)])
def test_a_replay_is_read_with_the_grids_of_its_capture(
    name: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel's device may be none that ROCm describes, as in vLLM's trace here: it is the one there is."""
    monkeypatch.chdir(tmp_path)
    capture = f"{name.rpartition('_')[0]}_capture"
    paths = [str(TRACES / f"torch_mi300x_{each}.json.gz") for each in (name, capture)]
    assert attnprof("import", paths[0], "--graph-capture", paths[1], "-o", name).code == 0
    found = json.loads(attnprof("check", name, "--format", "json").out)
    assert Counter(one["verdict"] for one in found["calls"]) == {"explained": count}
