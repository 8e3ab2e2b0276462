"""vLLM's fork of FlashAttention: the extensions ``_vllm_fa2_C`` and ``_vllm_fa3_C``, against upstream.

Modelled is the fork as of commit 617264c1 (2026-08-06) and what vLLM calls of it: ``flash_attn_varlen_func``
over packed queries, with a block table and seqused_k or with cu_seqlens_k. The FA3 rules have held since
3292b778 (2026-05-05), the FA2 ones since 3286005c (2026-07-13); before these, tiles, templates and num_splits
were others. FA3 agrees with the fork's compiled host code (tests/data/golden, fa3), and both with every
launch recorded from the wheel of vllm 0.33.0 (vllm_flash_attn_wheel), whose FA3 kernels name one flag more.
``fa2-0.20.2`` and so on are older wheels', and agree with what these were recorded to launch.

Not modelled: FlashAttention-4 (``cute``, what vLLM prefers on Blackwell), the sparse entries, fwd_kvcache,
which vLLM no longer calls, context parallelism (cp_world_size > 1), and what vLLM decides before the
call: num_splits, page size, splitting a batch. Kernel names are upstream's, in namespace ``flash``; FA3's
main and prepare kernels have more template arguments.

Source: vllm-project/flash-attention csrc/flash_attn/flash_api.cpp, hopper/flash_api.cpp, hopper/tile_size.h,
hopper/flash_fwd_launch_template.h, CMakeLists.txt; vllm-project/vllm
vllm/vllm_flash_attn/flash_attn_interface.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from attnprof.dispatch.engines.layer import Layer
from attnprof.dispatch.engines.vllm.flash_attention import Asked, choose
from attnprof.dispatch.flash_attn2.dispatch import Dispatch as _FlashAttention2
from attnprof.dispatch.flash_attn2.rules import Rules as FlashAttention2Rules
from attnprof.dispatch.flash_attn2.versions import rules_for
from attnprof.dispatch.flash_attn3.dispatch import dispatch as dispatch_flash_attn3
from attnprof.dispatch.flash_attn3.rules import Rules
from attnprof.dispatch.flash_attn3.tiles import Tile, TileQuery, sm90, tile_one_group, tile_sm90
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction, Reason

if TYPE_CHECKING:
    from attnprof.dispatch.flash_attn2.read_back import Build
    from attnprof.dispatch.flash_attn3.read_back import Build as FlashAttention3Build

DEFAULT_VERSION = "auto"
BATCH_INVARIANT = "batch-invariant"  # auto, with VLLM_BATCH_INVARIANT=1
COMMIT = "617264c1"
OLDER = f"fa3-{COMMIT}"  # FA3 before vllm 0.33.0: one template flag fewer
FA2_0_10, FA2_0_20, FA3_0_10, FA3_0_20 = "fa2-0.10.2", "fa2-0.20.2", "fa3-0.10.2", "fa3-0.20.2"
_AUTOMATIC = -1  # 0 is upstream's default of one split in its varlen function


@dataclass(frozen=True, slots=True)
class Extension:
    """One compiled extension of the fork, and the operator that ``flash_attn_varlen_func`` reaches in it.

    ``others``: its operators that are not modelled.
    """

    name: str
    operator: str
    others: tuple[str, ...]


EXTENSIONS = {
    "fa2": Extension("_vllm_fa2_C", "varlen_fwd", ("fwd_kvcache", "fwd_sparse", "varlen_fwd_sparse")),
    "fa3": Extension("_vllm_fa3_C", "fwd", ("get_scheduler_metadata",)),
}


def tile_sm90_of_fork(query: TileQuery) -> Tile:
    """Source: tile_size_fwd_sm90 of the fork, built with two-level FP8 accumulation."""
    head_dim, causal, local, paged = query.head_dim, query.causal, query.local, query.paged
    if query.fp8:
        return _tile_fp8(query)
    if head_dim <= 64 and query.head_dim_v not in (256, 512):
        if query.one_mma_group:
            return tile_one_group(query)
        keys = 128 if causal else 160 if local or paged else 192
        return sm90(192, keys, causal or local, not local)
    if 96 < head_dim <= 128:
        if query.one_mma_group:
            return tile_one_group(query)
        return sm90(128, 128 if causal or local or paged else 160)
    if 128 < head_dim <= 192 and query.head_dim_v > 128:
        return sm90(128, 96)
    return tile_sm90(query)


def tile_sm90_of_0_10(query: TileQuery) -> Tile:
    """Source: the launches of the wheel of vllm 0.10.2; FP8 as in the fork."""
    if not query.fp8 and query.head_dim > 96 and not query.one_mma_group:
        return tile_sm90(query)
    if not query.fp8 and query.head_dim <= 64 and query.head_dim_v == 256:
        return sm90(128, 112, True, False)
    return tile_sm90_of_fork(query)


def _tile_fp8(query: TileQuery) -> Tile:
    head_dim = query.head_dim
    if query.one_mma_group:
        return tile_one_group(query)
    if head_dim <= 64:
        return sm90(192, 128)
    if head_dim <= 192:
        return sm90(128, 128 if head_dim <= 96 else 192 if head_dim <= 128 else 96)
    return sm90(128, 64 if query.local else 128, True, not query.paged)


FA3_RULES = Rules(
    tile=tile_sm90_of_fork,
    attention_chunk=False,
    local_tma=False,
    sorts_batches=False,
    one_mma_group=True,
    always_packs=True,
    head_blocks=True,
    varlen_only=True,
    appends=False,
    one_split_past_planned=True,
    sparse_combine=True,
)


SHIPPED_FA3_RULES = replace(FA3_RULES, second_qv_flag=True)  # of the wheel of vllm 0.33.0


_FA3_RULES_0_10 = replace(
    FA3_RULES,
    tile=tile_sm90_of_0_10,
    plans_any_batch=False,
    plans_one_split=False,
    always_packs=False,
    blocks_of_8=True,
    local_in_one_group=True,
    one_split_past_planned=False,
    softcap=False,
)
_FA3_STATES = {"fa3": SHIPPED_FA3_RULES, OLDER: FA3_RULES, FA3_0_20: FA3_RULES, FA3_0_10: _FA3_RULES_0_10}
_OWN_VERSIONS = (*EXTENSIONS, *_FA3_STATES, FA2_0_20, FA2_0_10)
_NO_OTHER_HEAD_DIM = "This flash attention build does not support headdim not being a multiple of 32."


class _FlashAttention2OfFork(_FlashAttention2):
    """Upstream's dispatch with pages of 16."""

    def check_page_size(self, page_block_size: int) -> None:
        self.require(page_block_size % 16 == 0, "Paged KV cache block size must be divisible by 16")


class _FlashAttention2Of010(_FlashAttention2OfFork):
    """The same without the kernels of uneven head dims."""

    def even(self, bucket: int) -> tuple[bool, bool]:
        return super().even(bucket)[0], True

    def varlen_fwd(self) -> None:
        super().varlen_fwd()
        self.require(self.call.head_dim % 32 == 0, _NO_OTHER_HEAD_DIM)


def preferred(
    gpu: Gpu, call: AttentionCall | None = None, *, batch_invariant: bool = False
) -> tuple[str, str]:
    """("fa2", "fa3" or "fa4", why): what vLLM 0.33.0 takes on the GPU, for a call where one is given.

    What the engine takes (``engines/vllm``), asked of a single call.
    """
    sm = (gpu.sm_major, gpu.sm_minor)
    if call is None:
        layer, asked = Layer(1, 1, 1, batch_invariant=batch_invariant), Asked()
    else:
        layer = Layer(
            call.num_heads, call.num_heads_k, call.head_dim, batch_invariant=batch_invariant,
            softcap=call.softcap,
        )  # fmt: skip
        dims = (call.head_dim, call.head_dim_v or call.head_dim)
        asked = Asked(*dims, alibi=call.alibi, softcap=call.softcap > 0, knows_hd256=True)
    chosen = choose(layer, sm, asked, newest=True)
    return f"fa{chosen.version or 2}", chosen.why


def extension_for(gpu: Gpu, version: str = DEFAULT_VERSION, call: AttentionCall | None = None) -> str:
    """ "fa2" or "fa3": the one asked for, or the one vLLM prefers on the GPU.

    Raises UsageError for another version, and where vLLM prefers FlashAttention-4.
    """
    if version in _OWN_VERSIONS:
        return version.partition("-")[0]
    if version not in (DEFAULT_VERSION, BATCH_INVARIANT):
        raise UsageError(
            f"vllm_flash_attn {version} is not modelled: the rules known are those of commit {COMMIT}",
            hint=f"give --version fa2, fa3, {FA2_0_20}, {FA3_0_20}, {FA2_0_10}, {FA3_0_10}, auto or "
            f"{BATCH_INVARIANT}",
        )
    chosen, _ = preferred(gpu, call, batch_invariant=version == BATCH_INVARIANT)
    if chosen not in EXTENSIONS:
        raise UsageError(
            f"on {gpu.name} vLLM prefers FlashAttention-4, which is another library",
            hint="give --engine vllm, or --version fa2 to predict FlashAttention-2 there",
        )
    return chosen


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What vLLM's extension launches for a call of its ``flash_attn_varlen_func`` on ``gpu``.

    version: "fa2", "fa3", one of an older wheel, or "auto" for the one vLLM takes there, "batch-invariant"
    for that of its batch-invariant mode, in which it asks for one split. ``page_block_size`` stands for a
    block table; ``seqlen_k`` is max_seqlen_k with or without one; ``num_splits`` 0 is automatic.
    Raises UsageError for entries that vLLM does not call.
    """
    chosen = extension_for(gpu, version, call)
    extension = EXTENSIONS[chosen]
    if call.entry != "varlen_fwd":
        reached = f"flash_attn_varlen_func alone, which is {extension.name}.{extension.operator}"
        raise UsageError(
            f"{call.entry} of vLLM's fork is not modelled: vLLM calls {reached}",
            hint="give --entry varlen_fwd",
        )
    if version == BATCH_INVARIANT:
        call = replace(call, num_splits=1)
    if chosen == "fa2":
        prediction = _predict_fa2(call, gpu, explain, version)
    else:
        rules = _FA3_STATES.get(version, SHIPPED_FA3_RULES)
        prediction = _predict_fa3(call, gpu, explain, rules)
    if not explain:
        return prediction
    operator = f"torch.ops.{extension.name}.{extension.operator}"
    reason = Reason("operator", operator, f"what vLLM's flash_attn_varlen_func calls of {chosen.upper()}")
    asked = version not in _OWN_VERSIONS
    _, why = preferred(gpu, call, batch_invariant=version == BATCH_INVARIANT)
    choice = (Reason("version", chosen.upper(), why),) if asked else ()
    return replace(prediction, reasons=(reason, *choice, *prediction.reasons))


@lru_cache(maxsize=1)
def _fa2_rules() -> FlashAttention2Rules:
    """The rules of ``_vllm_fa2_C``, of which vLLM calls varlen_fwd alone."""
    rules = rules_for("2.8.3")
    return replace(
        rules,
        entries=frozenset({"varlen_fwd"}),
        takes=rules.takes | {"varlen_num_splits"},
        one_split_narrows=True,
        paged_varlen_passes_splits=True,
    )


def _predict_fa2(call: AttentionCall, gpu: Gpu, explain: bool = False, version: str = "fa2") -> Prediction:
    if call.num_splits > 1:
        return Prediction(error="FA2 does not support num_splits > 1")
    rules = _fa2_rules()
    if version in (FA2_0_20, FA2_0_10):
        rules = replace(rules, one_split_narrows=False)
    if version == FA2_0_10:  # which hands no split count on
        return _FlashAttention2Of010(replace(call, num_splits=0), gpu, rules, explain).run()
    return _FlashAttention2OfFork(call, gpu, rules, explain).run()


@lru_cache(maxsize=1)
def builds() -> tuple[Build, ...]:
    """``_vllm_fa2_C``, for reading launches back."""
    from attnprof.dispatch.flash_attn2.read_back import Build

    return (Build("vllm_flash_attn", ("fa2", "fa2"), _fa2_rules(), _predict_fa2),)


@lru_cache(maxsize=1)
def fa3_builds() -> tuple[FlashAttention3Build, ...]:
    """``_vllm_fa3_C``, for reading launches back."""
    from attnprof.dispatch.flash_attn3.read_back import Build as FlashAttention3Build

    return tuple(
        FlashAttention3Build(
            "vllm_flash_attn", (name, name), rules, partial(_predict_fa3, rules=rules), fork=True
        )
        for name, rules in (("fa3", SHIPPED_FA3_RULES), ("fa3", FA3_RULES), (FA3_0_10, _FA3_RULES_0_10))
    )


def _predict_fa3(
    call: AttentionCall, gpu: Gpu, explain: bool = False, rules: Rules = SHIPPED_FA3_RULES
) -> Prediction:
    if call.alibi:
        return Prediction(error="Alibi is not supported in FA3")
    if call.page_block_size is not None:
        # seqused_k stands in for cu_seqlens_k: upstream's kvcache call, with packed queries.
        total_q = call.batch * call.seqlen_q if call.total_q is None else call.total_q
        call = replace(call, entry="fwd_kvcache", cache_seqlens=True, total_q=total_q)
    elif call.num_splits == 0:
        call = replace(call, num_splits=_AUTOMATIC)
    # vLLM's function takes a dropout probability and does not pass it on.
    return dispatch_flash_attn3(replace(call, dropout_p=0.0), gpu, rules, explain=explain)
