"""FlashAttention-4, FlashMLA, FlexAttention and AITER: launches read back to calls, and spoiled ones found.

Truth is the forward prediction alone. What is read back must hold the call that made the launches, and a
launch that no call makes must be called unexplained.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from attnprof.check.compare import compare
from attnprof.check.observed_shape import ObservedShape
from attnprof.check.verdicts import Verdict
from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_attn4.read_back import UNSEEN
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction
from tests.conftest import GOLDEN

FA4 = AttentionCall("flash_attn_4", "fwd", 1, 1, 65536, 28, 4, 128, num_splits=-1)


def seen(prediction: Prediction) -> Observed:
    """The launches as a trace shows them: the main kernel, what is before and what is after it."""
    roles = [parse_kernel_name(launch.kernel).role for launch in prediction.launches]
    of = dict(zip(roles, prediction.launches, strict=True))
    return Observed(of["main"], of.get("combine"), of.get("scheduler"))


def told(observed: Observed, gpu: Gpu) -> ReadBack:
    facts = GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor), vendor=gpu.vendor)
    found = libraries.explain(observed, facts)
    assert found is not None
    return found


def holds(back: ReadBack, call: AttentionCall, num_splits: int, *, chosen: bool) -> bool:
    """Whether the true call is among the explanations."""
    return any(
        one.library == call.library
        and one.entry == call.entry
        and one.num_splits in (num_splits, UNSEEN)
        and one.batch in (None, call.batch)
        and call.seqlen_q in one.seqlen_q
        and call.head_dim in one.head_dim
        and one.has_length(call.seqlen_k)
        for one in (back.chosen if chosen else back.explanations)
    )


calls_of_fa4 = st.builds(
    replace,
    st.just(FA4),
    entry=st.sampled_from(["fwd", "fwd", "varlen_fwd"]),
    batch=st.integers(1, 80),
    seqlen_q=st.sampled_from([1, 1, 2, 16, 129, 1000, 4096]),
    seqlen_k=st.integers(1, 70_000),
    num_heads=st.sampled_from([4, 8, 28, 32, 128]),
    num_heads_k=st.sampled_from([1, 4]),
    head_dim=st.sampled_from([64, 96, 128, 192, 256]),
    causal=st.booleans(),
    window=st.sampled_from([(-1, -1), (-1, -1), (128, 0)]),
    num_splits=st.sampled_from([-1, -1, 0, 3, 8]),
    page_block_size=st.sampled_from([None, None, 64, 128]),
)
GPUS = st.sampled_from(["b200", "gb200", "b300", "h100", "h20", "a100", "5090"])


@given(calls_of_fa4, GPUS, st.booleans(), st.sampled_from(["4.0.0b36", "vllm-0.33.0"]))
@example(
    replace(FA4, entry="varlen_fwd", batch=1, seqlen_k=513, num_heads=4, num_heads_k=4, head_dim=64,
            num_splits=-1), "h100", False, "vllm-0.33.0",
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_the_true_call_of_flash_attn_4_is_read_back(
    call: AttentionCall, name: str, mla: bool, version: str
) -> None:
    gpu = gpu_by_name(name)
    if mla and gpu.sm_major == 10:
        call = replace(call, head_dim=64, head_dim_v=512, window=(-1, -1))
    if call.head_dim == 192:
        call = replace(call, head_dim_v=128)
    try:
        prediction = libraries.predict(call, gpu, version)
    except UsageError:
        assume(False)
        return
    assume(prediction.launches)
    assert prediction.num_splits is not None
    back = told(seen(prediction), gpu)
    assert holds(back, call, prediction.num_splits, chosen=False)
    if call.num_splits == -1 and prediction.num_splits > 1:
        assert holds(back, call, prediction.num_splits, chosen=True)


@pytest.mark.parametrize("version", ["4.0.0b36", "vllm-0.33.0"])
def test_no_launch_of_the_host_code_is_called_unexplained(version: str) -> None:
    with gzip.open(GOLDEN / f"fa4_recorded_{version}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    bare = 0
    for row in rows:
        launches = tuple(
            KernelLaunch(
                f"kernel_cutlass_kernel_{each['kernel']}_object_at__tensor0000o11101213_0",
                tuple(each["grid"]),
                tuple(each["block"]),
            )
            for each in row["expect"]["launches"]
            if "CuSeqlens" not in each["kernel"]
        )
        if not launches or row["call"]["clc"]:
            continue
        major, minor = divmod(row["call"]["arch"], 10)
        facts = GpuFacts(row["call"]["num_sms"], (major, minor))
        back = libraries.explain(seen(Prediction(launches)), facts)
        if back is None:  # vLLM's kernel for head dim 256
            bare += 1
            continue
        assert back.explanations, row
    assert bare < 25


def main_with(**changes: object) -> Callable[[Observed], Observed]:
    return lambda one: replace(one, main=replace(one.main, **changes))


def combine_with(**changes: object) -> Callable[[Observed], Observed]:
    def spoiled(one: Observed) -> Observed:
        assert one.combine is not None
        return replace(one, combine=replace(one.combine, **changes))

    return spoiled


DECODE = replace(FA4, batch=2)
PREFILL = replace(FA4, seqlen_q=4096, seqlen_k=4096, causal=True, num_splits=0)
PACKED = replace(FA4, entry="varlen_fwd", batch=4, total_q=4)


@pytest.mark.parametrize(
    ("call", "gpu", "spoil", "field"),
    [
        (DECODE, "b200", main_with(block=(384, 1, 1)), "block"),
        (DECODE, "b200", combine_with(block=(128, 1, 1)), "block of the combine kernel"),
        (DECODE, "b200", main_with(grid=(1, 37, 3)), "grid"),
        (DECODE, "b200", lambda one: replace(one, combine=None), "grid"),
        (PREFILL, "b200", main_with(grid=(16, 4, 2)), "grid"),
        (
            PREFILL,
            "h100",
            lambda one: replace(one, combine=seen(fa4(DECODE, "b200")).combine),
            "kernel after",
        ),
        (PREFILL, "a100", main_with(block=(256, 1, 1)), "block"),
        (PACKED, "b200", lambda one: replace(one, combine=None), "kernel before it"),
        (PACKED, "b200", main_with(grid=(149, 1, 1)), "grid"),
        (PACKED, "b200", combine_with(kernel="kernel_cutlass_kernel_other_object_at_"), "kernel after it"),
    ],
)
def test_a_spoiled_launch_of_flash_attn_4_is_found(
    call: AttentionCall, gpu: str, spoil: Callable[[Observed], Observed], field: str
) -> None:
    whole = seen(fa4(call, gpu))
    assert told(whole, gpu_by_name(gpu)).explanations
    back = told(spoil(whole), gpu_by_name(gpu))
    assert back.explanations == ()
    assert field in back.nearest


def fa4(call: AttentionCall, gpu: str) -> Prediction:
    return libraries.predict(call, gpu_by_name(gpu))


MLA = AttentionCall("flash_mla", "fwd_kvcache", 4, 1, 4096, 128, 1, 576, head_dim_v=512)
FLEX = AttentionCall("flex_attention", "fwd", 2, 1, 4096, 32, 8, 128)
CK = AttentionCall("aiter", "fwd", 2, 300, 8192, 32, 8, 128)
OTHERS = {
    "flash_mla": (MLA, ("h100", "h20", "h100-pcie")),
    "flex_attention": (FLEX, ("h100", "a100", "b200")),
    "aiter": (CK, ("mi300x", "mi355x")),
}


@given(
    st.sampled_from(sorted(OTHERS)), st.integers(0, 2), st.integers(1, 300), st.integers(1, 127),
    st.integers(1, 40_000), st.sampled_from([(128, 1), (32, 8), (16, 16), (64, 1)]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_the_true_call_of_the_others_is_read_back(
    library: str, number: int, batch: int, queries: int, keys: int, heads: tuple[int, int]
) -> None:
    base, gpus = OTHERS[library]
    gpu = gpu_by_name(gpus[number % len(gpus)])
    call = replace(base, batch=batch, seqlen_q=queries, seqlen_k=keys, num_heads=heads[0])
    call = replace(call, num_heads_k=1 if library == "flash_mla" else heads[1])
    try:
        prediction = libraries.predict(call, gpu)
    except UsageError:
        assume(False)
        return
    assert prediction.num_splits is not None
    # FlashMLA's split counts are each request's own, and no size shows them.
    splits = UNSEEN if library == "flash_mla" else prediction.num_splits
    assert holds(told(seen(prediction), gpu), call, splits, chosen=True)


@pytest.mark.parametrize(
    ("call", "gpu", "spoil", "field"),
    [
        (MLA, "h100", main_with(grid=(2, 1, 65)), "shares of the SMs"),
        (MLA, "h100", main_with(grid=(3, 1, 66)), "shares of the SMs"),
        (MLA, "h100", main_with(block=(128, 1, 1)), "block"),
        (MLA, "h100", lambda one: replace(one, combine=fa4(DECODE, "b200").launches[-1]), "kernel after it"),
        (FLEX, "h100", main_with(block=(48, 1, 1)), "block"),
        (FLEX, "h100", lambda one: replace(one, combine=fa4(DECODE, "b200").launches[-1]), "kernel after it"),
        (CK, "mi300x", main_with(block=(96, 1, 1)), "block"),
        (CK, "mi300x", lambda one: replace(one, combine=fa4(DECODE, "b200").launches[-1]), "kernel after it"),
    ],
)
def test_a_spoiled_launch_of_the_others_is_found(
    call: AttentionCall, gpu: str, spoil: Callable[[Observed], Observed], field: str
) -> None:
    whole = seen(libraries.predict(call, gpu_by_name(gpu)))
    assert told(whole, gpu_by_name(gpu)).explanations
    back = told(spoil(whole), gpu_by_name(gpu))
    assert back.explanations == ()
    assert field in back.nearest


def test_a_decoding_grid_of_flex_attention_that_no_gpu_gives_is_only_a_main_kernels() -> None:
    """Its kernels share a name: another split count is not found alone, but is no decoding kernel's."""
    whole = seen(libraries.predict(FLEX, gpu_by_name("h100")))
    assert [one.num_splits for one in told(whole, gpu_by_name("h100")).chosen] == [16]
    other = main_with(grid=(1, 16, 15))(whole)
    back = told(other, gpu_by_name("h100"))
    assert back.chosen == ()
    assert back.explanations


@pytest.mark.parametrize(("call", "gpu"), [(FA4, "b200"), (MLA, "h100"), (FLEX, "h100"), (CK, "mi300x")])
def test_a_recorded_call_with_another_grid_is_found(call: AttentionCall, gpu: str) -> None:
    """Where the arguments are known, the comparison is exact."""
    prediction = libraries.predict(call, gpu_by_name(gpu))
    main = next(one for one in prediction.launches if parse_kernel_name(one.kernel).role == "main")
    rest = tuple(
        one for one in prediction.launches if parse_kernel_name(one.kernel).role not in ("main", "metadata")
    )
    for grid, verdict in (
        (main.grid, Verdict.MATCH),
        ((*main.grid[:2], main.grid[2] + 1), Verdict.WRONG_GRID),
    ):
        ran = (replace(main, grid=grid), *rest)
        shape = ObservedShape(ran, tuple(parse_kernel_name(one.kernel) for one in ran))
        assert compare(prediction, shape)[0] is verdict
