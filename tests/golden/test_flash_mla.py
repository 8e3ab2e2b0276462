"""FlashMLA against what the extensions of vllm 0.33.0 and sglang-kernel 0.4.10 launched.

Recorded by benchmarks/record_flash_mla.py. Resting on reading alone: how the metadata kernel deals blocks out
to the parts, on the device. The parts, the keys of a block and the cost of a start that it is handed are
recorded.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed
from attnprof.dispatch.flash_mla.read_back import UNSEEN
from attnprof.dispatch.flash_mla.rules import (
    BLOCK_N,
    DEFAULT_VERSION,
    KNOWN,
    OLDER,
    OVERHEAD,
    OVERHEAD_128,
    SGL_WHEEL,
    SGLANG,
    VERSIONS,
)
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.template import template_difference
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from tests.conftest import GOLDEN

GPUS = {
    "h100": (9, 0, 132), "h20": (9, 0, 78), "b200": (10, 0, 148), "b300": (10, 3, 160), "5090": (12, 0, 170),
}  # fmt: skip
LAUNCHED = {
    "dense": 100,
    "dense_fp8": 35,
    "sparse": 170,
    "sparse_prefill": 130,
    "prefill": 90,
    "sparse_extra": 110,
}
DENSE: dict[str, Any] = {"batch": 4, "seqlen_q": 1, "num_heads": 16, "head_dim": 576}
SPARSE = AttentionCall(
    "flash_mla", "fwd_kvcache", 4, 1, 4096, 64, 1, 576, head_dim_v=512, index_topk=2048
)  # fmt: skip
PREFILL = AttentionCall(
    "flash_mla", "varlen_fwd", 2, 300, 300, 16, 16, 192, dtype="fp16", head_dim_v=128
)  # fmt: skip


@cache
def rows(version: str = DEFAULT_VERSION) -> list[dict[str, Any]]:
    with gzip.open(GOLDEN / f"flash_mla_{version}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def call_of(kind: str, **said: Any) -> AttentionCall:
    made: Any = {"head_dim_v": 512, "num_heads_k": 1}
    if kind in ("dense", "dense_fp8", "dense_apart"):
        fp8 = {"dtype": "fp8"} if kind == "dense_fp8" else {}
        return AttentionCall("flash_mla", "fwd_kvcache", seqlen_k=4096, **(made | said | fp8))
    counted = {
        "cache_seqlens": said.pop("topk_length", False), "index_topk": said.pop("topk", 0),
        "extra_topk": said.pop("extra_topk", 0), "extra_counted": said.pop("extra_length", False),
    }  # fmt: skip
    said.pop("sinks", None)
    if kind in ("sparse", "sparse_extra"):
        kept = said.pop("cache")
        made |= {"head_dim": 576 if "mla" in kept else 512, "backend": kept, "seqlen_k": 4096}
        made |= {"disable_split_kv": said.pop("batch_invariant")}
        return AttentionCall("flash_mla", "fwd_kvcache", **made, **said, **counted)
    if kind == "sparse_prefill":
        tokens = said.pop("tokens")
        sizes = {"batch": 1, "seqlen_q": tokens, "seqlen_k": tokens}
        return AttentionCall("flash_mla", "varlen_fwd", **made, **sizes, **said, **counted)
    head_dim, head_dim_v = said.pop("dims")
    dims = {"head_dim": head_dim, "head_dim_v": head_dim_v}
    return AttentionCall("flash_mla", "varlen_fwd", **said, **dims)


def gpu_of(row: dict[str, Any]) -> Gpu:
    return make_gpu(row["gpu"], *GPUS[row["gpu"]])


@pytest.mark.parametrize("version", KNOWN)
def test_every_recorded_call_is_predicted(version: str) -> None:
    kinds: Counter[str] = Counter()
    for row in rows(version):
        call = call_of(**row["call"])
        made, wanted = libraries.predict(call, gpu_of(row), version), row["expect"]
        if wanted == {"launches": []}:  # of other head dims it prints that there is no kernel, and returns
            assert str(made.error).startswith("No kernel instantiated"), row
        else:
            assert made.error == wanted.get("error"), row
        found = [[one.kernel, [*one.grid], [*one.block], one.dynamic_smem or 0] for one in made.launches]
        launches = wanted.get("launches", [])
        if found and row["call"]["kind"] == "prefill":  # a functor of many words, of which these vary
            fields = dict(libraries.template_fields(found[0][0]) or ())
            found[0][0] = "/".join(map(str, fields.values()))
        assert found == launches, row
        if "parts" in wanted:
            plan = dict(made.plan)
            assert plan["num_sm_parts"] == wanted["parts"]
            assert wanted["block"] == BLOCK_N
            small = any("small_topk" in one.kernel for one in made.launches)
            assert wanted["overhead"] == (OVERHEAD_128 if small else OVERHEAD)
        kinds[row["call"]["kind"] if launches else "none"] += 1
    assert kinds.pop("none") > 250
    other: dict[str, dict[str, int]] = {
        SGLANG: {"dense_apart": 57, "sparse_prefill": 90},
        SGL_WHEEL: {"sparse_prefill": 90, "prefill": 0},  # which has no packed prefill
        OLDER: {"dense": 90, "sparse": 120, "sparse_prefill": 90, "sparse_extra": 80},
    }
    least = LAUNCHED | other.get(version, {})
    assert all(kinds[kind] >= count for kind, count in least.items())


def observed(launches: tuple[KernelLaunch, ...]) -> Observed:
    """As a trace shows them: the metadata is made once for all layers, apart."""
    roles = [parse_kernel_name(one.kernel).role for one in launches]
    main, *again = (one for one, role in zip(launches, roles, strict=True) if role == "main")
    combine = launches[roles.index("combine")] if "combine" in roles else None
    return Observed(main, combine, None, again[0] if again else None)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_set_read_back_contains_every_recorded_call(version: str) -> None:
    told = 0
    for row in rows(version):
        call, gpu = call_of(**row["call"]), gpu_of(row)
        made = libraries.predict(call, gpu, version)
        if not made.launches:
            continue
        prompt = row["call"]["kind"] == "prefill"
        for facts in (GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor)), GpuFacts(gpu.num_sms)):
            back = libraries.explain(observed(made.launches), facts)
            assert back is not None
            assert ("CUTLASS's own" in back.shared) == prompt
            splits = 1 if made.num_splits == 1 and not made.plan else UNSEEN
            assert any(
                one.library == "flash_mla" and one.entry == call.entry and one.num_splits == splits
                and one.versions == (version, version)
                and one.batch in (None, call.batch) and call.seqlen_q in one.seqlen_q
                and call.head_dim in one.head_dim and one.has_length(call.seqlen_k)
                and (not prompt or one.heads == call.num_heads)
                for one in back.explanations
            ), (row, back)  # fmt: skip
        told += 1
    assert told > 400


@pytest.mark.parametrize(
    ("changed", "sm"),
    [
        ({"block": (384, 1, 1)}, (10, 0)),
        ({"grid": (0, 2, 3)}, (10, 0)),
        ({}, (9, 0)),
        ({"kernel": ("CausalMask<false>", "NoMask")}, (10, 0)),
        ({"kernel": ("CausalIndividual", "Persistent")}, (10, 0)),
    ],
)
def test_a_prefill_that_flash_mla_does_not_launch_is_left_to_others(
    changed: dict[str, Any], sm: tuple[int, int]
) -> None:
    call = replace(PREFILL, dtype="bf16", causal=True)
    (launch,) = libraries.predict(call, gpu_by_name("b200")).launches
    assert libraries.explain(Observed(launch), GpuFacts(148, (10, 0))) is not None
    if spelled := changed.pop("kernel", None):
        changed["kernel"] = launch.kernel.replace(*spelled)
    back = libraries.explain(Observed(replace(launch, **changed)), GpuFacts(148, sm))
    assert back is None or "flash_mla" not in {one.library for one in back.explanations}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_spoiled_launch_is_explained_by_no_call(data: st.DataObject) -> None:
    """One size of a recorded call changed to what no batch, heads or GPU of that kind give."""
    version = data.draw(st.sampled_from(list(VERSIONS)))
    row = data.draw(st.sampled_from([one for one in rows(version) if one["expect"].get("parts")]))
    gpu = gpu_of(row)
    seen = observed(libraries.predict(call_of(**row["call"]), gpu, version).launches)
    assert seen.combine is not None
    main, combine = seen.main, seen.combine
    x, y, z = main.grid

    def both(one: KernelLaunch, after: KernelLaunch) -> Observed:
        return Observed(one, after, None, one if seen.again else None)

    room = re.sub(r"\b(32|64|96|128|160)(?=, 256|>)", "192", combine.kernel)
    spoiled = data.draw(
        st.sampled_from([
            both(replace(main, block=(128, 1, 1)), combine),
            both(replace(main, grid=(x, y, z + 1) if z > 1 else (x, y + 1, z)), combine),
            both(replace(main, grid=(0, y, z)), combine),
            both(main, replace(combine, block=(64, 1, 1))),
            both(main, replace(combine, grid=(combine.grid[0], combine.grid[1] + 1, combine.grid[2]))),
            both(main, replace(combine, kernel=room)),
            both(main, replace(combine, kernel="flash_fwd_splitkv_combine_kernel")),
            replace(seen, again=main if seen.again is None else None),
        ])
    )  # fmt: skip
    back = libraries.explain(spoiled, GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor)))
    assert back is not None
    assert back.explanations == ()
    assert back.nearest


def test_a_full_name_is_compared_without_its_tensor_maps() -> None:
    made = libraries.predict(call_of("dense", **DENSE), make_gpu("H100", 9, 0, 132))
    metadata, main, combine = (one.kernel for one in made.launches)
    full = f"void {main[:-2]}, legacy::sm90::decode::dense::TmaParams<cute::tuple<int, int> > >(Params)"
    assert template_difference(main, full) == ""
    said = "template argument 1: ran Traits<half_t,576>, predicted Traits<bfloat16_t,576>"
    assert template_difference(main, full.replace("bfloat16_t, 576", "half_t, 576")) == said
    assert libraries.template_fields(full[:120]) is None
    assert parse_kernel_name(metadata).role == "metadata"
    assert template_difference(combine, combine.replace("160, 256", "128, 256")) != ""


@pytest.mark.parametrize(
    ("call", "gpu", "match"),
    [
        (replace(SPARSE, head_dim=320), "h100", "head dims 576 or 512"),
        (replace(SPARSE, backend="v4"), "h100", "a cache of v4"),
        (replace(SPARSE, entry="varlen_fwd", dtype="fp16"), "h100", "it takes bf16"),
        (replace(PREFILL, dtype="bf16"), "h100", "it is Blackwell's"),
        (PREFILL, "b200", "known is bf16"),
        (replace(SPARSE, entry="fwd"), "h100", "decode and packed prefill"),
    ],
)
def test_what_is_not_known_is_refused_in_a_sentence(call: AttentionCall, gpu: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        libraries.predict(call, gpu_by_name(gpu))
