"""What an engine decides by, and what it decides: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attnprof.model import AttentionCall, Entry, Gpu, Prediction

Sm = tuple[int, int]
DTYPES = ("bf16", "fp16", "fp32")
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Layer:
    """An attention layer as an engine is configured to run it.

    ``kv_dtype`` and ``attn_type`` are the engine's own words. ``block_size`` is in tokens, None where nobody
    gave one. ``head_dim`` of an ``mla`` layer is the width of its cache rows (576 for DeepSeek's), of which
    ``qk_nope_head_dim`` and ``qk_rope_head_dim`` are the parts before they are absorbed. ``v_head_dim`` is
    None where V is as wide as K, or 128 of MLA.
    ``aiter``: VLLM_ROCM_USE_AITER asks for AITER's backends.  ``deepseek``: the model's architecture is
    DeepseekV3ForCausalLM.
    ``index_topk`` is a sparse model's, 0 for none. ``window`` is in tokens to the left, None for none.
    ``flash_attn_version`` and ``backend`` are what the user forces, None for nothing.
    """

    num_heads: int
    num_heads_k: int
    head_dim: int
    dtype: str = "bf16"
    kv_dtype: str = AUTO
    block_size: int | None = None
    sinks: bool = False
    mla: bool = False
    sparse: bool = False
    mm_prefix: bool = False
    per_head_scales: bool = False
    attn_type: str = "decoder"
    window: int | None = None
    non_causal: bool = False
    batch_invariant: bool = False
    alibi: bool = False
    softcap: float = 0.0
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int | None = None
    index_topk: int = 0
    flash_attn_version: int | None = None
    backend: str | None = None
    deepseek: bool = False
    aiter: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A batch that the engine runs: lengths in tokens. ``cuda_graph``: it is replayed from a full graph.

    ``seqlen_q`` and ``seqlen_k`` are the longest; ``seqlens_q`` and ``seqlens_k`` each request's, () where
    all are taken to be as long. ``drafts``: the queries of each request are a draft model's tokens, which the
    step verifies, and no prompt.
    """

    batch: int
    seqlen_q: int
    seqlen_k: int
    cuda_graph: bool = False
    seqlens_q: tuple[int, ...] = ()
    seqlens_k: tuple[int, ...] = ()
    drafts: bool = False

    @property
    def each_q(self) -> tuple[int, ...]:
        """Each request's queries."""
        return self.seqlens_q or (self.seqlen_q,) * self.batch

    @property
    def each_k(self) -> tuple[int, ...]:
        """Each request's keys, those of the cache and of its queries."""
        return self.seqlens_k or (self.seqlen_k,) * self.batch


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A backend that is not taken, and every reason; () where it is valid and another is taken."""

    backend: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend that an engine takes, None where none is valid; the others in the order of its list."""

    backend: str | None
    why: str
    others: tuple[RuledOut, ...]


PREFILL_BACKEND = "prefill backend"  # the rule of a note: MLA's prompts are attended by another than decode


@dataclass(frozen=True, slots=True)
class Note:
    """One step from the engine to the call: what was decided, what it gave, and why."""

    rule: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Reached:
    """The call that a backend makes, and the version of its library; "" for the library's default.

    ``call`` is None where no modelled library stands for the backend; ``why_not`` says why. ``more``: the
    further calls of the layer in the same step, in their order, of the same library and version.
    """

    notes: tuple[Note, ...]
    call: AttentionCall | None = None
    version: str = ""
    why_not: str = ""
    more: tuple[AttentionCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Further:
    """A further call of a layer in a step, and its library's prediction; None as in :class:`Outcome`."""

    call: AttentionCall
    prediction: Prediction | None = None
    not_predicted: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an engine does with a layer and a step.

    ``call`` and ``version``: what reaches the attention library, None where no library of ours stands for
    it. ``prediction`` is that library's, None where its launches are not predicted, and ``not_predicted``
    says why in one sentence. ``more``: the layer's further calls in the step, in their order.
    """

    engine: str
    version: str
    gpu: Gpu
    layer: Layer
    step: Step
    choice: Choice
    notes: tuple[Note, ...] = ()
    call: AttentionCall | None = None
    library_version: str | None = None
    prediction: Prediction | None = None
    not_predicted: str = ""
    more: tuple[Further, ...] = ()

    @property
    def num_splits(self) -> int | None:
        """Splits of the keys of a sequence, at most; None where that is not predicted."""
        return None if self.prediction is None else self.prediction.num_splits


def call_of(library: str, entry: Entry, layer: Layer, step: Step, **fields: Any) -> AttentionCall:
    """The call that a layer makes in a step; ``fields`` are those that its engine decides."""
    said: dict[str, Any] = {
        "window": (-1, -1) if layer.window is None else (layer.window - 1, 0),
        "softcap": layer.softcap,
        "cuda_graph": step.cuda_graph,
        "seqlens_q": step.seqlens_q,
        "seqlens_k": step.seqlens_k,
        "total_q": sum(step.seqlens_q) or None,
    }
    sizes = {
        "seqlen_k": step.seqlen_k, "num_heads": layer.num_heads, "num_heads_k": layer.num_heads_k,
        "head_dim": layer.head_dim,
    }  # fmt: skip
    return AttentionCall(library, entry, step.batch, step.seqlen_q, **(sizes | said | fields))
