"""FlashAttention-3 (``hopper/``): its heuristics, what each version changed, and the prediction for a call.

Versions are those of the repository, whose folder hopper/ launches the same from 2.7.3 to 2.7.4.post1, from
2.8.0 to 2.8.3.post1, and where its package says 3.0.0 (commit e2743ab5, 2026-02-05). Until then every package
said 3.0.0b1, whatever it was built from. Before 2.7.3 ``hopper/`` is another code base, not modelled.
Adding a version means adding a row to ``_CHANGES``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.flash_attn3.dispatch import dispatch
from attnprof.dispatch.flash_attn3.installed import NEWEST, NOT_MODELLED
from attnprof.dispatch.flash_attn3.rules import MAX_SPLITS_AUTOMATIC, Rules, packs_gqa, split_choice
from attnprof.dispatch.flash_attn3.tiles import tile_sm90, tile_sm90_2_7, tile_sm90_2_8, tile_sm90_sglang
from attnprof.dispatch.versions import parse_version
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction

if TYPE_CHECKING:
    from attnprof.dispatch.flash_attn3.read_back import Build

SGLANG = "sglang-kernel-0.4.10"  # the copy that sglang-kernel ships, as it was recorded
OLDEST, LAST_2_8 = "2.7.3", "2.8.3.post1"
DEFAULT_VERSION = NEWEST
_PACKAGE_BEFORE_3 = re.compile(r"v?3\.0\.0\.?b", re.IGNORECASE)

_OLDEST_RULES = Rules(
    tile=tile_sm90_2_7,
    splits_past_l2=False,
    head_dim_v=False,
    attention_chunk=False,
    one_query_drops_causal=False,
    paged_tma=False,
    append_counts=False,
    dynamic_split=False,
    plans_any_batch=False,
    sorts_batches=False,
    blocks_of_kv_heads=False,
    combine_by_head_dim_block=False,
    epilogue_split=False,
)

_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("2.8.0", {
        "tile": tile_sm90_2_8,
        "splits_past_l2": True,
        "head_dim_v": True,
        "attention_chunk": True,
        "one_query_drops_causal": True,
        "paged_tma": True,
        "append_counts": True,
        "dynamic_split": True,
        "blocks_of_kv_heads": True,
        "combine_by_head_dim_block": True,
        "epilogue_split": True,
    }),
    # since commit 199401d3 (2025-08-21)
    ("3.0.0", {"tile": tile_sm90, "plans_any_batch": True, "sorts_batches": True}),
]  # fmt: skip
KNOWN = (OLDEST, *(version for version, _ in _CHANGES))


@lru_cache(maxsize=64)
def rules_for(version: str) -> Rules:
    """The rules of a flash_attn_3 version. Raises UsageError for versions outside the table."""
    if version == SGLANG:
        return _sglang_rules()
    if version == NOT_MODELLED:
        raise UsageError(
            "this flash_attn_3 is not modelled: its interface is of no version with known rules",
            hint=f"give --version {LAST_2_8} or {NEWEST} to predict with its rules",
        )
    if _PACKAGE_BEFORE_3.match(version.strip()):
        raise UsageError(
            f"flash_attn_3 {version} names no state of the code: "
            f"every build from the tags 2.6.2 to {LAST_2_8}, and later ones up to 3.0.0, calls itself that",
            hint=f"give the tag it was built from: --version {OLDEST} to {LAST_2_8}; "
            "attnprof doctor tells it of an installed one",
        )
    wanted = parse_version(version, library="flash_attn_3", oldest=OLDEST, newest=NEWEST)
    if parse_version(LAST_2_8) < wanted < parse_version(NEWEST):
        raise UsageError(
            f"flash_attn_3 {version} is not modelled: there is no release between {LAST_2_8} and {NEWEST}",
            hint=f"give --version {LAST_2_8} or {NEWEST}",
        )
    rules = _OLDEST_RULES
    for since, changes in _CHANGES:
        if wanted >= parse_version(since):
            rules = replace(rules, **changes)
    return rules


def _sglang_rules() -> Rules:
    return replace(
        rules_for(NEWEST),
        tile=tile_sm90_sglang,
        one_mma_group=True,
        local_in_one_group=True,
        local_tma=False,
        second_qv_flag=True,
        sparse_flag=True,
        blocks_of_all_queries=True,
    )


def num_splits_heuristic(
    total_mblocks: int,
    num_sms: int,
    num_n_blocks: int,
    num_m_blocks: int = 0,
    size_one_kv_head: int = 0,
    is_causal_or_local: bool = False,
    max_splits: int = MAX_SPLITS_AUTOMATIC,
    *,
    version: str = DEFAULT_VERSION,
) -> int:
    """Splits of the KV axis that fill the GPU best, from 1 to ``max_splits``.

    total_mblocks: query blocks of all heads counted.  num_sms: thread blocks resident at once, one per SM.
    num_n_blocks, num_m_blocks: key blocks, and query blocks of one head.  size_one_kv_head: bytes of the keys
    and values of one head.  Before 2.8.0, ``num_m_blocks``, ``size_one_kv_head`` and ``is_causal_or_local``
    do not exist and are ignored. Float32 throughout, as upstream.
    Source: hopper/heuristics.h.
    """
    return split_choice(
        total_mblocks, num_sms, num_n_blocks, num_m_blocks, size_one_kv_head, bool(is_causal_or_local),
        max_splits, rules_for(version).splits_past_l2,
    ).num_splits  # fmt: skip


def should_pack_gqa(
    varlen_q: bool, seqlen_q: int, qhead_per_khead: int, block_m: int, *, version: str = DEFAULT_VERSION
) -> bool:
    """Whether the query heads of one KV head share query blocks of ``block_m`` rows.

    They do where that leaves the blocks clearly fuller, and always in packed batches.
    Source: hopper/heuristics.h, the same in every version.
    """
    rules_for(version)
    return packs_gqa(bool(varlen_q), seqlen_q, qhead_per_khead, block_m)


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What flash_attn_3 ``version`` launches for ``call`` on ``gpu``; see ``flash_attn3_dispatch``.

    Raises UsageError for calls of SGLang's copy that its backend does not make.
    """
    packed = call.entry == "varlen_fwd" or (call.page_block_size is not None and call.total_q is not None)
    if version == SGLANG and not packed:
        raise UsageError(
            f"flash_attn_3 {SGLANG} is known of packed queries alone, as SGLang calls it",
            hint="give --entry varlen_fwd, or --engine sglang",
        )
    return dispatch(call, gpu, rules_for(version), explain=explain)


@lru_cache(maxsize=1)
def builds() -> tuple[Build, ...]:
    """The states of ``hopper/`` that launch alike, for reading launches back, oldest first."""
    from attnprof.dispatch.flash_attn3.read_back import Build

    spans = ((OLDEST, "2.7.4.post1"), ("2.8.0", LAST_2_8), (NEWEST, NEWEST), (SGLANG, SGLANG))
    return tuple(
        Build("flash_attn_3", span, rules_for(span[0]), partial(_launch, rules=rules_for(span[0])))
        for span in spans
    )


def _launch(call: AttentionCall, gpu: Gpu, *, rules: Rules) -> Prediction:
    return dispatch(call, gpu, rules)
