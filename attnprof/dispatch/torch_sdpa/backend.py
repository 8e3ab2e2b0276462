"""Which backend F.scaled_dot_product_attention takes, and the condition that ruled out each other one.

The order of the backends, and of each backend's conditions, is a row per release. They agree with what the
released CUDA wheels answer (tests/data/golden), each with the cuDNN its PyPI package depends on: a build with
another cuDNN, a disabled backend or an environment variable may change the choice. Source, of the tag named:
PyTorch, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (priority_order, can_use_*_attention) and, for
the CPU, sdp_utils_cpp.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from attnprof.dispatch.torch_sdpa.backend_conditions import (
    CONDITIONS,
    TRAIN_WIDE,
    Asked,
    Backend,
    SdpaInputs,
    SdpaRules,
)
from attnprof.dispatch.versions import parse_version
from attnprof.model import Gpu, Reason

__all__ = ["BackendChoice", "SdpaInputs", "choose_backend"]

OLDEST, NEWEST = "2.5.0", "2.15.0"
OUTRANKED = "priority_order"


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """``backend`` runs; ``order`` is the order in which torch asks.

    ``ruled_out`` has a Reason per other backend, in that order: ``rule`` the backend, ``value`` the condition
    that fails ("priority_order" where none does, but an earlier backend takes the call), ``why`` in words.
    """

    backend: Backend
    ruled_out: tuple[Reason, ...]
    order: tuple[Backend, ...]


_NONZERO = "check_nonzero_sequence_lengths_dense"
_HEADS = ("check_batch_size_and_num_heads_dense", "check_grouped_query_attention")
_CUDNN_GENERAL = ("check_tensor_dtype", "check_attn_mask_shape", "check_cudnn_hardware_support")
_CUDNN_2_5 = (_NONZERO, "check_cudnn_tensor_shapes", *_CUDNN_GENERAL)
_CUDNN_DENSE = (_NONZERO, *_HEADS, "check_cudnn_tensor_shapes")
_CUDNN_2_12 = (*_CUDNN_GENERAL, "check_cudnn_dropout", *_CUDNN_DENSE)


def _flash(train_wide: str) -> tuple[str, ...]:
    return (
        "check_for_attn_mask",
        "check_head_dim_size_flash",
        "check_flash_attention_hardware_support",
        train_wide,
        "check_flash_causal_non_square_seqlens",
        "check_tensor_dtype",
        *_HEADS,
        _NONZERO,
    )


_RULES_2_5_0 = SdpaRules(
    flash=_flash(TRAIN_WIDE),
    efficient=(
        "check_mem_efficient_hardware_support",
        "check_head_dim_size_mem_efficient",
        _NONZERO,
        *_HEADS,
        "check_tensor_dtype",
    ),
    cudnn=_CUDNN_2_5,
    cpu=("check_for_dropout", *_HEADS, "check_attn_mask_shape", "check_head_dim_size_cpp", _NONZERO),
    order=("flash", "cudnn", "efficient", "math"),
    cudnn_first=frozenset({9}),
)

_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("2.5.1", {"order": ("flash", "efficient", "math", "cudnn"), "cudnn_first": frozenset()}),
    ("2.6.0", {"cudnn_length_1": "neither"}),
    ("2.7.0", {
        "flash": _flash(f"{TRAIN_WIDE}_or_120"), "grad_on_sm12": True, "newest_sm": (12, 0),
    }),
    ("2.8.0", {
        "cudnn": (*_CUDNN_2_5, *_HEADS), "grouped": frozenset({"flash", "cudnn"}),
        "cudnn_dim_256": frozenset({9}), "newest_sm": (12, 1),
    }),
    ("2.9.0", {
        "cudnn": (*_CUDNN_GENERAL, *_CUDNN_DENSE), "cudnn_length_1": "key",
        "grouped": frozenset({"flash", "cudnn", "cpu"}), "cudnn_dim_256": frozenset(),
    }),
    ("2.9.1", {"cudnn_dim_256": frozenset({9})}),
    ("2.11.0", {"cudnn_first": frozenset({9, 10}), "cudnn_192_128": frozenset({10})}),
    ("2.12.0", {"cudnn": _CUDNN_2_12}),
    ("2.13.0", {"cudnn_grid_limit": True}),
    ("2.14.0", {
        "cudnn": (*_CUDNN_2_12, "check_cudnn_d256_bprop_head_dim"), "cudnn_dim_256": frozenset({9, 10}),
        "grouped": frozenset({"flash", "efficient", "cudnn", "cpu"}), "single_kv_head": True,
        "cudnn_no_decode": frozenset({10}),  # the wheel has cuDNN 9.24.0
    }),
    ("2.15.0", {
        "flash": (*_flash(f"{TRAIN_WIDE}_or_120_121"), "check_flash_attention_grid_size"),
        "cudnn_no_decode": frozenset(),  # the wheel has cuDNN 9.26.0
    }),
]  # fmt: skip


@lru_cache(maxsize=64)
def rules_for(version: str) -> SdpaRules:
    """The rules of a torch version. Raises UsageError for versions outside the table."""
    wanted = parse_version(version, library="torch", oldest=OLDEST, newest=NEWEST)
    rules = _RULES_2_5_0
    for since, changes in _CHANGES:
        if wanted >= parse_version(since):
            rules = replace(rules, **changes)
    return rules


def choose_backend(call: SdpaInputs, gpu: Gpu | None, version: str) -> BackendChoice:
    """The backend torch ``version`` takes for ``call`` on ``gpu``, or on the CPU where that is None.

    Raises UsageError for versions outside the table.
    """
    rules = rules_for(version)
    failures: dict[Backend, tuple[str, str] | None] = {"math": None}
    if gpu is None:
        order: tuple[Backend, ...] = ("flash", "math")
        failures["flash"] = _first_failure(rules.cpu, Asked("cpu", call, rules))
    else:
        order, sm = rules.order, (gpu.sm_major, gpu.sm_minor)
        if gpu.sm_major in rules.cudnn_first:
            order = ("cudnn", "flash", "efficient", "math")
        failures["flash"] = _first_failure(rules.flash, Asked("flash", call, rules, sm))
        failures["efficient"] = _first_failure(rules.efficient, Asked("efficient", call, rules, sm))
        failures["cudnn"] = _first_failure(rules.cudnn, Asked("cudnn", call, rules, sm))
    chosen = next(backend for backend in order if failures[backend] is None)
    outranked = (OUTRANKED, f"{chosen} is asked first, and takes the call")
    ruled_out = (Reason(backend, *(failures[backend] or outranked)) for backend in order if backend != chosen)
    return BackendChoice(chosen, tuple(ruled_out), order)


def _first_failure(conditions: Iterable[str], asked: Asked) -> tuple[str, str] | None:
    """(condition, why) of the first that does not hold."""
    return next(((name, why) for name in conditions if (why := CONDITIONS[name](asked))), None)
