"""What differs between the versions of flash_attn 2 and PyTorch's copy, and how their kernels are named.

The version tables built from these live in ``flash_attn2.py`` and ``torch_sdpa.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from attnprof.dispatch.heuristic import SPLIT_BLOCK_M as SPLIT_BLOCK_M
from attnprof.dispatch.versions import Version, parse_version
from attnprof.model import AttentionCall, Gpu

OPTIONAL_TEMPLATES = frozenset({"Is_local", "Has_alibi", "Is_softcap"})


class Tile(NamedTuple):
    """Queries and keys per thread block, and warps per block, of the kernel that does not split."""

    block_m: int
    block_n: int
    warps: int = 4


TileRule = Callable[[bool, bool, Gpu], Tile]
"""(causal, dropout, gpu) to a tile."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How one library version dispatches; the defaults are flash_attn 2.8's.

    ``tiles``: head-dim bucket to its tile rule, ascending.  ``slots_per_sm``: thread blocks counted per SM.
    ``kernel_namespace`` qualifies kernels and their parameter, ``traits_namespace`` the kernel traits.
    ``head_dim_multiple_message`` is None where the library pads head_dim instead of refusing it, and is
    raised before the head_dim > 256 check where ``head_dim_multiple_first``.  ``takes``: the optional
    arguments of the entries.  ``templates``: the optional template arguments in kernel names.
    ``varlen_folds``: varlen_fwd treats one query as fwd does (no causal mask, folded heads, heuristic).
    ``skips_empty``: the entries that launch nothing for zero keys.  ``skips_empty_batch``: fwd takes batch 0.
    ``sms_besides_8x``: the other compute capabilities accepted where not ``any_sm_from_80``.
    ``refusals``: what the build refuses though the entry takes it (an argument, or "fold" and the entry),
    with its message.
    ``paged_varlen_splits``: varlen_fwd asks for splits of a paged cache too, not only after folding.
    ``paged_varlen_passes_splits``: of a paged cache varlen_fwd takes the caller's num_splits as it is.
    ``one_split_narrows``: the split kernel with exactly one split takes half as many keys per block.
    """

    tiles: Mapping[int, TileRule]
    slots_per_sm: int = 2
    kernel_namespace: str = "flash::"
    traits_namespace: str = ""
    entries: frozenset[str] = frozenset({"fwd", "varlen_fwd", "fwd_kvcache"})
    takes: frozenset[str] = frozenset({"window", "alibi", "softcap", "kvcache_paged", "varlen_paged"})
    templates: frozenset[str] = OPTIONAL_TEMPLATES
    any_sm_from_80: bool = True
    sms_besides_8x: frozenset[tuple[int, int]] = frozenset({(9, 0)})
    refusals: Mapping[str, str] = field(default_factory=dict)
    batch_message: str = "batch size must be positive"
    head_dim_multiple_message: str | None = None
    head_dim_multiple_first: bool = False
    clamps_windows: bool = True
    varlen_folds: bool = True
    skips_empty: frozenset[str] = frozenset({"fwd", "varlen_fwd"})
    skips_empty_batch: bool = False
    paged_varlen_splits: bool = False
    paged_varlen_passes_splits: bool = False
    one_split_narrows: bool = False
    batch_idx_forces_split: bool = True
    local_excludes_causal: bool = True
    alibi_clears_even: bool = True
    softmax_clears_even_mn: bool = True
    softmax_clears_even_k: bool = True
    even_mn_max_head_dim: int = 128


_ADDING = ("takes", "templates")


def rules_at(wanted: Version, oldest: Rules, changes: Sequence[tuple[str, dict[str, Any]]]) -> Rules:
    """``oldest`` with every change up to a version; "takes" and "templates" name what a change adds."""
    rules = oldest
    for since, changed in changes:
        if wanted >= parse_version(since):
            added = {name: getattr(rules, name) | changed[name] for name in _ADDING if name in changed}
            rules = replace(rules, **{**changed, **added})
    return rules


def optional_arguments(call: AttentionCall) -> Iterator[tuple[bool, str, str]]:
    """(given, its name in ``takes``, the library's word) of each argument that not every version takes."""
    paged = "kvcache_paged" if call.entry == "fwd_kvcache" else "varlen_paged"
    yield call.window != (-1, -1), "window", "window_size"
    yield call.alibi, "alibi", "alibi_slopes"
    yield call.softcap > 0, "softcap", "softcap"
    yield call.page_block_size is not None, paged, "block_table"
    yield call.entry == "varlen_fwd" and call.num_splits > 0, "varlen_num_splits", "num_splits"


def block_n(head_dim: int) -> int:
    """Keys per block of the split kernel. Source: set_params_splitkv, 2.2.4 and later."""
    return 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64


def narrow_block_n(head_dim: int) -> int:
    """Keys per block of the split kernel with one split. Source: ``one_split_narrows`` of the torch table."""
    return 128 if head_dim <= 64 else 64


def head_dim_bucket(head_dim: int, tiles: Mapping[int, TileRule]) -> int:
    """The compiled head dim that serves ``head_dim``: the next one up."""
    return next(bucket for bucket in tiles if head_dim <= bucket)


def combine_block_m(bucket: int) -> int:
    """Output rows per block of the combine kernel."""
    return 4 if bucket % 128 == 0 else 8 if bucket % 64 == 0 else 16


def kernel_name(
    name: str, bucket: int, tile: Tile, element: str, arguments: tuple[Any, ...], rules: Rules
) -> str:
    """The demangled name, spelled as abi::__cxa_demangle spells it."""
    return _spelled(name, bucket, tile, element, arguments, rules.traits_namespace, rules.kernel_namespace)


@lru_cache(maxsize=4096)  # of one kernel each argument is always a flag or always a number
def _spelled(
    name: str, bucket: int, tile: Tile, element: str, arguments: tuple[Any, ...], traits: str, namespace: str
) -> str:
    shape = f"{bucket}, {tile.block_m}, {tile.block_n}, {tile.warps}"
    inner = f"{traits}Flash_kernel_traits<{shape}, {element}> >"
    outer = f"{traits}Flash_fwd_kernel_traits<{shape}, false, false, {element}, {inner}"
    spelled = ", ".join(str(argument).lower() for argument in arguments)
    return f"void {namespace}{name}<{outer}, {spelled}>({namespace}Flash_fwd_params)"


def always(block_m: int, block_n: int, warps: int = 4) -> TileRule:
    """The same tile whatever is asked."""
    tile = Tile(block_m, block_n, warps)
    return lambda causal, dropout, gpu: tile


def by_dropout(without: Tile, with_dropout: Tile) -> TileRule:
    """One tile without dropout, another with."""
    return lambda causal, dropout, gpu: with_dropout if dropout else without


def by_smem(bucket: int) -> TileRule:
    """128 x 64 with 8 warps where a block may have that much shared memory and two 64 x 64 blocks would not
    fit an SM (A100); 64 x 64 elsewhere. Source: run_mha_fwd_hdim256."""

    def rule(causal: bool, dropout: bool, gpu: Gpu) -> Tile:
        block_fits = gpu.smem_per_block_optin >= 2 * bucket * (128 + 2 * 64)
        two_small_fit = gpu.smem_per_sm >= 4 * bucket * (64 + 2 * 64)
        return Tile(128, 64, 8) if block_fits and not two_small_fit else Tile(64, 64, 4)

    return rule


def hdim96(causal: bool, dropout: bool, gpu: Gpu) -> Tile:
    return Tile(64, 64) if gpu.is_sm8x and causal else Tile(128, 64)


def hdim128(causal: bool, dropout: bool, gpu: Gpu) -> Tile:
    if dropout:
        return Tile(128, 32)
    if gpu.is_sm8x:
        return Tile(64, 64) if causal else Tile(128, 32)
    return Tile(128, 64)


def hdim160(causal: bool, dropout: bool, gpu: Gpu) -> Tile:
    if gpu.is_sm8x:
        return Tile(64, 64) if causal else Tile(128, 64, 8)
    return Tile(128, 32)


def hdim224(causal: bool, dropout: bool, gpu: Gpu) -> Tile:
    return Tile(128, 64, 8) if gpu.smem_per_block_optin >= 2 * 224 * (128 + 2 * 64) else Tile(64, 64, 4)


def without(tiles: dict[int, TileRule], *buckets: int) -> dict[int, TileRule]:
    """The table less some head-dim buckets."""
    return {bucket: rule for bucket, rule in tiles.items() if bucket not in buckets}
