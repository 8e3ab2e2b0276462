"""flash_attn 2 (the PyPI package): what each version changed, and the prediction for a call.

Adding a version means adding a row to ``_CHANGES``. Source of each row: the tag named, file
csrc/flash_attn/flash_api.cpp or csrc/flash_attn/src/flash_fwd_launch_template.h.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.flash_attn2.dispatch import dispatch
from attnprof.dispatch.flash_attn2.rules import (
    Rules,
    Tile,
    TileRule,
    always,
    by_dropout,
    by_smem,
    hdim96,
    hdim128,
    hdim160,
    hdim224,
    rules_at,
    without,
)
from attnprof.dispatch.versions import parse_version
from attnprof.model import AttentionCall, Gpu, Prediction

if TYPE_CHECKING:
    from attnprof.dispatch.flash_attn2.read_back import Build

DEFAULT_VERSION = "2.8.3"


TILES_TO_2_6_1: dict[int, TileRule] = {
    32: always(128, 128),
    64: by_dropout(Tile(128, 128), Tile(128, 64)),
    96: hdim96,
    128: hdim128,
    160: hdim160,
    192: by_dropout(Tile(128, 64, 8), Tile(64, 64)),
    224: hdim224,
    256: by_smem(256),
}


_TILES_2_6_2 = without(TILES_TO_2_6_1, 224)
_TILES_2_8_0 = without(_TILES_2_6_2, 160)
_MULTIPLE_OF_8 = "query, key, value, and out_ must have a head_size that is a multiple of 8"

_OLDEST_RULES = Rules(
    tiles=TILES_TO_2_6_1,
    slots_per_sm=1,
    kernel_namespace="",
    takes=frozenset(),
    templates=frozenset(),
    any_sm_from_80=False,
    batch_message="batch size must be postive",  # as upstream spells it, in fwd and fwd_kvcache
    clamps_windows=False,
    varlen_folds=False,
    skips_empty=frozenset(),
    batch_idx_forces_split=False,
    local_excludes_causal=False,
    alibi_clears_even=False,
    softmax_clears_even_mn=False,
    softmax_clears_even_k=False,
    even_mn_max_head_dim=256,
)

# "takes" and "templates" name what a version adds; every other field is replaced. api is flash_api.cpp,
# launch is flash_fwd_launch_template.h; line numbers are of the version's tag.
_CHANGES: list[tuple[str, dict[str, Any]]] = [
    # launch:50,83: even_MN only without return_softmax and up to head dim 128
    ("2.2.5", {"softmax_clears_even_mn": True, "even_mn_max_head_dim": 128}),
    # api:297, launch:53: sliding windows. Until 2.3.4 every causal call runs the kernel as a local one
    ("2.3.0", {"takes": {"window"}, "templates": {"Is_local"}}),
    ("2.3.1", {"batch_idx_forces_split": True}),  # api:1261
    ("2.3.4", {"skips_empty": frozenset({"fwd"})}),  # api:408
    ("2.3.5", {"local_excludes_causal": True}),  # launch:46-53, 84-90
    ("2.4.0", {"takes": {"alibi"}, "templates": {"Has_alibi"}}),  # api:301, 414
    ("2.4.1", {"clamps_windows": True, "skips_empty": frozenset({"fwd", "varlen_fwd"})}),  # api:303, 518, 630
    ("2.4.3", {"varlen_folds": True}),  # api:530-537, 637
    ("2.5.0", {"takes": {"kvcache_paged"}}),  # api:1260, 1453
    ("2.5.7", {"slots_per_sm": 2, "takes": {"varlen_paged"}}),  # api:286, 568, 723
    ("2.6.0", {"takes": {"softcap"}, "templates": {"Is_softcap"}}),  # api:390, launch:62
    ("2.6.2", {"tiles": _TILES_2_6_2, "batch_message": "batch size must be positive"}),  # api:391
    ("2.7.0", {"head_dim_multiple_message": _MULTIPLE_OF_8}),  # api:393, 612
    ("2.7.3", {"any_sm_from_80": True}),  # api:367
    ("2.7.4", {"kernel_namespace": "flash::"}),  # namespace_config.h
    # launch:65, 108; HEADDIM_SWITCH without 160
    ("2.8.0", {"tiles": _TILES_2_8_0, "alibi_clears_even": True, "softmax_clears_even_k": True}),
    # main as of 0251105a, which calls itself 2.8.4. api:735-737: varlen_fwd takes num_splits, of which a
    # paged batch may have one; launch:175-190: with one split the split kernel is narrower
    ("2.8.4", {
        "takes": {"varlen_num_splits"}, "one_split_narrows": True, "paged_varlen_passes_splits": True,
    }),
]  # fmt: skip
OLDEST, NEWEST = "2.2.4", "2.8.4"  # 2.8.3.post2's forward sources are post1's, byte for byte
KNOWN = (OLDEST, *(version for version, _ in _CHANGES))


@lru_cache(maxsize=64)
def rules_for(version: str) -> Rules:
    """The rules of a flash_attn version. Raises UsageError for versions outside the table."""
    wanted = parse_version(version, library="flash_attn", oldest=OLDEST, newest=NEWEST)
    return rules_at(wanted, _OLDEST_RULES, _CHANGES)


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What flash_attn ``version`` launches for ``call`` on ``gpu``."""
    return dispatch(call, gpu, rules_for(version), explain=explain)


@lru_cache(maxsize=1)
def builds() -> tuple[Build, ...]:
    """The releases by what they launch, for reading launches back."""
    from attnprof.dispatch.flash_attn2.read_back import builds_of

    return builds_of("flash_attn", OLDEST, NEWEST, (version for version, _ in _CHANGES), rules_for)
