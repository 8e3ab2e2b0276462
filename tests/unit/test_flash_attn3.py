"""What flash_attn_3 launches for a call: rules read from upstream, and names seen in the wild."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.dispatch import libraries, predict
from attnprof.dispatch.flash_attn3.rules import MAX_SPLITS
from attnprof.dispatch.flash_attn3.versions import num_splits_heuristic, rules_for, should_pack_gqa
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import UsageError
from attnprof.gpus import GPUS, gpu_by_name
from attnprof.model import AttentionCall, Gpu, Prediction
from tests.conftest import golden_rows

H100, A100, L40S = gpu_by_name("h100"), gpu_by_name("a100"), gpu_by_name("l40s")
VERSIONS = ("2.7.4", "2.8.3", "3.0.0")


def call(entry: Any = "fwd_kvcache", **fields: Any) -> AttentionCall:
    """One decode step of a 28/4-head model over a cache of 32,768 keys, unless told otherwise."""
    decode: dict[str, Any] = {
        "batch": 1,
        "seqlen_q": 1,
        "seqlen_k": 32768,
        "num_heads": 28,
        "num_heads_k": 4,
        "head_dim": 128,
        "causal": True,
    }
    if entry == "fwd_kvcache":
        decode["cache_seqlens"] = True
    return AttentionCall(library="flash_attn_3", entry=entry, **(decode | fields))


def kernels(prediction: Prediction) -> list[str]:
    return [parse_kernel_name(launch.kernel).family for launch in prediction.launches]


def reason(prediction: Prediction, rule: str) -> str:
    return next(r.value for r in prediction.reasons if r.rule == rule)


# names

WILD = {row["note"]: row["name"] for row in golden_rows("kernel_names.jsonl") if row.get("note")}


def test_spells_the_prefill_kernel_seen_in_the_wild() -> None:
    seen = next(name for note, name in WILD.items() if note.startswith("MLA prefill qk 192 v 128"))
    prefill = call(
        "varlen_fwd", seqlen_q=2048, seqlen_k=2048, num_heads=16, num_heads_k=16, head_dim=192, head_dim_v=128
    )
    assert predict(prefill, H100, "2.8.3").launches[1].kernel == seen


def test_spells_the_combine_kernel_seen_in_the_wild() -> None:
    seen = next(row["name"] for row in golden_rows("kernel_names.jsonl") if row["family"] == "fa3_combine")
    decode = call(total_q=1, num_splits=64, head_dim=64, head_dim_v=512, num_heads_k=1)
    assert predict(decode, H100).launches[-1].kernel == seen


def test_spells_the_decode_kernel_seen_in_the_wild() -> None:
    seen = next(name for note, name in WILD.items() if note.startswith("MLA decode hd 64 + v 512"))
    decode = call(
        total_q=1, num_splits=8, num_heads=16, num_heads_k=1, head_dim=64, head_dim_v=512, page_block_size=1,
        has_qv=True,
    )  # fmt: skip
    assert predict(decode, H100, "2.8.3").launches[1].kernel == seen


def test_spells_the_prepare_kernel_seen_in_the_wild() -> None:
    seen = next(row["name"] for row in golden_rows("kernel_names.jsonl") if row["family"] == "scheduler_aux")
    ours = predict(call(), H100, "2.8.3").launches[0].kernel
    assert ours == seen.replace("const int *", "int const*").replace("int *", "int*")


def test_versions_before_2_8_name_neither_v_head_dim_nor_qv_and_write_splits_as_float() -> None:
    old = predict(call(), H100, "2.7.4").launches[0].kernel
    flags = "true, false, false, true, false, false, true, true, true, true, false>"
    tile = "cute::tuple<cute::C<128>, cute::C<128>, cute::C<128> >"
    assert f"{tile}, cutlass::bfloat16_t, float, cutlass::arch::Sm90, {flags}" in old
    cluster = "cute::tuple<cute::C<1>, cute::C<1>, cute::C<1> >"
    assert (
        f"CollectiveEpilogueFwd<{tile}, {cluster}, float, cutlass::arch::Sm90, 256, true, true, false>" in old
    )


def test_the_ampere_kernel_names_warps_and_stages() -> None:
    kernel = predict(call("fwd", seqlen_q=512, seqlen_k=512, causal=False), L40S).launches[0].kernel
    assert kernel.startswith(
        "void cutlass::device_kernel<flash::enable_sm80_to_sm89<flash::FlashAttnFwdSm80<"
    )
    assert (
        "CollectiveMainloopFwdSm80<8, 1, true, cute::tuple<cute::C<128>, cute::C<128>, cute::C<128> >"
        in kernel
    )
    assert "flash::SingleTileScheduler<false, false, true, 128>" in kernel


# splits


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("entry", ["fwd", "varlen_fwd"])
def test_plain_calls_never_split_by_default_and_say_so(entry: str, version: str) -> None:
    prediction = predict(call(entry), H100, version, explain=True)
    assert prediction.num_splits == 1
    assert "fa3_combine" not in kernels(prediction)
    assert any("one split by default" in reason.why for reason in prediction.reasons)


@pytest.mark.parametrize("version", VERSIONS)
def test_plain_calls_split_where_the_caller_asks_for_the_heuristic(version: str) -> None:
    assert (predict(call("fwd", num_splits=-1), H100, version).num_splits or 0) > 1


def test_four_key_blocks_are_not_split() -> None:
    per_block = 176
    assert predict(call(seqlen_k=4 * per_block), H100).num_splits == 1
    assert predict(call(seqlen_k=4 * per_block + 1), H100).num_splits == 5


def test_the_batch_counts_only_where_the_device_does_not_decide() -> None:
    lengths = {batch: predict(call(batch=batch), H100, "2.8.3").num_splits for batch in (1, 64, 992, 993)}
    assert lengths[1] == lengths[64] == lengths[992] == 29
    assert lengths[993] == 1
    assert predict(call(batch=64, cache_seqlens=False), H100).num_splits == 1


def test_since_3_0_the_splitting_kernels_run_for_any_batch_though_the_device_splits_none_past_992() -> None:
    many = predict(call(batch=993), H100, "3.0.0", explain=True)
    assert (many.num_splits, kernels(many)) == (29, ["scheduler_aux", "fa3_fwd", "fa3_combine"])
    assert reason(many, "splits per sequence") == "1"
    assert reason(predict(call(batch=992), H100, "3.0.0", explain=True), "splits per sequence") == "1 to 29"


def test_before_2_8_packed_queries_are_counted_once_per_query_head() -> None:
    prediction = predict(call(batch=2), H100, "2.7.4", explain=True)
    assert reason(prediction, "thread blocks") == "56"
    assert reason(predict(call(batch=2, cache_seqlens=False), H100, explain=True), "thread blocks") == "8"


def test_a_full_grid_is_split_where_a_kv_head_exceeds_the_l2_since_2_8() -> None:
    long = call("fwd", seqlen_q=40_000, seqlen_k=250_000, num_splits=-1, causal=False)
    assert predict(long, H100, "2.7.4").num_splits == 1
    assert predict(long, H100, "2.8.3").num_splits == 3  # 128 MB in pieces of 50 MiB
    assert predict(call("fwd", seqlen_q=40_000, seqlen_k=250_000, num_splits=-1), H100).num_splits == 1


def test_a_window_limits_the_keys_that_are_counted() -> None:
    prediction = predict(call(causal=False, window=(4095, 0), seqlen_q=2), H100, explain=True)
    assert reason(prediction, "key blocks") == "33"  # 4095 + 0 + 1 + 128 keys of 128


# launches


@pytest.mark.parametrize(("version", "threads"), [("2.8.3", 1024), ("3.0.0", 32)])
def test_decode_prepares_runs_and_combines(version: str, threads: int) -> None:
    prediction = predict(call(), H100, version)
    assert kernels(prediction) == ["scheduler_aux", "fa3_fwd", "fa3_combine"]
    assert [launch.grid for launch in prediction.launches] == [(1, 1, 1), (132, 1, 1), (4, 1, 1)]
    assert [launch.block[0] for launch in prediction.launches] == [threads, 384, 256]


@pytest.mark.parametrize(("batch", "warps", "blocks"), [(31, 1, 1), (32, 2, 1), (500, 32, 1), (1985, 32, 3)])
def test_since_3_0_the_prepare_kernel_is_compiled_by_warps_and_sorts(
    batch: int, warps: int, blocks: int
) -> None:
    launch = predict(call(batch=batch), H100, "3.0.0").launches[0]
    assert (launch.grid, launch.block) == ((blocks, 1, 1), (32 * warps, 1, 1))
    assert f"prepare_varlen_num_blocks_kernel<{warps}, true>(" in launch.kernel
    windowed = predict(call(batch=batch, window=(1023, 0), seqlen_q=2), H100, "3.0.0").launches[0]
    assert f"prepare_varlen_num_blocks_kernel<{warps}, false>(" in windowed.kernel


def test_since_3_0_pages_narrow_the_tile_of_head_dim_64() -> None:
    paged = call(head_dim=64, page_block_size=16)
    tiles = {v: reason(predict(paged, H100, v, explain=True), "tile") for v in ("2.8.3", "3.0.0")}
    assert tiles == {"2.8.3": "192 x 192", "3.0.0": "192 x 128"}


def test_a_caller_that_passes_the_plan_has_no_prepare_kernel() -> None:
    assert kernels(predict(call(scheduler_metadata=True), H100)) == ["fa3_fwd", "fa3_combine"]


def test_without_lengths_the_grid_shows_the_splits() -> None:
    prediction = predict(call(cache_seqlens=False, batch=2), H100)
    assert prediction.num_splits == 15
    assert [launch.grid for launch in prediction.launches] == [(1, 4 * 15, 2), (4, 1, 2)]


def test_persistent_grids_are_the_sms_less_the_margin() -> None:
    assert predict(call("fwd"), H100).launches[0].grid == (132, 1, 1)
    assert predict(call("fwd", sm_margin=4), H100).launches[0].grid == (128, 1, 1)


def test_four_warps_on_ampere_have_two_blocks_per_sm() -> None:
    prefill = call("fwd", seqlen_q=512, seqlen_k=512)
    assert (predict(prefill, A100).launches[0].grid[0], predict(prefill, L40S).launches[0].grid[0]) == (
        216,
        142,
    )


def test_an_even_number_of_query_blocks_runs_in_clusters_of_two() -> None:
    pair = "cute::tuple<cute::C<2>, cute::C<1>, cute::C<1> >"
    plain = {"num_heads_k": 28, "causal": False, "seqlen_k": 512}
    assert pair in predict(call("fwd", seqlen_q=256, **plain), H100).launches[0].kernel
    assert pair not in predict(call("fwd", seqlen_q=384, **plain), H100).launches[0].kernel
    assert pair not in predict(call("fwd", seqlen_q=256, **plain | {"head_dim": 96}), H100).launches[0].kernel


@pytest.mark.parametrize(
    ("page", "queries", "loads"),
    [(128, 64, "TMA"), (64, 64, "without TMA"), (128, 1, "without TMA"), (256, 64, "TMA")],
)
def test_pages_of_whole_blocks_are_loaded_by_tma_for_many_queries(
    page: int, queries: int, loads: str
) -> None:
    paged = call(page_block_size=page, seqlen_q=queries)
    assert reason(predict(paged, H100, explain=True), "page loads") == loads
    assert reason(predict(paged, H100, "2.7.4", explain=True), "page loads") == "without TMA"


def test_one_query_keeps_its_causal_mask_before_2_8_and_over_pages() -> None:
    causal = "cutlass::arch::Sm90, true, "
    main = [predict(call(page_block_size=page), H100, v).launches[-2].kernel for page, v in
            ((None, "2.8.3"), (16, "2.8.3"), (None, "2.7.4"))]  # fmt: skip
    assert [causal in kernel for kernel in main] == [False, True, True]


def test_nothing_runs_without_queries_or_keys() -> None:
    for empty in (call("fwd", seqlen_k=0), call("fwd", batch=0), call("varlen_fwd", seqlen_q=0)):
        prediction = predict(empty, H100)
        assert (prediction.launches, prediction.num_splits, prediction.error) == ((), None, None)


# refusals


@pytest.mark.parametrize(
    ("fields", "gpu", "message"),
    [
        ({"dtype": "fp32"}, H100, "FlashAttention only supports fp16, bf16, and fp8_e4m3 data type"),
        ({"dtype": "fp8"}, A100, "FlashAttention on Ampere/Ada cards only supports fp16 and bf16 data type"),
        ({"head_dim": 264}, H100, "FlashAttention forward only supports head dimension at most 256"),
        ({"num_heads": 30}, H100, "Number of heads in key/value must divide number of heads in query"),
        ({"head_dim": 100}, H100, "head_size should be a multiple of 8"),
        ({"head_dim": 72, "dtype": "fp8"}, H100, "head_size should be a multiple of 16"),
        ({"head_dim": 64, "head_dim_v": 256}, A100, "Only Hopper supports different V headdim"),
        ({"num_splits": 257}, H100, "num_splits > 256 not supported"),
        ({"seqlen_knew": 1, "cache_seqlens": False}, H100,
         "If k_new is supplied, seqlens_k must also be passed in"),
        ({"seqlen_knew": 1, "seqlen_q": 9, "seqlen_k": 8}, H100,
         "If k_new is supplied, it must have seqlen <= the seqlen of the KV cache"),
        ({"alibi": True}, H100,
         "flash_attn_with_kvcache() got an unexpected keyword argument 'alibi_slopes'"),
    ],
)  # fmt: skip
def test_refuses_in_upstreams_words(fields: dict[str, Any], gpu: Gpu, message: str) -> None:
    assert predict(call(**fields), gpu).error == message


def test_v_of_another_head_dim_came_with_2_8() -> None:
    mla = call("varlen_fwd", head_dim=192, head_dim_v=128)
    assert predict(mla, H100, "2.7.4").error == "v must have shape (total_k, num_heads_k, head_size)"
    assert predict(mla, H100, "2.8.0").error is None
    assert str(predict(call(head_dim=128, head_dim_v=64), H100).error).startswith("If V headdim is different")


@pytest.mark.parametrize("version", ["2.7.2", "2.8.4", "2.9.0", "3.0.1", "unknown"])
def test_versions_nobody_read_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match="not modelled"):
        predict(call(), H100, version)


@pytest.mark.parametrize("version", ["3.0.0b1", "3.0.0.b1", "3.0.0b1+cu128"])
def test_the_name_that_every_build_before_3_0_has_is_no_version(version: str) -> None:
    with pytest.raises(UsageError, match=r"every build from the tags 2\.6\.2 to 2\.8\.3\.post1") as refused:
        predict(call(), H100, version)
    assert "give the tag it was built from: --version 2.7.3 to 2.8.3.post1" in refused.value.hint


def test_a_build_of_the_package_is_its_version() -> None:
    assert rules_for("3.0.0+cu128torch2.9") == rules_for("3.0.0")


def test_post_releases_dispatch_like_their_release() -> None:
    assert rules_for("2.7.3") == rules_for("2.7.4.post1")
    assert rules_for("2.8.0") == rules_for("2.8.3.post1") != rules_for("2.7.4.post1")
    assert rules_for("2.8.3.post1") != rules_for("3.0.0")


# properties

calls = st.builds(
    AttentionCall,
    library=st.just("flash_attn_3"),
    entry=st.sampled_from(["fwd", "varlen_fwd", "fwd_kvcache"]),
    batch=st.one_of(st.integers(1, 8), st.integers(1, 2000)),
    seqlen_q=st.one_of(st.just(1), st.integers(1, 5000)),
    seqlen_k=st.integers(1, 5_000_000),
    num_heads=st.sampled_from([8, 24, 64]),
    num_heads_k=st.sampled_from([1, 2, 8]),
    head_dim=st.sampled_from([16, 64, 96, 112, 128, 192, 256]),
    dtype=st.sampled_from(["bf16", "fp16"]),
    causal=st.booleans(),
    window=st.sampled_from([(-1, -1), (1024, 0), (-1, 3), (127, -1)]),
    softcap=st.sampled_from([0.0, 30.0]),
    num_splits=st.sampled_from([-1, 0, 1, 7]),
    cache_seqlens=st.booleans(),
    pack_gqa=st.sampled_from([None, True, False]),
    attention_chunk=st.sampled_from([0, 4096]),
    scheduler_metadata=st.booleans(),
)


@given(
    call=calls,
    gpu=st.sampled_from([g.name for g in GPUS if g.sm >= (8, 0) and not g.name.startswith("AMD")]),
    version=st.sampled_from(VERSIONS),
)
@settings(max_examples=400, deadline=None)
def test_any_accepted_call_is_predicted_whole(call: AttentionCall, gpu: str, version: str) -> None:
    prediction = predict(call, gpu_by_name(gpu), version, explain=True)
    assert prediction.error is None
    assert prediction.num_splits is not None
    assert 1 <= prediction.num_splits <= MAX_SPLITS
    families = kernels(prediction)
    assert families.count("fa3_fwd") + families.count("fa3_fwd_sm80") == 1
    assert ("fa3_combine" in families) == (prediction.num_splits > 1)
    assert all(size >= 1 for launch in prediction.launches for size in (*launch.grid, *launch.block))
    assert prediction == predict(call, gpu_by_name(gpu), version)


@given(
    blocks=st.integers(0, 5000),
    num_sms=st.integers(1, 200),
    n_blocks=st.integers(0, 3000),
    m_blocks=st.integers(0, 500),
    head_bytes=st.integers(0, 50 * 1024 * 1024),
    masked=st.booleans(),
    max_splits=st.integers(1, 256),
    version=st.sampled_from(VERSIONS),
)
@settings(max_examples=500, deadline=None)
def test_there_are_no_more_splits_than_key_blocks(
    blocks: int, num_sms: int, n_blocks: int, m_blocks: int, head_bytes: int, masked: bool, max_splits: int,
    version: str,
) -> None:  # fmt: skip
    arguments = (blocks, num_sms, n_blocks, m_blocks, head_bytes, masked, max_splits)
    num_splits = num_splits_heuristic(*arguments, version=version)
    assert num_splits == 1 or num_splits <= min(n_blocks, num_sms, max_splits)


@given(seqlen_q=st.integers(0, 10_000), groups=st.integers(1, 64), block_m=st.sampled_from([64, 128, 192]))
def test_packing_one_head_is_never_worth_it(seqlen_q: int, groups: int, block_m: int) -> None:
    assert should_pack_gqa(True, seqlen_q, groups, block_m)
    assert not should_pack_gqa(False, seqlen_q, 1, block_m)
    assert not should_pack_gqa(False, block_m, groups, block_m)


def test_an_early_kernel_is_said_to_be_older_than_the_known_rules() -> None:
    why = libraries.named_only("void flash::compute_attn_ws<Traits, true>(Params)")
    assert why == "flash-attn-3 fa3_fwd_early, of a state before 2.7.3, the oldest whose rules are known"
    assert libraries.named_only("void flash::compute_attn_none<Traits>(Params)") == ""
