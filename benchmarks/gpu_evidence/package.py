"""Step c: the same through flash_attn and flash_attn_3 where they are installed, with their KV caches."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnprof.dispatch import default_version
from attnprof.machine.library_versions import versions
from attnprof.model import AttentionCall, Library
from benchmarks.build_flash_attn import BUILT
from benchmarks.gpu_evidence.calls import cumulative, matrix, random_tensor, shapes
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.matrix import observe_matrix

_PAGE = 256
Thunk = Callable[[AttentionCall], Callable[[], Any]]


def run(evidence: Evidence) -> None:
    """fwd, varlen and kvcache calls of each installed package."""
    installed = versions()
    packages: tuple[tuple[Library, Thunk, int], ...] = (
        ("flash_attn", flash_attn_thunk, 1),
        ("flash_attn_3", flash_attn_3_thunk, 3),
    )
    if not any(installed[library] for library, _, _ in packages):
        evidence.skip(
            "flash_attn", "the flash_attn package is not installed (python -m benchmarks.build_flash_attn)"
        )
        return
    for library, thunk, seed in packages:
        version = installed[library]
        if version is not None:
            calls = with_caches(matrix(evidence.scale.matrix_calls, library, seed=seed))
            if library == "flash_attn":
                calls = within(built(), calls)
            observe_matrix(evidence, "flash_attn", library, version, calls, thunk)


def built() -> dict[str, list[Any]]:
    """The head dims and data types of a flash_attn that was built in part; empty for a whole one."""
    package = find_spec("flash_attn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        note = Path(folder).parent / BUILT
        if note.exists():
            found: dict[str, list[Any]] = json.loads(note.read_text())
            return found
    return {}


def within(part: dict[str, list[Any]], calls: list[AttentionCall]) -> list[AttentionCall]:
    """The calls with head dims and data types that were built, in turn, each once."""
    head_dims, dtypes = part.get("head_dims"), part.get("dtypes")
    if not head_dims or not dtypes:
        return calls
    fitted = (
        replace(call, head_dim=head_dims[number % len(head_dims)], dtype=dtypes[number % len(dtypes)])
        for number, call in enumerate(calls)
    )
    return list(dict.fromkeys(fitted))


def version_at_hand() -> str:
    """Of flash_attn as it is installed, else the newest whose rules are known."""
    return versions()["flash_attn"] or default_version("flash_attn")


def with_caches(calls: list[AttentionCall]) -> list[AttentionCall]:
    """Four in ten dense calls turned into kvcache calls: plain, appending, paged, num_splits given."""
    rng = random.Random(2)
    turned = []
    for call in calls:
        dense = call.entry == "fwd" and call.dropout_p == 0 and call.window == (-1, -1) and not call.alibi
        if not dense or rng.random() > 0.4:
            turned.append(call)
            continue
        cache = replace(call, entry="fwd_kvcache", cache_seqlens=True)
        kind = rng.choice(("plain", "append", "paged", "splits"))
        if kind == "append":
            cache = replace(cache, seqlen_knew=call.seqlen_q)
        elif kind == "paged":
            pages = -(-call.seqlen_k // _PAGE)
            cache = replace(cache, page_block_size=_PAGE, seqlen_k=pages * _PAGE)
        elif kind == "splits":
            cache = replace(cache, num_splits=rng.choice((1, 2, 3, 8, 17, 128)))
        turned.append(cache)
    return turned


def flash_attn_thunk(call: AttentionCall) -> Callable[[], Any]:
    """Makes the call through flash_attn's public functions."""

    def make() -> Any:
        import flash_attn

        options: dict[str, Any] = {"causal": call.causal, "window_size": call.window}
        if call.softcap:
            options["softcap"] = call.softcap
        if call.alibi:
            options["alibi_slopes"] = _slopes(call)
        if call.entry == "fwd_kvcache":
            return _kvcache(flash_attn.flash_attn_with_kvcache, call, options, table="block_table")
        options["dropout_p"] = call.dropout_p
        return _dense(flash_attn.flash_attn_func, flash_attn.flash_attn_varlen_func, call, options)

    return make


def flash_attn_3_thunk(call: AttentionCall) -> Callable[[], Any]:
    """Makes the call through the functions of flash_attn_interface."""

    def make() -> Any:
        import flash_attn_interface as fa3

        options: dict[str, Any] = {"causal": call.causal, "window_size": call.window, "softcap": call.softcap}
        if call.entry == "fwd_kvcache":
            return _kvcache(fa3.flash_attn_with_kvcache, call, options, table="page_table")
        return _dense(fa3.flash_attn_func, fa3.flash_attn_varlen_func, call, options)

    return make


def _slopes(call: AttentionCall) -> Any:
    import torch

    return torch.rand(call.num_heads, device="cuda")


def _dense(
    plain: Callable[..., Any], varlen: Callable[..., Any], call: AttentionCall, options: dict[str, Any]
) -> Any:
    """The call through the plain or the packed function."""
    shape_q, shape_k = shapes(call)
    q, k, v = (random_tensor(call, *shape) for shape in (shape_q, shape_k, shape_k))
    if call.entry == "fwd":
        return plain(q, k, v, **options)
    cu_q, cu_k = (cumulative(call.batch, length) for length in (call.seqlen_q, call.seqlen_k))
    return varlen(q, k, v, cu_q, cu_k, call.seqlen_q, call.seqlen_k, **options)


def _kvcache(
    function: Callable[..., Any], call: AttentionCall, options: dict[str, Any], *, table: str
) -> Any:
    """The call through a KV cache; ``table`` is what the function calls its page table."""
    import torch

    heads = (call.num_heads_k, call.head_dim)
    used = call.seqlen_k - (call.seqlen_knew or 0)
    lengths = torch.full((call.batch,), used, device="cuda", dtype=torch.int32)
    if call.page_block_size:
        pages = call.seqlen_k // call.page_block_size
        cache_shape = (call.batch * pages, call.page_block_size, *heads)
        entries = torch.arange(call.batch * pages, device="cuda", dtype=torch.int32)
        options[table] = entries.view(call.batch, pages)
    else:
        cache_shape = (call.batch, call.seqlen_k, *heads)
    if call.seqlen_knew:
        new = (call.batch, call.seqlen_knew, *heads)
        options |= {"k": random_tensor(call, *new), "v": random_tensor(call, *new)}
    q = random_tensor(call, call.batch, call.seqlen_q, call.num_heads, call.head_dim)
    cache = (random_tensor(call, *cache_shape), random_tensor(call, *cache_shape))
    return function(q, *cache, cache_seqlens=lengths, num_splits=call.num_splits, **options)
