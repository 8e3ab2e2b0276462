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
from functools import lru_cache
from typing import TYPE_CHECKING

from attnprof.dispatch.flash_attn2.dispatch import Dispatch as _FlashAttention2
from attnprof.dispatch.flash_attn2.rules import Rules as FlashAttention2Rules
from attnprof.dispatch.flash_attn2.versions import rules_for
from attnprof.dispatch.vllm_flash_attn.wheels import COMMIT, FA2_0_10, FA2_0_20, FA3_0_10, FA3_0_20, OLDER
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction, Reason

if TYPE_CHECKING:
    from attnprof.dispatch.flash_attn2.read_back import Build

DEFAULT_VERSION = "auto"
BATCH_INVARIANT = "batch-invariant"  # auto, with VLLM_BATCH_INVARIANT=1


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


_OWN_VERSIONS = (*EXTENSIONS, OLDER, FA3_0_20, FA3_0_10, FA2_0_20, FA2_0_10)
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
    from attnprof.dispatch.engines.layer import Layer
    from attnprof.dispatch.engines.vllm.flash_attention import Asked, choose

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
        from attnprof.dispatch.vllm_flash_attn.fa3 import STATES, predict_fa3

        prediction = predict_fa3(call, gpu, explain, STATES.get(version, STATES["fa3"]))
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
