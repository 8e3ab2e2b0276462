"""Which backend of FlashInfer takes a call, and what ruled out the others.

Source: flashinfer/utils.py ``determine_attention_backend``, ``is_fa3_backend_supported``,
``is_fa3_prefill_head_dim_supported``, ``determine_mla_backend``; decode.py ``_auto_decode_prefers_cudnn`` and
``resolved_backend``; prefill.py ``_determine_auto_backend``, ``_blackwell_paged_auto_cudnn``. Read, not run:
they ask a GPU. What a call does not state here (a position encoding, FP16 reduction, a custom mask) leads to
fa2 as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnprof.dispatch.flashinfer.rules import Rules
from attnprof.model import AttentionCall, Entry, Gpu, Reason

TRTLLM_GEN, XQA = "trtllm-gen", "xqa"
BACKENDS: dict[Entry, tuple[str, ...]] = {  # what is modelled of each entry
    "batch_paged": ("fa2", "fa3", TRTLLM_GEN),
    "batch_ragged": ("fa2", "fa3"),
    "batch_decode": ("fa2", TRTLLM_GEN, XQA),
    "batch_mla": ("fa2", "fa3", TRTLLM_GEN, XQA),
    "varlen_fwd": (TRTLLM_GEN,),
    "single_prefill": ("fa2", "fa3"),
    "single_decode": ("fa2",),
}
_FA3_HEAD_DIMS = ((64, 64), (128, 128), (256, 256), (192, 128))
_FROST_DRAFTS = (2, 4)  # queries a sequence
_FROST_ROWS = (32, 128)  # of a thread block
_FROST_UNITS = 64
_SHORT = 64  # queries a sequence
_FROST_WIDE_UNITS = (96, 256)  # batch x KV heads, at head dim 256
_FROST_WIDE_GROUPS = (4, 8, 16)


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend, why it is taken, and per backend that is not, why."""

    name: str
    why: str
    others: tuple[tuple[str, str], ...] = ()

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """As steps of a derivation."""
        others = tuple(Reason(f"not {name}", "", why) for name, why in self.others)
        return (Reason("backend", self.name, self.why), *others)


def choose(call: AttentionCall, gpu: Gpu, rules: Rules) -> Choice:
    """The backend that is asked for, or that ``auto`` takes."""
    if call.backend and call.backend != "auto":
        return Choice(call.backend, "the caller asks for it")
    if call.entry == "varlen_fwd":
        return Choice(TRTLLM_GEN, "trtllm_ragged_attention_deepseek's, unless it is asked for cute-dsl")
    taken = _automatic(call, gpu, rules)
    cudnn = _prefers_cudnn(call, gpu, rules) if taken.name == "fa2" else ""
    return replace(taken, others=(*taken.others, ("cudnn", cudnn))) if cudnn else taken


def _automatic(call: AttentionCall, gpu: Gpu, rules: Rules) -> Choice:
    if call.entry in ("batch_decode", "single_decode"):
        return _decode(call, gpu)
    asked = (
        TRTLLM_GEN,
        "auto never takes it; vLLM and SGLang ask for it by name on SM 10.0 and 10.3",
    )
    if gpu.sm_major != 9:
        why = f"what auto takes on SM {gpu.sm_major}.{gpu.sm_minor}"
        return Choice("fa2", why, (("fa3", "it needs SM 9.0"), asked))
    dims = (call.head_dim, call.head_dim_v or call.head_dim)
    if call.entry != "batch_mla" and dims not in _FA3_HEAD_DIMS:
        known = "its head dims are 64, 128, 256 and 192/128"
        return Choice("fa2", "what auto takes for other head dims than fa3 has", (("fa3", known), asked))
    short = max((call.seqlen_q, *call.seqlens_q)) <= _SHORT and call.dtype != "fp8"
    if rules.short_on_fa2 and short and call.entry == "batch_paged" and not call.fixed_uniform_q_len:
        why = f"the prefill wrapper keeps batches of at most {_SHORT} queries a sequence off it"
        return Choice("fa2", "what auto takes for few queries on SM 9.0", (("fa3", why), asked))
    return Choice("fa3", "what auto takes on SM 9.0", (("fa2", "fa3 serves the call"), asked))


def _decode(call: AttentionCall, gpu: Gpu) -> Choice:
    """A decode wrapper without tensor cores: CUDA cores, or cuDNN for drafts."""
    tensor_cores = ("tensor cores", "use_tensor_cores is off: with it, the call is a batch_paged of fa2")
    if call.entry == "single_decode" or call.seqlen_q <= 1:
        never = "auto takes it for drafts alone, 2 to 4 queries a sequence"
        others = (tensor_cores, ("cudnn", never), (TRTLLM_GEN, "auto never takes it"))
        return Choice("fa2", "decode on CUDA cores", others)
    # Without tensor cores no other kernel has several queries, so cuDNN takes all it can.
    served = (
        gpu.sm_major == 10
        and gpu.sm_minor in (0, 3)
        and call.dtype in ("bf16", "fp16")
        and call.head_dim in (128, 256)
        and call.softcap <= 0
    )
    if served:
        why = "the decode kernel has one query a sequence; cudnn-frontend 1.30 or newer has to be installed"
        return Choice("cudnn", why, (("fa2", "it has no kernel for drafts on CUDA cores"),))
    return Choice("fa2", "cudnn serves drafts on SM 10.0 and 10.3 alone", (tensor_cores,))


def _prefers_cudnn(call: AttentionCall, gpu: Gpu, rules: Rules) -> str:
    """Why ``auto`` would leave fa2 for cuDNN where that is installed; "" where it would not.

    Source: ``_auto_decode_prefers_cudnn``, of a decode wrapper; of prompts ``_blackwell_paged_auto_cudnn``.
    """
    if call.entry not in ("batch_paged", "batch_decode"):
        return ""
    if (gpu.sm_major, gpu.sm_minor) not in ((10, 0), (10, 3)) or call.softcap > 0 or call.window[0] >= 0:
        return ""
    if call.dtype not in ("bf16", "fp16") or call.fixed_split_size or call.disable_split_kv:
        return ""
    if rules.more_on_cudnn and _prompts_on_cudnn(call, gpu):
        return (
            "the prefill wrapper would take it for such prompts, where keys are laid out HND and "
            "cudnn-frontend 1.32 and cuDNN 9.27 or newer are installed"
        )
    group, page = call.num_heads // call.num_heads_k, call.page_block_size or 0
    units, frontend = call.batch * call.num_heads_k, "where cudnn-frontend 1.30 or newer is installed"
    if page <= 0 or page % 8 or not (128 % page == 0 or page % 128 == 0):
        return ""
    if rules.more_on_cudnn and call.head_dim == 256:
        least, most = _FROST_WIDE_UNITS
        wide = call.seqlen_q == 1 and group in _FROST_WIDE_GROUPS and least <= units <= most
        return f"a decode wrapper would take it for such a step, {frontend}" if wide else ""
    drafts = (
        call.head_dim == 128
        and not call.cuda_graph
        and 128 % group == 0
        and _FROST_DRAFTS[0] <= call.seqlen_q <= _FROST_DRAFTS[1]
        and _FROST_ROWS[0] <= call.seqlen_q * group <= _FROST_ROWS[1]
        and units >= _FROST_UNITS
    )
    return f"a decode wrapper with tensor cores would take it for such drafts, {frontend}" if drafts else ""


def _prompts_on_cudnn(call: AttentionCall, gpu: Gpu) -> bool:
    queries = call.seqlens_q or (call.seqlen_q,) * call.batch
    keys = call.seqlens_k or (call.seqlen_k,) * call.batch
    most_q, most_k = max(queries), max(keys)
    behind = 64 <= most_q <= 1024 and 2048 <= most_k <= 32768 and most_k >= 4 * most_q
    whole = 1024 <= most_q <= 8192 and queries == keys and min(queries) > 0
    return (
        (behind or whole)
        and gpu.sm_minor == 0
        and call.entry == "batch_paged"
        and call.dtype == "bf16"
        and call.head_dim == 128
        and call.head_dim_v in (None, 128)
        and 1 <= call.batch <= 4
        and 8 <= call.num_heads <= 64
        and call.num_heads // call.num_heads_k in (1, 2, 4, 8, 16)
        and call.page_block_size == 16
        and call.num_heads * sum(q * k for q, k in zip(queries, keys, strict=True)) >= 8 << 20
    )
