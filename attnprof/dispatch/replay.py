"""An attention call as Python that makes it, for the libraries whose functions are called alike."""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.model import AttentionCall


@dataclass(frozen=True, slots=True)
class ReplaySource:
    """``imports`` and ``lines`` that define tensors of ``dtype`` on ``device`` and a function ``call()``."""

    imports: tuple[str, ...]
    lines: tuple[str, ...]


def tensor(name: str, *sizes: int) -> str:
    """A line that makes a random tensor."""
    return f"{name} = torch.randn({', '.join(map(str, sizes))}, dtype=dtype, device=device)"


def flash_attn_source(call: AttentionCall, module: str, *, num_splits: bool) -> ReplaySource | None:
    """The call by the functions of flash_attn's interface; None where a record leaves out what they need.

    ``num_splits``: its plain functions take the split count too.
    """
    name = {
        "fwd": "flash_attn_func",
        "varlen_fwd": "flash_attn_varlen_func",
        "fwd_kvcache": "flash_attn_with_kvcache",
    }
    function = name.get(call.entry)
    heads, heads_k, dim, dim_v = (
        call.num_heads,
        call.num_heads_k,
        call.head_dim,
        call.head_dim_v or call.head_dim,
    )
    plain = {"softcap": call.softcap, "causal": call.causal, "window_size": call.window}
    options = {key: value for key, value in plain.items() if value not in (0.0, False, (-1, -1))}
    if call.num_splits and (num_splits or call.entry == "fwd_kvcache"):
        options["num_splits"] = call.num_splits
    if function is None or call.alibi or call.dropout_p or call.attention_chunk or call.scheduler_metadata:
        return None
    given = ", ".join(f"{key}={value}" for key, value in options.items())
    more = f", {given}" if given else ""
    imports: tuple[str, ...] = (f"from {module} import {function}",)
    if call.entry == "fwd":
        tensors = (
            tensor("q", call.batch, call.seqlen_q, heads, dim),
            tensor("k", call.batch, call.seqlen_k, heads_k, dim),
            tensor("v", call.batch, call.seqlen_k, heads_k, dim_v),
        )
        return ReplaySource(imports, (*tensors, *_function(f"{function}(q, k, v{more})")))
    if call.entry == "varlen_fwd" and not call.page_block_size:
        lengths = call.seqlens_q or ((call.seqlen_q,) if call.batch == 1 else ())
        lengths_k = call.seqlens_k or ((call.seqlen_k,) if call.batch == 1 else ())
        if len(lengths) != len(lengths_k) or not lengths:
            return None
        made = (
            tensor("q", sum(lengths), heads, dim),
            tensor("k", sum(lengths_k), heads_k, dim),
            tensor("v", sum(lengths_k), heads_k, dim_v),
            f"lengths_q, lengths_k = {list(lengths)}, {list(lengths_k)}",
            "cu_q, cu_k = (",
            "    torch.tensor([0, *accumulate(one)], dtype=torch.int32, device=device)",
            "    for one in (lengths_q, lengths_k)",
            ")",
        )
        packed = f"q, k, v, cu_q, cu_k, {call.seqlen_q}, {call.seqlen_k}"
        return ReplaySource(
            ("from itertools import accumulate", *imports), (*made, *_function(f"{function}({packed}{more})"))
        )
    if (
        call.entry == "fwd_kvcache"
        and not call.page_block_size
        and not call.cache_batch_idx
        and not call.seqlen_knew
    ):
        cached = (
            tensor("q", call.batch, call.seqlen_q, heads, dim),
            tensor("k", call.batch, call.seqlen_k, heads_k, dim),
            tensor("v", call.batch, call.seqlen_k, heads_k, dim_v),
        )
        held = (
            f"torch.tensor({list(call.seqlens_k)}, dtype=torch.int32, device=device)"
            if call.seqlens_k
            else ""
        )
        if call.cache_seqlens and not call.seqlens_k:
            return None
        cache = (f"cache_seqlens = {held}",) if held else ()
        also = ", cache_seqlens=cache_seqlens" if held else ""
        return ReplaySource(imports, (*cached, *cache, *_function(f"{function}(q, k, v{also}{more})")))
    return None


def _function(expression: str) -> tuple[str, ...]:
    return ("", "", "def call():", f"    return {expression}")
