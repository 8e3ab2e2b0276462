"""PyTorch's copy of FlashAttention-2, behind F.scaled_dot_product_attention's flash backend, by version.

Adding a version means adding a row to ``_CHANGES``. Each row was recorded: what the released wheels 2.2.2,
2.3.1, 2.4.1, 2.5.1, 2.6.0, 2.7.1, 2.8.0, 2.9.1 and 2.10.0 to 2.15.0 launch (tests/data/golden). Where the
cause stands, in aten/src/ATen/native/transformers/cuda of the release's tag: api is flash_attn/flash_api.cpp,
launch is flash_attn/flash_fwd_launch_template.h, op is attention.cu, ``aten::_flash_attention_forward``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.flash_attn2.dispatch import dispatch
from attnprof.dispatch.flash_attn2.rules import (
    OPTIONAL_TEMPLATES,
    Rules,
    block_n,
    narrow_block_n,
    rules_at,
    without,
)
from attnprof.dispatch.flash_attn2.versions import TILES_TO_2_6_1
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.versions import parse_version
from attnprof.model import AttentionCall, Gpu, Prediction

if TYPE_CHECKING:
    from attnprof.dispatch.flash_attn2.read_back import Build

DEFAULT_VERSION = "2.6.0"
OLDEST, NEWEST = "2.2.0", "2.15.0"
RELEASES = tuple(f"2.{minor}" for minor in range(2, 16))

_TILES_2_7 = without(TILES_TO_2_6_1, 224)
_TILES_2_11 = without(_TILES_2_7, 160)
_SMS_2_7 = frozenset({(9, 0), (12, 0), *((10, minor) for minor in range(10))})

_NO_FOLD = {
    "fold fwd": "q must have shape (batch_size, seqlen_q, num_heads, head_size_og)",
    "fold varlen_fwd": "q must have shape (total_q, num_heads, head_size_og)",
}
_OLDEST_RULES = Rules(
    tiles=TILES_TO_2_6_1,
    slots_per_sm=1,
    kernel_namespace="pytorch_flash::",
    traits_namespace="pytorch_flash::",
    entries=frozenset({"fwd", "varlen_fwd"}),
    takes=frozenset(),
    templates=frozenset({"Is_local"}),
    any_sm_from_80=False,
    # The folded query is checked against the shape it had before: grouped decode needs repeated KV heads.
    refusals=_NO_FOLD,
    head_dim_multiple_message="head_size must be a multiple of 8, this is ensured by padding!",
    head_dim_multiple_first=True,
    clamps_windows=False,
    varlen_folds=False,
    skips_empty=frozenset(),
    local_excludes_causal=False,
    softmax_clears_even_k=False,
)
_NO_ALIBI = {"alibi_slopes": "This flash attention build does not support alibi."}
_NUM_SPLITS = "num_splits requires FA3. Register FA3 with `register_flash_attention_fa3()` to set num_splits."

# "takes" and "templates" name what a version adds; every other field is replaced.
_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("2.3.0", {
        "templates": {"Has_alibi"},  # launch: flash_fwd_kernel; the argument is always false
        "local_excludes_causal": True,  # launch: Is_local && !Is_causal
        "clamps_windows": True, "skips_empty": frozenset({"fwd", "varlen_fwd"}),  # api: mha_fwd
        "varlen_folds": True,  # api: mha_varlen_fwd
    }),
    ("2.4.0", {"takes": {"window", "alibi"}, "refusals": _NO_ALIBI}),  # op; api: CHECK_SHAPE(temp_q, …)
    ("2.5.0", {"slots_per_sm": 2}),  # api: set_params_splitkv
    ("2.7.0", {
        "tiles": _TILES_2_7, "templates": {"Is_softcap"}, "traits_namespace": "",  # launch, kernel_traits.h
        "sms_besides_8x": _SMS_2_7,  # api: mha_fwd
    }),
    ("2.8.0", {"sms_besides_8x": _SMS_2_7 | {(12, 1)}}),
    ("2.9.0", {"any_sm_from_80": True}),  # api: is_sm80_or_newer
    ("2.10.0", {"skips_empty_batch": True}),  # api: mha_fwd returns for batch_size == 0
    # HEADDIM_SWITCH without 160; launch: is_even_K is cleared by return_softmax
    ("2.11.0", {"tiles": _TILES_2_11, "softmax_clears_even_k": True}),
    ("2.12.0", {
        "takes": {"varlen_paged", "varlen_num_splits"},  # op: block_table, num_splits
        "refusals": {**_NO_ALIBI, "varlen_num_splits": _NUM_SPLITS},
    }),
    # api: paged_KV || seqlenq_ngroups_swapped; the narrower tile is recorded, its source was not read
    ("2.13.0", {"refusals": _NO_ALIBI, "paged_varlen_splits": True, "one_split_narrows": True}),
]  # fmt: skip
KNOWN = (OLDEST, *(version for version, _ in _CHANGES))


@lru_cache(maxsize=64)
def rules_for(version: str) -> Rules:
    """The rules of a torch version. Raises UsageError for versions outside the table."""
    wanted = parse_version(version, library="torch", oldest=OLDEST, newest=NEWEST)
    return rules_at(wanted, _OLDEST_RULES, _CHANGES)


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What the flash backend of torch ``version`` launches for ``call`` on ``gpu``."""
    return dispatch(call, gpu, rules_for(version), explain=explain)


def torch_versions_of(kernel_name: str) -> tuple[str, ...]:
    """The releases ("2.7") whose flash backend could have launched a kernel of this name, oldest first.

    Read off the spelling: whether the traits are qualified, which template arguments there are, the head-dim
    bucket and the tile. Empty where the name is not of PyTorch's copy. A name cut short rules out less.
    """
    signature = parse_kernel_name(kernel_name)
    if signature.library != "pytorch-bundled-flash" or not signature.modelled:
        return ()
    qualified = bool(re.search(r"(pytorch_flash::|NS_\d+)Flash_fwd_kernel_traits", kernel_name))
    unqualified = not qualified and "Flash_fwd_kernel_traits" in kernel_name
    arguments = {name for name, _ in signature.flags or ()} & OPTIONAL_TEMPLATES
    known_arguments = bool(signature.flags) and signature.family != "fwd_splitkv_combine"

    def possible(rules: Rules) -> bool:
        if (qualified and not rules.traits_namespace) or (unqualified and rules.traits_namespace):
            return False
        if known_arguments and arguments != rules.templates:
            return False
        bucket, keys = signature.head_dim, signature.block_n
        if bucket is None or keys is None:
            return True
        if bucket not in rules.tiles:
            return False
        narrow = signature.family != "fwd" and keys != block_n(bucket)
        return not narrow or (rules.one_split_narrows and keys == narrow_block_n(bucket))

    return tuple(release for release in RELEASES if possible(rules_for(release)))


@lru_cache(maxsize=1)
def builds() -> tuple[Build, ...]:
    """The releases by what they launch, for reading launches back."""
    from attnprof.dispatch.flash_attn2.read_back import builds_of

    return builds_of("torch", OLDEST, NEWEST, (version for version, _ in _CHANGES), rules_for)
