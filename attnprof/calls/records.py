"""calls.jsonl: what a run recorded of each attention call, and the same call as another library takes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnprof.calls.call_files import read_json_lines
from attnprof.calls.kv_read import KvRead, kv_read
from attnprof.calls.record_fields import require_record
from attnprof.calls.request_lengths import request_lengths
from attnprof.dispatch.libraries import ON_GPU, entry_on_gpu
from attnprof.dispatch.libraries import library as library_of
from attnprof.dispatch.library import FP8
from attnprof.errors import RunError, UsageError
from attnprof.model import AttentionCall, Library


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One attention call as it entered a library: ``fields`` is its line of calls.jsonl.

    ``step`` and ``layer`` are None outside a model forward.
    """

    seq: int
    step: int | None
    phase: str
    layer: int | None
    fields: dict[str, Any]

    @property
    def library(self) -> Library:
        """The library the call entered."""
        library: Library = self.fields["library"]
        return library

    @property
    def process(self) -> int:
        """Which process of the run made it: 0 for the first, and where there is one alone."""
        return int(self.fields.get("process") or 0)

    def kv_read(self) -> KvRead | None:
        """What it reads of K and V, as far as its record tells."""
        return kv_read(self.fields)

    @property
    def on_cuda(self) -> bool:
        """Whether the call's tensors lived on an NVIDIA GPU."""
        return _on_cuda(self.fields)


@dataclass(frozen=True, slots=True)
class NotModelled:
    """Why a recorded call has no prediction."""

    why: str


def read_records(path: Path) -> list[CallRecord]:
    """The records of a run, by ``seq``. Raises RunError naming the line that is none."""
    records = []
    try:
        for number, fields in read_json_lines(path, regular=True):
            try:
                require_record(fields)
            except ValueError as error:
                raise RunError(
                    f"{path}:{number}: no attention call record: {error}",
                    hint="the run is damaged: record it again",
                ) from error
            records.append(
                CallRecord(fields["seq"], fields["step"], fields["phase"], fields["layer"], fields)
            )
    except UsageError as error:
        raise RunError(error.message, hint="the run is damaged: record it again") from error
    return sorted(records, key=lambda record: record.seq)


def attention_call(record: CallRecord, library: Library) -> AttentionCall | NotModelled:
    """The call that ``library`` receives for this record.

    The record's own library takes it as recorded. A scaled_dot_product_attention call without mask is what
    transformers hands to ``flash_attn_func`` for the same inputs, so it has a flash_attn form too.
    """
    fields = record.fields
    if fields.get("not_described") is not None:
        return NotModelled(f"not described: {fields['not_described']}")
    if fields["entry"] == "sdpa":
        return _from_sdpa(fields, library)
    if fields["library"] in ON_GPU and fields["library"] != library and entry_on_gpu(library):
        # On a CPU the dtype says nothing of the GPU that is predicted for.
        fields = {**fields, "library": library, "entry": entry_on_gpu(library), "dtype": "bf16"}
    if fields["library"] != library:
        return NotModelled(f"the call went to {fields['library']}, not to {library}")
    taken_by = library_of(library)
    if _dtype(fields) not in taken_by.dtypes:
        return NotModelled(f"dtype {fields['dtype']}")
    if why := taken_by.not_modelled(fields):
        return NotModelled(why)
    builders = {
        "fwd": _from_fwd,
        "varlen_fwd": _from_varlen,
        "fwd_kvcache": _from_kvcache,
        "batch_paged": _from_paged,
    }
    return builders[fields["entry"]](fields, library)


def _from_sdpa(fields: dict[str, Any], library: Library) -> AttentionCall | NotModelled:
    q, k, v = fields["q"], fields["k"], fields["v"]
    backend = fields.get("backend")
    if library == "torch" and backend not in (None, "flash"):
        return NotModelled(f"torch chose the {backend} backend, whose launches attnprof does not model")
    if fields.get("mask") is not None:
        return NotModelled("an attention mask was passed, which flash kernels do not take")
    if q is None or len(q) != 4 or -1 in (*q, *k):
        return NotModelled(f"q of shape {q} is no batch x heads x length x head_dim")
    if q[3] != v[3]:
        return NotModelled(f"head_dim of q ({q[3]}) and v ({v[3]}) differ")
    causal = bool(fields["causal"])
    if causal and library != "torch" and q[2] != k[2] and q[2] != 1:
        return NotModelled("torch aligns a causal mask top left, flash_attn bottom right")
    # On a CPU the dtype says nothing of the GPU that is predicted for, where only 16 bit are accepted.
    dtype: Any = fields["dtype"] if fields["dtype"] in ("bf16", "fp16") or _on_cuda(fields) else "bf16"
    if dtype not in ("bf16", "fp16", "fp32"):
        return NotModelled(f"dtype {dtype}")
    return AttentionCall(
        library=library,
        entry="fwd",
        batch=q[0],
        seqlen_q=q[2],
        seqlen_k=k[2],
        num_heads=q[1],
        num_heads_k=k[1],
        head_dim=-(-q[3] // 8) * 8,
        dtype=dtype,
        causal=causal,
        dropout_p=float(fields["dropout_p"]),
    )


def _on_cuda(fields: dict[str, Any]) -> bool:
    return str(fields.get("device", "")).startswith("cuda")


def _dtype(fields: dict[str, Any]) -> str:
    """The dtype as an AttentionCall has it."""
    return "fp8" if fields["dtype"] == FP8 else str(fields["dtype"])


def _common(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "dtype": _dtype(fields),
        "causal": bool(fields["causal"]),
        "window": tuple(fields["window"]),
        "softcap": float(fields["softcap"]),
        "alibi": bool(fields["alibi"]),
        "dropout_p": float(fields["dropout_p"]),
        "return_softmax": bool(fields["return_softmax"]),
        "num_splits": int(fields.get("num_splits") or 0),
        **library_of(fields["library"]).arguments(fields),
    }


def _from_fwd(fields: dict[str, Any], library: Library) -> AttentionCall:
    q, k = fields["q"], fields["k"]
    return AttentionCall(library, "fwd", q[0], q[1], k[1], q[2], k[2], q[3], **_common(fields))


def _from_varlen(fields: dict[str, Any], library: Library) -> AttentionCall | NotModelled:
    q, k = fields["q"], fields["k"]
    if fields["max_seqlen_q"] is None or fields["max_seqlen_k"] is None:
        return NotModelled("max_seqlen was a tensor that was written to before it could be read")
    paged = fields.get("block_table") is not None
    return AttentionCall(
        library,
        "varlen_fwd",
        fields["batch"],
        int(fields["max_seqlen_q"]),
        int(fields["max_seqlen_k"]),
        q[1],
        k[2] if paged else k[1],
        q[2],
        total_q=q[0],
        page_block_size=k[1] if paged else None,
        **request_lengths(fields, fields["batch"]),
        **_common(fields),
    )


def _from_paged(fields: dict[str, Any], library: Library) -> AttentionCall | NotModelled:
    q, k, batch = fields["q"], fields["k"], fields["batch"]
    taken_by, lengths = library_of(library), request_lengths(fields, batch)
    queries, keys = fields.get("max_seqlen_q"), fields.get("max_seqlen_k")
    if all(lengths.values()):
        queries, keys = max(lengths["seqlens_q"]), max(lengths["seqlens_k"])
    elif not taken_by.from_maxima or queries is None or keys is None:
        return NotModelled("the lengths of its requests lay on the GPU, and no step stated them")
    keys = fields.get("max_seq_len") or keys  # what the library was told, whatever the requests have
    given: dict[str, Any] = {
        "cuda_graph": bool(fields.get("cuda_graph")),
        "backend": fields.get("backend") or "",
        "fixed_split_size": fields.get("fixed_split_size"),
        "disable_split_kv": bool(fields.get("disable_split_kv")),
        "uniform_q_len": fields.get("uniform_q_len") or 0,
        "fixed_uniform_q_len": bool(fields.get("fixed_uniform_q_len")),
        "head_dim_v": fields["v"][-1] if fields["v"] and fields["v"][-1] != q[2] else None,
        **lengths,
        **_common(fields),  # with what the library alone takes, or spells otherwise
    }
    return AttentionCall(
        library,
        taken_by.entry_of(fields),
        batch,
        queries,
        keys,
        q[1],
        k[2],
        q[2],
        total_q=q[0],
        page_block_size=k[1],
        **given,
    )


def _from_kvcache(fields: dict[str, Any], library: Library) -> AttentionCall | NotModelled:
    q, k, table, k_new = fields["q"], fields["k"], fields.get("block_table"), fields.get("k_new")
    packed = len(q) == 3  # flash_attn_3 takes packed queries over a cache
    batch, seqlen_q = (fields.get("batch"), fields.get("max_seqlen_q")) if packed else q[:2]
    if batch is None or seqlen_q is None or (k_new and len(k_new) == 3):
        return NotModelled("the lengths of the packed batch are not in its record")
    return AttentionCall(
        library,
        "fwd_kvcache",
        batch,
        seqlen_q,
        table[1] * k[1] if table else k[1],
        q[-2],
        k[2],
        q[-1],
        total_q=q[0] if packed else None,
        page_block_size=k[1] if table else None,
        seqlen_knew=k_new[1] if k_new else None,
        cache_seqlens=bool(fields["has_cache_seqlens"]),
        cache_batch_idx=bool(fields["cache_batch_idx"]),
        **request_lengths(fields, batch),
        **_common(fields),
    )
