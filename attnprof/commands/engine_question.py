"""An engine, its layer and a step from command-line flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnprof.dispatch.engines import ENGINES
from attnprof.errors import UsageError

if TYPE_CHECKING:
    from attnprof.dispatch.engines.layer import Layer, Step

EngineOption = Annotated[
    str | None,
    typer.Option("--engine", metavar="NAME", help=f"Begin with what a server picks: {' or '.join(ENGINES)}."),
]
EngineVersionOption = Annotated[
    str | None,
    typer.Option(
        "--engine-version", metavar="X.Y.Z", help="The engine's version. Default: the newest known."
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Heads and head_dim of a model: qwen2.5-7b, llama-3-8b, …"),
]
CudaGraphOption = Annotated[
    bool,
    typer.Option("--cuda-graph", help="The step is replayed from a CUDA graph; flashinfer pads."),
]
BatchInvariantOption = Annotated[
    bool,
    typer.Option(
        "--batch-invariant",
        help="The engine's batch-invariant or deterministic mode.",
    ),
]
KvDtypeOption = Annotated[
    str, typer.Option("--kv-dtype", metavar="NAME", help="The engine's name of the KV cache's dtype.")
]
SinksOption = Annotated[bool, typer.Option("--sinks", help="The layer has attention sinks.")]
MlaOption = Annotated[
    bool, typer.Option("--mla", help="Multi-head latent attention: head_dim is a cache row's, such as 576.")
]
SparseOption = Annotated[bool, typer.Option("--sparse", help="Sparse MLA, of 2,048 keys a query.")]
MmPrefixOption = Annotated[
    bool, typer.Option("--mm-prefix", help="Images attend in both directions (prefix LM).")
]
FlashVersionOption = Annotated[
    int | None,
    typer.Option("--flash-attn-version", metavar="2|3|4", help="The FlashAttention that the user forces."),
]
BackendOption = Annotated[
    str | None,
    typer.Option("--attention-backend", metavar="NAME", help="The attention backend that the user forces."),
]
AiterOption = Annotated[
    bool, typer.Option("--aiter", help="On AMD GPUs: vLLM is told to use AITER (VLLM_ROCM_USE_AITER=1).")
]
DraftTokensOption = Annotated[
    int | None,
    typer.Option(
        "--draft-tokens", min=2, metavar="N", help="The step verifies N tokens of a draft model a request."
    ),
]
TensorParallelOption = Annotated[
    int,
    typer.Option("--tensor-parallel", min=1, metavar="N", help="GPUs that share out the engine's heads."),
]
_TOPK = 2048
_ENGINE_ONLY = (
    "engine_version", "batch_invariant", "sinks", "mla", "sparse", "mm_prefix", "flash_attn_version",
    "attention_backend", "aiter", "draft_tokens",
)  # fmt: skip
_AN_ENGINES_OWN = {  # with their defaults
    "library": None, "version": None, "backend": "", "entry": "fwd", "num_splits": 0, "dropout_p": 0.0,
    "seqlen_knew": None, "window_right": -1,
}  # fmt: skip


def option(name: str) -> str:
    """The option that fills the flag ``name``."""
    return "--" + name.replace("_", "-")


def with_model(flags: dict[str, Any], default_heads: tuple[Any, Any]) -> dict[str, Any]:
    """The flags with the heads of ``--model``. Raises UsageError for an unknown one, and for two answers."""
    if flags.get("model") is None:
        return flags
    from attnprof.workloads.presets import PRESETS, find_preset
    from attnprof.workloads.served_models import SERVED

    served = SERVED.get(flags["model"].lower())
    preset = served or find_preset(flags["model"])
    if preset is None:
        raise UsageError(f"no model {flags['model']!r}", hint=f"known are {', '.join((*PRESETS, *SERVED))}")
    if served is not None and flags.get("engine") is None:
        raise UsageError(
            f"{flags['model']} is known to engines alone: how its layers call a library is theirs to say",
            hint="give --engine vllm or --engine sglang",
        )
    if (flags["num_heads"], flags["head_dim"]) != default_heads or flags["num_heads_k"] is not None:
        raise UsageError("--model and the flags of heads describe two layers", hint="give one of them")
    heads = {"num_heads": preset.num_heads, "num_heads_k": preset.num_heads_k, "head_dim": preset.head_dim}
    names = ("mla", "sparse", "sinks", "deepseek")
    kind = {name: getattr(served, name) for name in names} if served is not None else {}
    return flags | heads | {name: True for name, holds in kind.items() if holds}


def of_each_gpu(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags with the heads of one GPU of ``--tensor-parallel``. Raises UsageError for uneven shares."""
    size = flags["tensor_parallel"]
    if flags["num_heads"] % size:
        raise UsageError(f"{flags['num_heads']} heads cannot be shared out over {size} GPUs evenly")
    heads_k = max(1, flags["num_heads_k"] // size)
    return flags | {"num_heads": flags["num_heads"] // size, "num_heads_k": heads_k}


def require_engine(flags: dict[str, Any]) -> None:
    """Raises UsageError for a flag that only an engine answers, without one, and for a library with one."""
    given = [name for name in _ENGINE_ONLY if flags.get(name)]
    given += ["tensor_parallel"] if flags.get("tensor_parallel", 1) > 1 else []
    if flags.get("engine") is None:
        if given or flags.get("kv_dtype", "auto") != "auto":
            name = option(given[0] if given else "kv_dtype")
            raise UsageError(
                f"{name} is what an engine decides by", hint=f"give --engine {next(iter(ENGINES))}"
            )
        return
    for name, default in _AN_ENGINES_OWN.items():
        if flags.get(name, default) != default:
            raise UsageError(
                f"{option(name)} and --engine: an engine decides that by itself",
                hint="leave one of them out; --engine-version names the engine's version",
            )


def engine_question(
    flags: dict[str, Any], lengths: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[str, str | None, Layer, Step]:
    """(engine, version, layer, step) that the flags describe; heads are given.

    ``lengths``: each request's queries and keys, () where not given.
    """
    from attnprof.dispatch.engines.layer import Layer, Step

    forced = flags["flash_attn_version"]
    if forced not in (None, 2, 3, 4):
        raise UsageError(f"--flash-attn-version {forced} is none of 2, 3, 4")
    left = flags["window_left"]
    backend = flags["attention_backend"]
    layer = Layer(
        flags["num_heads"], flags["num_heads_k"], flags["head_dim"], flags["dtype"],
        kv_dtype=flags["kv_dtype"], block_size=flags["page_block_size"], sinks=flags["sinks"],
        mla=flags["mla"], sparse=flags["sparse"], mm_prefix=flags["mm_prefix"],
        window=None if left < 0 else left + 1, non_causal=not flags["causal"],
        batch_invariant=flags["batch_invariant"], alibi=flags["alibi"], softcap=flags["softcap"],
        index_topk=_TOPK if flags["sparse"] else 0, flash_attn_version=forced,
        v_head_dim=flags["head_dim_v"], backend=backend, deepseek=flags.get("deepseek", False),
        aiter=flags.get("aiter", False),
    )  # fmt: skip
    drafts, queries = flags["draft_tokens"], flags["seqlen_q"]
    if drafts is not None and (queries != 1 or lengths[0]):
        raise UsageError(
            "--draft-tokens and queries are two answers", hint="leave out --seqlen-q, --seqlens-q"
        )
    step = Step(
        flags["batch"], drafts or queries, flags["seqlen_k"], flags["cuda_graph"], *lengths,
        drafts is not None,
    )  # fmt: skip
    return flags["engine"], flags["engine_version"], layer, step
