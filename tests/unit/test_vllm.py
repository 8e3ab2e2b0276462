"""vLLM's fork: what its extensions launch otherwise than upstream."""

from __future__ import annotations

from typing import Any

import pytest

from attnprof.dispatch import predict
from attnprof.dispatch.flash_attn3.tiles import TileQuery
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.vllm_flash_attn.fa3 import tile_sm90_of_fork
from attnprof.dispatch.vllm_flash_attn.versions import EXTENSIONS
from attnprof.dispatch.vllm_flash_attn.wheels import OLDER
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Prediction
from tests.conftest import golden_rows

H100, A100, B200, RTX5090 = (gpu_by_name(name) for name in ("h100", "a100", "b200", "5090"))


def call(library: Any = "vllm_flash_attn", **fields: Any) -> AttentionCall:
    """A decode step of 8 sequences of up to 8,192 keys in pages of 16, as vLLM makes it."""
    decode: dict[str, Any] = {
        "batch": 8,
        "seqlen_q": 1,
        "seqlen_k": 8192,
        "num_heads": 32,
        "num_heads_k": 8,
        "head_dim": 128,
        "causal": True,
        "page_block_size": 16,
    }
    return AttentionCall(library=library, entry="varlen_fwd", **(decode | fields))


def families(prediction: Prediction) -> list[str]:
    return [parse_kernel_name(launch.kernel).family for launch in prediction.launches]


def test_the_gpu_decides_between_fa2_and_fa3() -> None:
    assert families(predict(call(), H100)) == ["scheduler_aux", "fa3_fwd", "fa3_combine"]
    assert families(predict(call(), A100)) == ["fwd_splitkv", "fwd_splitkv_combine"]
    assert families(predict(call(), RTX5090)) == ["fwd_splitkv", "fwd_splitkv_combine"]
    assert families(predict(call(), H100, "fa2")) == ["fwd_splitkv", "fwd_splitkv_combine"]


def test_the_operator_that_ran_is_named() -> None:
    reasons = {gpu.name: predict(call(), gpu, explain=True).reasons[0].value for gpu in (A100, H100)}
    assert list(reasons.values()) == ["torch.ops._vllm_fa2_C.varlen_fwd", "torch.ops._vllm_fa3_C.fwd"]
    assert not any(extension.operator in extension.others for extension in EXTENSIONS.values())


@pytest.mark.parametrize(
    ("fields", "gpu", "version", "message"),
    [
        ({}, B200, None, "FlashAttention-4, which is another library"),
        ({}, H100, "2.8.3", "rules known are those of commit"),
    ],
)
def test_says_what_is_not_modelled(
    fields: dict[str, Any], gpu: Any, version: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        predict(call(**fields), gpu, version)


@pytest.mark.parametrize("entry", ["fwd", "fwd_kvcache"])
def test_entries_that_vllm_does_not_call_are_not_modelled(entry: Any) -> None:
    plain = AttentionCall("vllm_flash_attn", entry, 1, 1, 1024, 32, 8, 128)
    with pytest.raises(UsageError, match="vLLM calls flash_attn_varlen_func alone"):
        predict(plain, H100)


# FlashAttention-2


def test_pages_need_16_tokens_not_256() -> None:
    assert predict(call(), A100).error is None
    assert predict(call("flash_attn"), A100).error == "Paged KV cache block size must be divisible by 256"
    assert predict(call(page_block_size=8), A100).error == "Paged KV cache block size must be divisible by 16"


def test_the_batch_invariant_mode_asks_fa2_for_one_split() -> None:
    (launch,) = predict(call(num_splits=1), A100).launches
    assert "flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 64, 4," in launch.kernel
    assert launch.grid == (1, 8, 8)
    assert predict(call(num_splits=2), A100).error == "FA2 does not support num_splits > 1"


def test_one_split_is_tiled_like_the_plain_kernel() -> None:
    def traits(**fields: Any) -> str:
        kernel = predict(call(**fields), A100).launches[0].kernel
        return kernel.partition("traits<")[2].partition(", false")[0]

    assert traits() == "128, 64, 128, 4"
    assert traits(batch=64) == "128, 64, 64, 4"  # the grid is full: the heuristic's own choice of one
    assert traits(batch=64, head_dim=64) == "64, 64, 128, 4"
    assert traits(seqlen_q=9) == "128, 64, 128, 4"  # no folding, so num_splits stays unset
    assert traits(seqlen_q=9, num_splits=1) == "128, 64, 64, 4"


def test_without_pages_fa2_is_upstream() -> None:
    plain = {"page_block_size": None, "seqlen_q": 512, "seqlen_k": 512}
    assert predict(call(**plain), A100) == predict(call("flash_attn", **plain), A100)


# FlashAttention-3


def test_varlen_asks_for_the_heuristic_where_upstream_asks_for_one_split() -> None:
    ours = predict(call(page_block_size=None), H100)
    assert (ours.num_splits or 0) > 1
    assert predict(call("flash_attn_3", page_block_size=None), H100).num_splits == 1


def test_few_queries_are_multiplied_by_one_warp_group() -> None:
    decode, prefill = predict(call(), H100).launches[1], predict(call(seqlen_q=512), H100).launches[1]
    assert "cute::tuple<cute::C<64>, cute::C<128>, cute::C<128> >" in decode.kernel
    assert "cute::tuple<cute::C<128>, cute::C<128>, cute::C<128> >" in prefill.kernel
    assert (decode.block[0], prefill.block[0]) == (256, 384)


def test_more_than_992_sequences_are_never_split() -> None:
    assert (predict(call(batch=992), H100).num_splits or 0) > 1
    crowded = predict(call(batch=993), H100)
    assert crowded.num_splits == 1
    assert (crowded.launches[0].grid, crowded.launches[0].block) == ((2, 1, 1), (1024, 1, 1))


@pytest.mark.parametrize(("batch", "threads"), [(1, 32), (31, 32), (32, 64), (125, 256), (500, 1024)])
def test_the_prepare_kernel_grows_with_the_batch(batch: int, threads: int) -> None:
    launch = predict(call(batch=batch), H100).launches[0]
    assert launch.kernel.startswith(
        f"void flash::prepare_varlen_num_blocks_kernel<{threads // 32}, false>(int,"
    )
    assert launch.block == (threads, 1, 1)


def test_packed_heads_are_loaded_in_blocks_of_4_8_or_16() -> None:
    prefill = {"seqlen_q": 512, "seqlen_k": 512, "page_block_size": None, "num_splits": 1}
    for num_heads, block_h in ((32, 4), (64, 8), (128, 16), (8, 1), (40, 1)):
        kernel = predict(call(num_heads=num_heads, **prefill), H100).launches[1].kernel
        assert f"cutlass::bfloat16_t, {block_h}>, flash::CollectiveEpilogueFwd<" in kernel
    assert (
        ", 1>, flash::CollectiveEpilogueFwd<"
        in predict(call(dtype="fp16", **prefill), H100).launches[1].kernel
    )


def test_a_sparse_batch_combines_in_one_row_of_blocks() -> None:
    mixed = call(batch=8, seqlen_q=2048, total_q=2055, num_splits=4)
    assert predict(mixed, H100).launches[-1].grid == (2055 * 32 // 8 + 8, 1, 1)


def test_spells_the_decode_kernel_seen_in_the_wild() -> None:
    seen = next(
        row["name"]
        for row in golden_rows("kernel_names.jsonl")
        if row["version_hint"].startswith("vLLM FA3 2026")
    )
    decode = call(num_heads=16, num_heads_k=2, head_dim=256)
    older = predict(decode, H100, OLDER).launches[1].kernel
    assert older.startswith(seen.removesuffix(" > > >"))
    newer = predict(decode, H100).launches[1].kernel
    one_flag_more = ("true, false, false, true, true", "true, false, false, false, true, true")
    assert newer == older.replace(*one_flag_more) != older


def test_alibi_and_appending_are_refused() -> None:
    assert predict(call(alibi=True), H100, "fa3").error == "Alibi is not supported in FA3"
    assert families(predict(call(alibi=True), H100)) == ["fwd_splitkv"]  # vLLM takes FA2 then
    appending = predict(call(seqlen_knew=1), H100)
    assert appending.error == "This flash attention build does not support appending KV."


def test_the_tiles_of_the_fork_differ_where_it_was_tuned() -> None:
    def tile(head_dim: int, **flags: bool) -> tuple[int, int]:
        given = dict.fromkeys(TileQuery._fields[2:], False) | flags
        return tile_sm90_of_fork(TileQuery(head_dim, head_dim, **given))[:2]

    assert tile(64, local=True) == (192, 160)
    assert tile(128) == (128, 160)
    assert tile(192) == (128, 96)
    assert tile(128, fp8=True) == (128, 192)
    assert tile(96, fp8=True) == (128, 128)
    assert tile(128, fp8=True, one_mma_group=True) == (64, 96)
