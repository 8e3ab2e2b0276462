"""The conditions under which F.scaled_dot_product_attention's fused backends can take a call, by their names.

Source: PyTorch, aten/src/ATen/native/transformers/sdp_utils_cpp.h and cuda/sdp_utils.cpp, where each is a
function of the same name. Conditions on nested tensors, strides, devices and disabled backends are left out:
inputs here are dense, contiguous, on one device, and nothing is disabled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from attnprof.nouns import count_of

Backend = Literal["flash", "efficient", "cudnn", "math"]
Where = Literal["flash", "efficient", "cudnn", "cpu"]
Sm = tuple[int, int]

TRAIN_WIDE = "check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89"

_MAX_GRID = 65535
_OLDEST_SM: Mapping[Where, Sm] = {"flash": (8, 0), "efficient": (5, 0), "cudnn": (8, 0)}


@dataclass(frozen=True, slots=True)
class SdpaInputs:
    """One call of F.scaled_dot_product_attention with 4-dimensional, dense query, key and value.

    ``head_dim`` is query's and key's, ``head_dim_v`` value's (None: the same), both before any padding.
    ``mask_shape`` is attn_mask's, None without one. ``requires_grad``: gradients are recorded and an input
    asks for one. Raises ValueError for a mask of fewer than two dimensions.
    """

    batch: int
    num_heads: int
    seqlen_q: int
    seqlen_k: int
    head_dim: int
    num_heads_k: int | None = None
    head_dim_v: int | None = None
    dtype: Literal["bf16", "fp16", "fp32", "fp64"] = "bf16"
    is_causal: bool = False
    mask_shape: tuple[int, ...] | None = None
    dropout_p: float = 0.0
    requires_grad: bool = False
    enable_gqa: bool = False

    def __post_init__(self) -> None:
        if self.mask_shape is not None and len(self.mask_shape) < 2:
            raise ValueError(f"attn_mask has shape {self.mask_shape}: at least two dimensions are needed")

    @property
    def heads_k(self) -> int:
        """num_heads_k, or num_heads where it was not given."""
        return self.num_heads if self.num_heads_k is None else self.num_heads_k

    @property
    def dims(self) -> tuple[int, int]:
        """(head_dim, head_dim_v)."""
        return self.head_dim, self.head_dim if self.head_dim_v is None else self.head_dim_v


@dataclass(frozen=True, slots=True)
class SdpaRules:
    """How one torch release chooses on a GPU.

    ``order``: the backends as a GPU asks them.  ``cudnn_first``: the major compute capabilities on which
    cuDNN is asked before the others.  ``flash``, ``efficient``, ``cudnn``, and ``cpu`` for flash on the CPU:
    the conditions of each, in order.
    ``newest_sm``: the last compute capability the fused backends accept.
    ``cudnn_dim_256``: the major compute capabilities on which cuDNN takes head dims to 256 instead of 128;
    ``cudnn_192_128``: those on which it takes head_dim 192 with head_dim_v 128 besides.
    ``cudnn_length_1``: which sequence lengths may not be 1.  ``cudnn_no_decode``: the major compute
    capabilities on which no query sequence may be 1.  ``grouped``: the backends that take enable_gqa.
    ``single_kv_head``: one KV head needs no enable_gqa.  ``grad_on_sm12``: sm 12.x cannot train wide heads.
    ``cudnn_grid_limit``: cuDNN refuses batches and head counts above 65,535.
    """

    flash: tuple[str, ...]
    efficient: tuple[str, ...]
    cudnn: tuple[str, ...]
    cpu: tuple[str, ...]
    order: tuple[Backend, ...] = ("flash", "efficient", "math", "cudnn")
    cudnn_first: frozenset[int] = frozenset()
    newest_sm: Sm = (9, 0)
    cudnn_dim_256: frozenset[int] = frozenset()
    cudnn_192_128: frozenset[int] = frozenset()
    cudnn_length_1: Literal["any", "neither", "key"] = "any"
    cudnn_no_decode: frozenset[int] = frozenset()
    grouped: frozenset[Where] = frozenset({"flash"})
    single_kv_head: bool = False
    grad_on_sm12: bool = False
    cudnn_grid_limit: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A backend asked whether it can take a call; ``sm`` is (0, 0) on the CPU."""

    backend: Where
    call: SdpaInputs
    rules: SdpaRules
    sm: Sm = (0, 0)


def nonzero_lengths(asked: Asked) -> str | None:
    call = asked.call
    if call.seqlen_q == 0 or call.seqlen_k == 0:
        return f"a sequence is empty: {call.seqlen_q} queries, {call.seqlen_k} keys"
    return None


def same_heads(asked: Asked) -> str | None:
    call = asked.call
    if call.enable_gqa and asked.backend in asked.rules.grouped:
        return None
    if call.num_heads == call.heads_k or (asked.rules.single_kv_head and call.heads_k == 1):
        return None
    words = f"{call.num_heads} query heads and {call.heads_k} KV heads"
    return f"{words}, and it takes no enable_gqa" if call.enable_gqa else f"{words}, without enable_gqa"


def whole_groups(asked: Asked) -> str | None:
    call = asked.call
    if call.enable_gqa and asked.backend in asked.rules.grouped and call.num_heads % call.heads_k:
        return f"{call.heads_k} KV heads do not divide {call.num_heads} query heads"
    return None


def no_mask(asked: Asked) -> str | None:
    return None if asked.call.mask_shape is None else "there is an attn_mask"


def mask_shape(asked: Asked) -> str | None:
    call, shape = asked.call, asked.call.mask_shape
    if shape is None:
        return None
    wanted = (call.batch, call.num_heads, call.seqlen_q, call.seqlen_k)[-len(shape) :]
    if len(shape) in (2, 4) and all(size in (1, full) for size, full in zip(shape, wanted, strict=True)):
        return None
    return f"attn_mask has shape {shape}, not 2 or 4 dimensions that broadcast to {wanted}"


def no_dropout(asked: Asked) -> str | None:
    return f"there is dropout, {asked.call.dropout_p}" if asked.call.dropout_p > 0 else None


def same_head_dim(asked: Asked) -> str | None:
    qk, v = asked.call.dims
    return None if qk == v else f"head_dim {qk} and head_dim_v {v} differ"


def flash_head_dim(asked: Asked) -> str | None:
    too_wide = f"head_dim {asked.call.head_dim} is above 256" if asked.call.head_dim > 256 else None
    return same_head_dim(asked) or too_wide


def efficient_head_dim(asked: Asked) -> str | None:
    half = asked.call.dtype in ("bf16", "fp16")
    alignment = 8 if half else 4 if asked.sm >= (8, 0) else 1
    if any(dim % alignment or dim < 1 for dim in asked.call.dims):
        return (
            f"head_dim {asked.call.dims[0]} or head_dim_v {asked.call.dims[1]} is no multiple of {alignment}"
        )
    return None


def hardware(asked: Asked) -> str | None:
    oldest, newest = _OLDEST_SM[asked.backend], asked.rules.newest_sm
    if oldest <= asked.sm <= newest:
        return None
    (a, b), (c, d), (e, f) = asked.sm, oldest, newest
    return f"sm {a}.{b} is outside sm {c}.{d} to {e}.{f}"


def wide_heads_can_train(asked: Asked) -> str | None:
    call, dim = asked.call, asked.call.head_dim
    small = (8, 6) <= asked.sm <= (8, 9) or (asked.rules.grad_on_sm12 and asked.sm[0] == 12)
    if not (call.requires_grad and small and (192 < dim <= 224 or (dim > 224 and call.dropout_p > 0))):
        return None
    with_dropout = " and dropout" if call.dropout_p > 0 else ""
    return f"head_dim {dim}{with_dropout} cannot be trained on sm {asked.sm[0]}.{asked.sm[1]}"


def square_where_causal(asked: Asked) -> str | None:
    call = asked.call
    if call.is_causal and call.seqlen_q != call.seqlen_k:
        queries = count_of(call.seqlen_q, "query", "queries")
        return f"is_causal with {queries} and {count_of(call.seqlen_k, 'key')}"
    return None


def dtype(asked: Asked) -> str | None:
    allowed = {"fp16"} if asked.sm < (8, 0) else {"fp16", "bf16"}
    if asked.backend == "efficient":
        allowed = allowed | {"fp32"}
    if asked.call.dtype in allowed:
        return None
    return f"dtype {asked.call.dtype} is none of {', '.join(sorted(allowed))}"


def grid_size(asked: Asked) -> str | None:
    if max(asked.call.batch, asked.call.num_heads) > _MAX_GRID:
        return f"batch {asked.call.batch} or {asked.call.num_heads} heads is above {_MAX_GRID}"
    return None


def cudnn_shapes(asked: Asked) -> str | None:
    call, rules, (qk, v) = asked.call, asked.rules, asked.call.dims
    if rules.cudnn_grid_limit and grid_size(asked):
        return grid_size(asked)
    limit = 256 if asked.sm[0] in rules.cudnn_dim_256 else 128
    if max(qk, v) > limit and not (asked.sm[0] in rules.cudnn_192_128 and (qk, v) == (192, 128)):
        return f"head_dim {qk} or head_dim_v {v} is above {limit}"
    if qk % 8 or v % 8:
        return f"head_dim {qk} or head_dim_v {v} is no multiple of 8"
    if rules.cudnn_length_1 == "neither" and 1 in (call.seqlen_q, call.seqlen_k):
        return f"a sequence length is 1: {call.seqlen_q} queries, {call.seqlen_k} keys"
    if asked.sm[0] in rules.cudnn_no_decode and call.seqlen_q == 1:
        return f"there is a single query, on sm {asked.sm[0]}.{asked.sm[1]} with this cuDNN"
    if rules.cudnn_length_1 == "key" and call.seqlen_k == 1:
        return "there is a single key"
    if rules.cudnn_length_1 == "key" and call.seqlen_q == 1 and call.dropout_p > 0:
        return "there is a single query, with dropout"
    return None


def sixteenths_of_dropout(asked: Asked) -> str | None:
    if (asked.call.dropout_p * 16).is_integer():
        return None
    return f"dropout {asked.call.dropout_p} is no multiple of 1/16"


def cudnn_can_train(asked: Asked) -> str | None:
    qk, v = asked.call.dims
    if not asked.call.requires_grad or asked.sm[0] not in asked.rules.cudnn_dim_256:
        return None
    if max(qk, v) <= 128 or (qk, v) in ((192, 128), (256, 256)):
        return None
    return f"head_dim {qk} with head_dim_v {v} cannot be trained"


Condition = Callable[[Asked], str | None]
"""Why the backend cannot take the call, in words; None where this condition holds."""

CONDITIONS: Mapping[str, Condition] = {
    "check_nonzero_sequence_lengths_dense": nonzero_lengths,
    "check_batch_size_and_num_heads_dense": same_heads,
    "check_grouped_query_attention": whole_groups,
    "check_for_attn_mask": no_mask,
    "check_attn_mask_shape": mask_shape,
    "check_for_dropout": no_dropout,
    "check_head_dim_size_cpp": same_head_dim,
    "check_head_dim_size_flash": flash_head_dim,
    "check_head_dim_size_mem_efficient": efficient_head_dim,
    "check_flash_attention_hardware_support": hardware,
    "check_mem_efficient_hardware_support": hardware,
    "check_cudnn_hardware_support": hardware,
    TRAIN_WIDE: wide_heads_can_train,
    f"{TRAIN_WIDE}_or_120": wide_heads_can_train,
    f"{TRAIN_WIDE}_or_120_121": wide_heads_can_train,
    "check_flash_causal_non_square_seqlens": square_where_causal,
    "check_tensor_dtype": dtype,
    "check_flash_attention_grid_size": grid_size,
    "check_cudnn_tensor_shapes": cudnn_shapes,
    "check_cudnn_dropout": sixteenths_of_dropout,
    "check_cudnn_d256_bprop_head_dim": cudnn_can_train,
}
