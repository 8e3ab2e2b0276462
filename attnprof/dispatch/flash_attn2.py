"""flash_attn 2 (the PyPI package): what each version changed, and the prediction for a call.

Adding a version means adding a row to ``_CHANGES``. Source of each row: the tag named, file
csrc/flash_attn/flash_api.cpp or csrc/flash_attn/src/flash_fwd_launch_template.h.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from attnprof.dispatch.flash_attn2_dispatch import dispatch
from attnprof.dispatch.flash_attn2_rules import (
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
    without,
)
from attnprof.dispatch.versions import Version, parse_version
from attnprof.model import AttentionCall, Gpu, Prediction

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

_CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("2.6.0", {
        "tiles": TILES_TO_2_6_1,
        "any_sm_from_80": False,
        "alibi_clears_even": False,
        "softmax_clears_even_k": False,
    }),
    ("2.6.2", {"tiles": _TILES_2_6_2}),
    ("2.7.0", {"head_dim_multiple_message": _MULTIPLE_OF_8}),
    ("2.7.3", {"any_sm_from_80": True}),
    ("2.7.4", {"kernel_namespace": "flash::"}),
    ("2.8.0", {"tiles": _TILES_2_8_0, "alibi_clears_even": True, "softmax_clears_even_k": True}),
]  # fmt: skip
OLDEST, NEWEST = "2.6.0", "2.8.3.post1"


@lru_cache(maxsize=64)
def rules_for(version: str) -> Rules:
    """The rules of a flash_attn version. Raises UsageError for versions outside the table."""
    wanted: Version = parse_version(version, library="flash_attn", oldest=OLDEST, newest=NEWEST)
    rules = Rules(tiles=TILES_TO_2_6_1)
    for since, changes in _CHANGES:
        if wanted >= parse_version(since):
            rules = replace(rules, **changes)
    return rules


def predict(
    call: AttentionCall, gpu: Gpu, version: str = DEFAULT_VERSION, *, explain: bool = False
) -> Prediction:
    """What flash_attn ``version`` launches for ``call`` on ``gpu``."""
    return dispatch(call, gpu, rules_for(version), explain=explain)
