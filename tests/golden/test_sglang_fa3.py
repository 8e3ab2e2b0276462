"""sglang-kernel's copy of FlashAttention-3 against what it launched (benchmarks/record_sglang_launches.py).

Every step of SGLang's backend fa3: over a paged cache, 16 bit and FP8, windows, softcap, latents with q_v;
of packed keys, prompts of MLA by head among them; decode with a plan made before; and on Ampere and Ada.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.dispatch.flash_attn3.versions import NEWEST, SGLANG
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction
from tests.conftest import golden_rows
from tests.golden.test_engines import launch_as_recorded, without_memory
from tests.support.flash_attn3 import recorded_call

ROWS = golden_rows("sglang_fa3_0.4.10.jsonl.gz")
MORE = golden_rows("sglang_fa3_more_0.4.10.jsonl.gz")


def _agreed(row: dict[str, Any]) -> tuple[AttentionCall, Gpu, Prediction, list[dict[str, Any]]]:
    """The call, its GPU, the prediction and the recorded launches, after comparing these two."""
    call, gpu, version = recorded_call(row)
    made = libraries.predict(call, gpu, version)
    ours = [launch_as_recorded(launch, "fa3") for launch in made.launches]
    theirs = [without_memory(launch, "fa3") for launch in row["expect"]["launches"]]
    assert (made.error, ours) == (row["expect"]["error"], theirs), row["call"]
    return call, gpu, made, theirs


def test_every_launch_of_sglangs_copy_is_predicted() -> None:
    seen: Counter[str] = Counter()
    for row in ROWS:
        call, gpu, made, theirs = _agreed(row)
        seen[call.dtype] += 1
        seen["latents"] += call.has_qv
        seen["split"] += len(theirs) > 2
        seen["as 3.0.0"] += made.num_splits == libraries.predict(call, gpu, NEWEST).num_splits
    assert len(ROWS) == 446
    assert min(seen["fp8"], seen["latents"], seen["split"]) > 50
    assert seen["as 3.0.0"] < 420  # upstream's rules would be wrong of many


def test_every_launch_without_pages_with_a_plan_and_before_hopper() -> None:
    seen: Counter[str] = Counter()
    for row in MORE:
        call, gpu, _, theirs = _agreed(row)
        kind = "planned" if call.scheduler_metadata else "by head" if call.head_dim_v else call.entry
        seen[f"{gpu.sm_major}.{gpu.sm_minor} {kind}"] += 1
        seen["prepared"] += "prepare_varlen" in theirs[0]["kernel"]
        seen["split"] += "Combine" in theirs[-1]["kernel"]
    assert len(MORE) == 934
    assert seen["9.0 by head"] == 90
    assert seen["9.0 planned"] == 160
    assert seen["prepared"] == 934 - 160  # a plan made before is not made again
    assert (
        min(seen[f"8.{minor} {kind}"] for minor in (0, 6, 9) for kind in ("varlen_fwd", "fwd_kvcache")) > 80
    )
    assert seen["split"] > 100


def test_the_launches_are_read_back_as_sglangs_alone() -> None:
    for row in (*ROWS[::9], *MORE[::11]):
        call, gpu, version = recorded_call(row)
        launches = libraries.predict(call, gpu, version).launches
        prepared = "prepare_varlen" in launches[0].kernel
        main, *rest = launches[prepared:]
        seen = Observed(main, rest[0] if rest else None, launches[0] if prepared else None)
        found = libraries.explain(seen, GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor)))
        assert found is not None
        assert {one.versions[0] for one in found.explanations} == {SGLANG}, row["call"]
        assert call.entry in {one.entry for one in found.explanations}


def test_what_was_not_recorded_of_it_is_refused() -> None:
    call, gpu, _ = recorded_call(ROWS[0])
    for other in (replace(call, page_block_size=None), replace(call, total_q=None)):
        with pytest.raises(UsageError, match="known of packed queries alone"):
            libraries.predict(other, gpu, SGLANG)
