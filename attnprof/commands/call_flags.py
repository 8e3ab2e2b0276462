"""One attention call from command-line flags, for every command that takes one."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from attnprof.commands.engine_question import (
    AiterOption,
    BackendOption,
    BatchInvariantOption,
    CudaGraphOption,
    DraftTokensOption,
    EngineOption,
    EngineVersionOption,
    FlashVersionOption,
    KvDtypeOption,
    MlaOption,
    MmPrefixOption,
    ModelOption,
    SinksOption,
    SparseOption,
    TensorParallelOption,
    engine_question,
    of_each_gpu,
    require_engine,
    with_model,
)
from attnprof.commands.options import GpuOption, LibraryOption, SmOption, SmsOption, VersionOption
from attnprof.commands.ranges import LARGEST
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Dtype

if TYPE_CHECKING:
    from attnprof.dispatch.engines.layer import Layer, Step
    from attnprof.model import Gpu

    CallFromFlags = tuple[AttentionCall, Gpu, str]
    EngineFromFlags = tuple[str, str | None, Layer, Step, Gpu]

_DEFAULT_HEADS, _DEFAULT_HEAD_DIM = 28, 128


def _flags(
    entry: Annotated[
        str,
        typer.Option(
            help="fwd (flash_attn_func), varlen_fwd or fwd_kvcache; of flashinfer batch_paged (prefill, and "
            "decode with tensor cores), batch_ragged, batch_decode, batch_mla, single_prefill or "
            "single_decode."
        ),
    ] = "fwd",
    batch: Annotated[int, typer.Option(min=1, help="Sequences.")] = 1,
    seqlen_q: Annotated[
        int, typer.Option(min=1, help="Queries per sequence (the longest, for varlen_fwd).")
    ] = 1,
    seqlen_k: Annotated[
        int | None, typer.Option(min=0, help="Keys per sequence; the cache's capacity for fwd_kvcache.")
    ] = None,
    seqlens_q: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Each request's queries, instead of --seqlen-q.")
    ] = None,
    seqlens_k: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…", help="Each request's keys: so many are the batch, the longest --seqlen-k."
        ),
    ] = None,
    num_heads: Annotated[
        int, typer.Option("--num-heads", "--heads", min=1, help="Query heads.")
    ] = _DEFAULT_HEADS,
    num_heads_k: Annotated[
        int | None,
        typer.Option("--num-heads-k", "--kv-heads", min=1, help="KV heads. Default: 4 of 28, else all."),
    ] = None,
    head_dim: Annotated[int, typer.Option(min=1, help="Elements per head.")] = _DEFAULT_HEAD_DIM,
    dtype: Annotated[str, typer.Option(help="bf16 or fp16, of several fp8, of XQA nvfp4.")] = "bf16",
    causal: Annotated[bool, typer.Option("--causal/--no-causal", help="Causal mask.")] = True,
    window_left: Annotated[int, typer.Option(min=-1, help="Keys visible to the left, -1 for all.")] = -1,
    window_right: Annotated[int, typer.Option(min=-1, help="Keys visible to the right, -1 for all.")] = -1,
    softcap: Annotated[float, typer.Option(min=0.0, help="Logit soft cap, 0 for none.")] = 0.0,
    alibi: Annotated[bool, typer.Option("--alibi", help="ALiBi slopes are passed.")] = False,
    dropout_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Dropout probability.")] = 0.0,
    num_splits: Annotated[
        int,
        typer.Option(
            min=-1,
            help="The caller's. 0: the function's default, in flash_attn_3 and 4 one split; -1: automatic.",
        ),
    ] = 0,
    page_block_size: Annotated[
        int | None,
        typer.Option("--page-block-size", "--block-size", min=1, help="Tokens per page of a paged KV cache."),
    ] = None,
    seqlen_knew: Annotated[int | None, typer.Option(min=1, help="New keys appended by fwd_kvcache.")] = None,
    head_dim_v: Annotated[
        int | None, typer.Option(min=1, help="Elements per head of V. Default: as K.")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="flashinfer: auto, fa2, fa3 or trtllm-gen.", show_default="its own choice")
    ] = "",
    library: LibraryOption = None,
    version: VersionOption = None,
    gpu: GpuOption = None,
    sms: SmsOption = None,
    sm: SmOption = None,
    model: ModelOption = None,
    engine: EngineOption = None,
    engine_version: EngineVersionOption = None,
    cuda_graph: CudaGraphOption = False,
    batch_invariant: BatchInvariantOption = False,
    kv_dtype: KvDtypeOption = "auto",
    sinks: SinksOption = False,
    mla: MlaOption = False,
    sparse: SparseOption = False,
    mm_prefix: MmPrefixOption = False,
    flash_attn_version: FlashVersionOption = None,
    attention_backend: BackendOption = None,
    tensor_parallel: TensorParallelOption = 1,
    aiter: AiterOption = False,
    draft_tokens: DraftTokensOption = None,
) -> None:
    """The flags themselves: what ``call_flags`` adds to a command."""


def call_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives ``command`` the flags of one call; it receives ``call_flags``, the flags' values by name.

    A flag that ``command`` declares itself stays its own.
    """
    own = inspect.signature(command).parameters
    flags = {name: flag for name, flag in inspect.signature(_flags).parameters.items() if name not in own}
    hints = get_type_hints(_flags, include_extras=True) | get_type_hints(command, include_extras=True)

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        for name in flags:
            _require_number("--" + name.replace("_", "-"), given[name])
        command(
            **{name: value for name, value in given.items() if name in own},
            call_flags={name: given[name] for name in flags},
        )

    names = [name for name in own if name != "call_flags"] + list(flags)
    parameters = [_keyword({**own, **flags}[name], hints[name]) for name in names]
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {name: hints[name] for name in names}
    return with_flags


def _require_number(flag: str, value: object) -> None:
    """Raises UsageError for a number that no library would be given."""
    if isinstance(value, int) and abs(value) > LARGEST:
        raise UsageError(f"{flag} does not fit 32 bits: {str(value)[:20]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{flag} is {value}, which is no number")


def _keyword(parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
    return parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY)


def _lengths(name: str, text: str | None) -> tuple[int, ...]:
    """Each request's length; () where the flag is not given."""
    try:
        found = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        found = (-1,)
    if any(not 0 <= length <= LARGEST for length in found):
        flag = "--" + name.replace("_", "-")
        raise UsageError(f"{flag} {str(text)[:40]!r} is no list of lengths", hint="give it as 4096,512,77")
    return found


def _of_lengths(lengths: dict[str, tuple[int, ...]], flags: dict[str, Any]) -> dict[str, int]:
    """The batch and maxima of requests whose lengths are given."""
    queries, keys = lengths["seqlens_q"], lengths["seqlens_k"]
    if queries and keys and len(queries) != len(keys):
        raise UsageError(f"--seqlens-q has {len(queries)} requests, --seqlens-k {len(keys)}")
    known = {"batch": len(queries) or len(keys)} if queries or keys else {}
    known |= {"seqlen_q": max(queries)} if queries else {}
    return known | ({"seqlen_k": max(keys)} if keys and flags["seqlen_k"] is None else {})


def default_num_heads_k(num_heads: int) -> int:
    """KV heads where none are given: Qwen2.5-7B's for its 28 query heads, else one per query head."""
    return 4 if num_heads == _DEFAULT_HEADS else num_heads


def call_from_flags(flags: dict[str, Any]) -> CallFromFlags:
    """(call, GPU, version) that the flags describe. Raises UsageError for a missing or unknown one."""
    from attnprof.calls.call_files import ENTRIES
    from attnprof.dispatch.libraries import DEFAULT_LIBRARY, entry_unless_given
    from attnprof.machine.library_versions import version_to_predict

    lengths = {name: _lengths(name, flags[name]) for name in ("seqlens_q", "seqlens_k")}
    flags, gpu = _checked(flags | _of_lengths(lengths, flags))
    if flags["entry"] not in ENTRIES:
        raise UsageError(f"--entry {flags['entry']!r} is none of {', '.join(ENTRIES)}")
    flags |= {"entry": entry_unless_given(flags["library"] or DEFAULT_LIBRARY, flags["entry"])}
    plain = (
        "entry",
        "batch",
        "seqlen_q",
        "seqlen_k",
        "num_heads",
        "head_dim",
        "dtype",
        "causal",
        "softcap",
        "alibi",
    )
    more = (
        "dropout_p",
        "num_splits",
        "page_block_size",
        "seqlen_knew",
        "head_dim_v",
        "cuda_graph",
        "backend",
    )
    call = AttentionCall(
        library=flags["library"] or DEFAULT_LIBRARY,
        num_heads_k=flags["num_heads_k"],
        window=(flags["window_left"], flags["window_right"]),
        cache_seqlens=flags["entry"] == "fwd_kvcache",
        total_q=sum(lengths["seqlens_q"]) or None,
        seqlens_q=lengths["seqlens_q"],
        seqlens_k=lengths["seqlens_k"],
        **{name: flags[name] for name in (*plain, *more)},
    )
    return call, gpu, flags["version"] or version_to_predict(call.library)


def engine_from_flags(flags: dict[str, Any]) -> EngineFromFlags:
    """(engine, version, layer, step, GPU) that the flags describe. Raises UsageError as for a call."""
    lengths = {name: _lengths(name, flags[name]) for name in ("seqlens_q", "seqlens_k")}
    flags, gpu = _checked(flags | _of_lengths(lengths, flags))
    each = (lengths["seqlens_q"], lengths["seqlens_k"])
    name, version, layer, step = engine_question(flags, each)
    return name, version, layer, step, gpu


def _checked(flags: dict[str, Any]) -> tuple[dict[str, Any], Gpu]:
    """The flags with heads in place, and the GPU."""
    from attnprof.gpus import DEFAULT_GPU, gpu_by_name, gpu_from_options

    require_engine(flags)
    if flags["seqlen_k"] is None:
        raise UsageError("--seqlen-k is missing", hint="give the number of keys, e.g. --seqlen-k 4096")
    if flags["dtype"] not in get_args(Dtype):
        raise UsageError(f"--dtype {flags['dtype']!r} is none of {', '.join(get_args(Dtype))}")
    flags = with_model(flags, (_DEFAULT_HEADS, _DEFAULT_HEAD_DIM))
    heads_k = flags["num_heads_k"] or default_num_heads_k(flags["num_heads"])
    gpu = gpu_from_options(flags["gpu"], flags["sms"], flags["sm"]) or gpu_by_name(DEFAULT_GPU)
    return of_each_gpu(flags | {"num_heads_k": heads_k}), gpu
