"""Which backend of FlashInfer takes a call, and what ruled out the others.

Source: flashinfer/utils.py ``determine_attention_backend``, ``is_fa3_backend_supported``,
``is_fa3_prefill_head_dim_supported``, ``determine_mla_backend``; decode.py ``_auto_decode_prefers_cudnn`` and
``resolved_backend``; prefill.py. Read, not run: they ask a GPU. What a call does not state here (a position
encoding, FP16 reduction, a custom mask) leads to fa2 as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.model import AttentionCall, Entry, Gpu, Reason

TRTLLM_GEN, XQA = "trtllm-gen", "xqa"
BACKENDS: dict[Entry, tuple[str, ...]] = {  # what is modelled of each entry
    "batch_paged": ("fa2", "fa3", TRTLLM_GEN),
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


def choose(call: AttentionCall, gpu: Gpu) -> Choice:
    """The backend that is asked for, or that ``auto`` takes."""
    if call.backend and call.backend != "auto":
        return Choice(call.backend, "the caller asks for it")
    if call.entry == "varlen_fwd":
        return Choice(TRTLLM_GEN, "trtllm_ragged_attention_deepseek's, unless it is asked for cute-dsl")
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


def prefers_cudnn(call: AttentionCall, gpu: Gpu) -> bool:
    """Whether ``auto`` of a decode wrapper with tensor cores leaves fa2 for cuDNN, where that is installed.

    call: a batch_paged of drafts.  Source: ``_auto_decode_prefers_cudnn``.
    """
    group = call.num_heads // call.num_heads_k
    page = call.page_block_size or 0
    least, most = _FROST_ROWS
    return (
        gpu.sm_major == 10
        and gpu.sm_minor in (0, 3)
        and call.dtype in ("bf16", "fp16")
        and call.head_dim == 128
        and call.softcap <= 0
        and call.window[0] < 0
        and not call.cuda_graph
        and not (call.fixed_split_size or call.disable_split_kv)
        and 128 % group == 0
        and page > 0
        and page % 8 == 0
        and (128 % page == 0 or page % 128 == 0)
        and _FROST_DRAFTS[0] <= call.seqlen_q <= _FROST_DRAFTS[1]
        and least <= call.seqlen_q * group <= most
        and call.batch * call.num_heads_k >= _FROST_UNITS
    )
