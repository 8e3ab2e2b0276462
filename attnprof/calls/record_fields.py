"""What a line of calls.jsonl must hold before anything is computed from it."""

from __future__ import annotations

from typing import Any

from attnprof.files.untrusted import require_shape
from attnprof.model import PHASES

_SHAPE = {
    "seq": int, "step": int, "layer": int, "phase": str, "function": str, "library": str, "entry": str,
    "backend": str, "device": str, "dtype": str, "q": [int], "k": [int], "v": [int], "k_new": [int],
    "block_table": [int], "window": [int], "causal": (bool, int), "softcap": (int, float),
    "dropout_p": (int, float), "alibi": (bool, int), "return_softmax": (bool, int), "num_splits": int,
    "batch": int, "max_seqlen_q": int, "max_seqlen_k": int, "has_cache_seqlens": (bool, int),
    "cache_batch_idx": (bool, int), "pack_gqa": (bool, int), "attention_chunk": int, "sm_margin": int,
    "process": int, "not_described": str, "raised": str, "seqlens_q": [int], "seqlens_k": [int],
    "lengths_of": str, "stage": str, "cuda_graph": (bool, int), "fixed_split_size": int,
    "disable_split_kv": (bool, int), "index_topk": int, "extra_cache": (bool, int), "extra_topk": int,
    "extra_counted": (bool, int), "counted": (bool, int), "tensor_cores": (bool, int),
    "uniform_q_len": int, "fixed_uniform_q_len": (bool, int), "max_seq_len": int,
    "older_half": (bool, int), "unified": (bool, int),
}  # fmt: skip
_ALWAYS = ("seq", "phase", "library", "entry", "dtype", "causal", "dropout_p")
_OF_FLASH = ("q", "k", "v", "window", "softcap", "alibi", "return_softmax")
_OF_UNDESCRIBED = ("seq", "phase", "library", "entry")
_OF_ENTRY: dict[str, tuple[str, ...]] = {
    "sdpa": (),
    "fwd": _OF_FLASH,
    "varlen_fwd": (*_OF_FLASH, "batch"),
    "fwd_kvcache": (*_OF_FLASH, "has_cache_seqlens", "cache_batch_idx"),
    "batch_paged": (*_OF_FLASH, "batch"),
}
_KEYS = ("step", "layer", "q", "k", "v")  # which may be null
_RANKS = {"fwd": (4,), "varlen_fwd": (3,), "fwd_kvcache": (3, 4), "batch_paged": (3,)}  # of q


def require_record(fields: dict[str, Any]) -> None:
    """Raises ValueError naming the field that is missing, or that no recorder writes so."""
    require_shape(fields, _SHAPE, "the record")
    entry = fields.get("entry")
    if entry not in _OF_ENTRY:
        raise ValueError(f"entry {entry!r} is none of {', '.join(_OF_ENTRY)}")
    told = fields.get("not_described") is None
    always, keys = ((*_ALWAYS, *_OF_ENTRY[entry]), _KEYS) if told else (_OF_UNDESCRIBED, _KEYS[:2])
    absent = [name for name in always if fields.get(name) is None]
    absent += [name for name in keys if name not in fields]
    if absent:
        raise ValueError(f"{absent[0]} is missing")
    if fields["phase"] not in PHASES:
        raise ValueError(f"phase {fields['phase']!r} is none of {', '.join(PHASES)}")
    for name in ("seq", "process", "step", "layer", "batch", "max_seqlen_q", "max_seqlen_k"):
        if (fields.get(name) or 0) < 0:
            raise ValueError(f"{name} is {fields[name]}")
    for name in ("q", "k", "v") if told else ():
        _require_sizes(entry, name, fields)
    for name, length in (("window", (2,)), ("block_table", (2,)), ("k_new", (3, 4))):
        if fields.get(name) is not None and len(fields[name]) not in length:
            raise ValueError(f"{name} has {len(fields[name])} numbers")


def _require_sizes(entry: str, name: str, fields: dict[str, Any]) -> None:
    """A tensor's sizes: as many as the entry takes, and at least one head of at least one element."""
    sizes = fields[name]
    if sizes is None:
        return
    if entry == "sdpa":
        wrong = any(size < -1 or size == 0 for size in sizes[1::2]) or any(size < -1 for size in sizes)
    else:
        ranks = _RANKS[entry] if name == "q" else (3, 4) if entry == "varlen_fwd" else (4,)
        wrong = len(sizes) not in ranks or min(sizes) < 0 or 0 in sizes[-2:]
    if wrong:
        raise ValueError(f"{name} has the shape {sizes}")
