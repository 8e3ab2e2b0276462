"""PyTorch's copy of FlashAttention-2, behind F.scaled_dot_product_attention's flash backend.

Source: aten/src/ATen/native/transformers/cuda/flash_attn (flash_api.cpp, flash_fwd_launch_template.h).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from attnprof.dispatch.flash_attn2 import TILES_TO_2_6_1
from attnprof.dispatch.flash_attn2_dispatch import dispatch
from attnprof.dispatch.flash_attn2_rules import Rules
from attnprof.dispatch.versions import parse_version
from attnprof.model import AttentionCall, Gpu, Prediction

DEFAULT_VERSION = "2.6.0"

_BASE = Rules(
    tiles=TILES_TO_2_6_1,
    kernel_namespace="pytorch_flash::",
    traits_namespace="pytorch_flash::",
    entries=frozenset({"fwd", "varlen_fwd"}),
    any_sm_from_80=False,
    head_dim_multiple_message="head_size must be a multiple of 8, this is ensured by padding!",
    head_dim_multiple_first=True,
    takes=frozenset({"window", "alibi"}),
    templates=frozenset({"Is_local", "Has_alibi"}),
    alibi_clears_even=False,
    softmax_clears_even_k=False,
)

_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("2.6.0", {}),
]
OLDEST, NEWEST = "2.6.0", "2.6.99"


@lru_cache(maxsize=64)
def rules_for(version: str) -> Rules:
    """The rules of a torch version. Raises UsageError for versions outside the table."""
    wanted = parse_version(version, library="torch", oldest=OLDEST, newest=NEWEST)
    rules = _BASE
    for since, changes in _CHANGES:
        if wanted >= parse_version(since):
            rules = replace(rules, **changes)
    return rules


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What the flash backend of torch ``version`` launches for ``call`` on ``gpu``."""
    return dispatch(call, gpu, rules_for(version), explain=explain)
