"""The values that travel between the stages. No I/O, no torch, no numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Library = str  # a name in attnprof.dispatch.libraries
Entry = Literal[
    "fwd", "varlen_fwd", "fwd_kvcache",
    # flashinfer's
    "batch_paged", "batch_ragged", "batch_decode", "batch_mla", "single_prefill", "single_decode",
]  # fmt: skip
Dtype = Literal["bf16", "fp16", "fp32", "fp8", "nvfp4"]
# By their code in a timeline. "other" is outside every step, "unknown" where it could not be told.
PHASES = ("other", "prefill", "decode", "mixed", "encode", "draft", "unknown")
STEP_PHASES = PHASES[1:6]  # what a model forward is
MODULES = "ATTNPROF_MODULES"  # the environment variable with which a process records modules: "1"
# By the code that a recorded range of a module carries; 0 is a module of no known kind.
MODULE_KINDS = (
    "", "attention", "MLP", "router", "experts", "norm", "embedding", "LM head", "sampling",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gpu:
    """What dispatch needs to know of a GPU.

    ``num_sms`` counts streaming multiprocessors, or compute units of an AMD GPU, whose compute capability is
    its gfx number's first two; shared memory (LDS) is in bytes, per SM and per block (opt-in).
    """

    name: str
    sm_major: int
    sm_minor: int
    num_sms: int
    smem_per_sm: int
    smem_per_block_optin: int
    vendor: Literal["nvidia", "amd"] = "nvidia"

    def __post_init__(self) -> None:
        if self.num_sms < 1:
            raise ValueError(f"num_sms must be at least 1, not {self.num_sms}")

    @property
    def units(self) -> str:
        """What ``num_sms`` counts, as the vendor calls it."""
        return "CUs" if self.vendor == "amd" else "SMs"

    @property
    def is_sm8x(self) -> bool:
        """Ampere or Ada without the A100's shared memory: sm 8.x with x > 0."""
        return self.vendor == "nvidia" and self.sm_major == 8 and self.sm_minor > 0


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call into an attention library, as the caller made it.

    Lengths are in tokens, ``window`` is (left, right) with -1 for none.
    ``seqlen_q`` and ``seqlen_k`` are the maxima of a packed batch for ``varlen_fwd``;
    ``seqlen_k`` is the cache capacity for ``fwd_kvcache``: that is what the library dispatches on.
    ``return_softmax``: the softmax is asked for, or of AITER's functions its log-sum-exp.
    ``num_splits`` is the caller's argument, 0 for automatic. ``total_q`` is the number of packed queries,
    None where each of the ``batch`` sequences has ``seqlen_q``.

    flash_attn_3 only: its plain and varlen functions take ``num_splits`` 0 for their default of one split and
    -1 for automatic. ``head_dim_v`` is None where V is as wide as Q and K, ``pack_gqa`` where the library
    decides. ``attention_chunk`` is in tokens, ``sm_margin`` in SMs left free; ``scheduler_metadata``: the
    plan of get_scheduler_metadata is passed. ``has_qv``: queries against V are passed beside those against K,
    as absorbed MLA does, whose Q and K are the rotated part alone.

    ``seqlens_q`` and ``seqlens_k`` are each sequence's own lengths, () where only the maxima above are known.
    ``cuda_graph``: the call is made for a CUDA graph. flashinfer only: ``backend``, "" for its own choice,
    ``fixed_split_size`` in pages, ``disable_split_kv``; ``uniform_q_len``: queries that the planner is told
    each sequence has, 0 for none, and with ``fixed_uniform_q_len`` in all plans of the graph, or of
    vllm_triton those of a draft that room is kept for.
    ``kv_dtype``: a cache's that is of another than the queries, of trtllm-gen alone; "" for the same.
    ``index_topk``: keys that an indexer picks for each query of sparse MLA, 0 where all are attended;
    flash_mla's ``backend`` is then the cache's format, ``extra_topk`` the keys of a second cache;
    ``extra_counted``: each request's number of these is passed. aiter only: ``plan_batch``, requests that the
    plan passed has room for, None where it is of just these.
    """

    library: Library
    entry: Entry
    batch: int
    seqlen_q: int
    seqlen_k: int
    num_heads: int
    num_heads_k: int
    head_dim: int
    dtype: Dtype = "bf16"
    causal: bool = False
    window: tuple[int, int] = (-1, -1)
    softcap: float = 0.0
    alibi: bool = False
    dropout_p: float = 0.0
    return_softmax: bool = False
    num_splits: int = 0
    total_q: int | None = None
    page_block_size: int | None = None
    seqlen_knew: int | None = None
    cache_seqlens: bool = False
    cache_batch_idx: bool = False
    head_dim_v: int | None = None
    pack_gqa: bool | None = None
    attention_chunk: int = 0
    sm_margin: int = 0
    scheduler_metadata: bool = False
    has_qv: bool = False
    seqlens_q: tuple[int, ...] = ()
    seqlens_k: tuple[int, ...] = ()
    cuda_graph: bool = False
    backend: str = ""
    fixed_split_size: int | None = None
    disable_split_kv: bool = False
    uniform_q_len: int = 0
    fixed_uniform_q_len: bool = False
    index_topk: int = 0
    extra_topk: int = 0
    extra_counted: bool = False
    plan_batch: int | None = None
    kv_dtype: str = ""


@dataclass(frozen=True, slots=True)
class KernelLaunch:
    """One kernel launch: demangled name, grid and block (x, y, z), dynamic shared memory in bytes."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    dynamic_smem: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of a derivation: the rule's name, what it gave, and why in words."""

    rule: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the library should do with a call.

    ``error`` is the first line of the library's own refusal, else None.
    ``num_splits`` is None where the call is refused or launches nothing. ``backend`` is who takes the call
    where a library has several and was asked which; launches of others than its flash backend are not told.
    ``plan`` is what a library's planner answers for a batch, field by field, () for libraries without one.
    ``splits_of_requests``: how many splits of each request hold keys, () where all have ``num_splits``;
    ``all_lengths_known`` is False where only the longest was, and stood for all.
    """

    launches: tuple[KernelLaunch, ...] = ()
    num_splits: int | None = None
    error: str | None = None
    reasons: tuple[Reason, ...] = field(default=(), compare=False)
    backend: str | None = None
    plan: tuple[tuple[str, object], ...] = ()
    splits_of_requests: tuple[int, ...] = ()
    all_lengths_known: bool = True
