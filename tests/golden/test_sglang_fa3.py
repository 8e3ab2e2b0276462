"""sglang-kernel's copy of FlashAttention-3 against what it launched (benchmarks/record_sglang_launches.py).

Every step of SGLang's backend fa3 over a paged cache: 16 bit and FP8, windows, softcap, latents with q_v.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.dispatch.flash_attn3.versions import NEWEST, SGLANG
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from tests.conftest import golden_rows
from tests.golden.test_engines import launch_as_recorded, without_memory
from tests.support.flash_attn3 import recorded_call

ROWS = golden_rows("sglang_fa3_0.4.10.jsonl.gz")


def test_every_launch_of_sglangs_copy_is_predicted() -> None:
    seen: Counter[str] = Counter()
    for row in ROWS:
        call, gpu, version = recorded_call(row)
        made = libraries.predict(call, gpu, version)
        ours = [launch_as_recorded(launch, "fa3") for launch in made.launches]
        theirs = [without_memory(launch, "fa3") for launch in row["expect"]["launches"]]
        assert (made.error, ours) == (row["expect"]["error"], theirs), row["call"]
        seen[call.dtype] += 1
        seen["latents"] += call.has_qv
        seen["split"] += len(theirs) > 2
        seen["as 3.0.0"] += made.num_splits == libraries.predict(call, gpu, NEWEST).num_splits
    assert len(ROWS) == 446
    assert min(seen["fp8"], seen["latents"], seen["split"]) > 50
    assert seen["as 3.0.0"] < 420  # upstream's rules would be wrong of many


def test_the_launches_are_read_back_as_sglangs_alone() -> None:
    for row in ROWS[::9]:
        call, gpu, version = recorded_call(row)
        before, main, *rest = libraries.predict(call, gpu, version).launches
        found = libraries.explain(
            Observed(main, rest[0] if rest else None, before), GpuFacts(gpu.num_sms, (9, 0))
        )
        assert found is not None
        assert {one.versions[0] for one in found.explanations} == {SGLANG}, row["call"]


def test_what_was_not_recorded_of_it_is_refused() -> None:
    call, _, _ = recorded_call(ROWS[0])
    for other, gpu in ((replace(call, page_block_size=None), "h100"), (call, "a100")):
        with pytest.raises(UsageError, match="over paged caches on Hopper alone"):
            libraries.predict(other, gpu_by_name(gpu), SGLANG)
