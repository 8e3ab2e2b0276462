"""vLLM's and SGLang's Triton launches read back: the true step is among those told, spoilt ones are found.

Truth are upstream's own launches (tests/data/golden); a spoilt launch is to be found unless a step is known,
by the forward prediction alone, that launches just it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnprof.check.check_run import CheckResult, Verdict
from attnprof.dispatch import libraries
from attnprof.dispatch.explanation import GpuFacts, Observed, ReadBack
from attnprof.gpus import gpu_by_name, make_gpu
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from attnprof.runs.run import load
from tests.conftest import golden_rows
from tests.spoil.triton_scenes import VERSIONS, witness
from tests.support.build_trace import TraceBuilder

FILES = (
    *(f"vllm_triton_{version}" for version in ("0.10.0", "0.19.1", "0.20.0", "0.33.0")),
    "vllm_drafts_triton_0.33.0", "sglang_triton_0.5.23",
)  # fmt: skip
Launches = tuple[KernelLaunch, ...]


def told(launches: Launches, gpu: Gpu | None) -> ReadBack | None:
    facts = GpuFacts() if gpu is None else GpuFacts(gpu.num_sms, (gpu.sm_major, gpu.sm_minor), gpu.vendor)
    return libraries.explain(Observed(*launches[:2]), facts)


def holds(back: ReadBack, call: AttentionCall, version: str) -> bool:
    """Whether the true step is among those told."""
    queries = max(call.seqlens_q or (call.seqlen_q,))
    return any(
        version in one.versions and one.entry == call.entry and queries in one.seqlen_q
        and call.head_dim in one.head_dim and one.batch in (None, call.batch)
        and one.heads in (None, call.num_heads, call.num_heads_k) and one.has_length(call.seqlen_k)
        for one in back.explanations
    )  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_step_of_upstream_is_among_those_told(name: str) -> None:
    seen = 0
    for row in golden_rows(f"{name}.jsonl.gz")[:: 2 if "drafts" in name else 4]:
        given, expect = row["call"], row["expect"]
        launches = tuple(
            KernelLaunch(one["kernel"], tuple(one["grid"]), (32 * (one["num_warps"] or 4), 1, 1))
            for one in expect["launches"]
        )
        if not launches or launches[0].kernel == "_fwd_kernel":
            continue
        seen += 1
        device = given["device"]
        gpu = make_gpu("", device["sm_major"], device["sm_minor"], device["num_sms"])
        lengths = tuple(given["seqlens_q"])
        call = AttentionCall(
            given["library"], given["entry"], given["batch"], max(lengths), max(given["seqlens_k"]),
            given["num_heads"], given["num_heads_k"], given["head_dim"], seqlens_q=lengths,
        )  # fmt: skip
        for known in (gpu, None):
            back = told(launches, known)
            assert back is not None, row
            assert holds(back, call, given["version"]), row
    assert seen > 100


STEPS = st.builds(
    lambda library, version, queries, heads, groups, head_dim, graph: AttentionCall(
        library, "batch_paged" if library == "vllm_triton" else "fwd_kvcache", len(queries), max(queries),
        4096, heads * groups, heads, head_dim, causal=True, cuda_graph=graph,
        seqlens_q=tuple(queries) if library == "vllm_triton" else (1,) * len(queries),
        page_block_size=int(version.partition(".")[0]) + 16,
    ),
    st.sampled_from(["vllm_triton", "sglang_triton"]),
    st.sampled_from(["0"]),
    st.lists(st.integers(1, 12), min_size=1, max_size=40),
    st.integers(1, 40), st.integers(1, 24), st.sampled_from([64, 128, 256]), st.booleans(),
)  # fmt: skip
GPUS = st.sampled_from([gpu_by_name(name) for name in ("h100", "a100", "b200", "5090", "l40s")])


@given(STEPS, GPUS, st.integers(0, 2))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_the_true_step_is_always_among_those_read_back(call: AttentionCall, gpu: Gpu, which: int) -> None:
    if call.library == "sglang_triton":
        call = replace(call, seqlen_q=1)
    version = VERSIONS[call.library][which % len(VERSIONS[call.library])]
    launches = libraries.predict(call, gpu, version).launches
    if launches:
        back = told(launches, gpu)
        assert back is not None
        assert holds(back, call, version)


def spoilt(launches: Launches, rng: Random) -> Launches:
    """One size changed, a kernel left out, or one of another kind in its place."""
    at = rng.randrange(len(launches))
    one = launches[at]
    kind = rng.choice(("grid", "grid", "block", "left out", "other"))
    if kind == "left out" and len(launches) > 1:
        return launches[:at] + launches[at + 1 :]
    if kind == "other":
        name = rng.choice(("kernel_unified_attention", "_fwd_kernel_stage1", "_fwd_grouped_kernel_stage1"))
        return (*launches[:at], replace(one, kernel=name), *launches[at + 1 :])
    which = "block" if kind == "block" else "grid"
    size = list(getattr(one, which))
    axis = rng.randrange(3)
    size[axis] = rng.choice([new for new in (size[axis] * 2, size[axis] + 1, size[axis] + 32, 7) if new])
    return (*launches[:at], replace(one, **{which: tuple(size)}), *launches[at + 1 :])


def test_spoilt_launches_are_found_or_are_those_of_another_step() -> None:
    """Of what was drawn none is missed; a miss would be told with its launches."""
    rng, found, others = Random(15), 0, 0
    gpus = [gpu_by_name(name) for name in ("h100", "a100", "b200", "l40s")]
    rows = [row for name in FILES for row in golden_rows(f"{name}.jsonl.gz")[::5]]
    for row in rng.sample(rows, 240):
        expect = row["expect"]["launches"]
        if not expect or expect[0]["kernel"] in ("_fwd_kernel", "_fwd_kernel_unified"):
            continue
        whole = tuple(
            KernelLaunch(one["kernel"], tuple(one["grid"]), (32 * (one["num_warps"] or 4), 1, 1))
            for one in expect
        )
        gpu = rng.choice(gpus)
        broken = spoilt(whole, rng)
        if broken == whole:
            continue
        back = told(broken, gpu)
        if back is not None and not back.explanations:
            found += 1
            continue
        assert witness(broken, gpu) is not None, broken
        others += 1
    assert found > 40
    assert others > 20


def trace_of(folder: Path, calls: list[Launches], name: str = "NVIDIA H100") -> CheckResult:
    """The check of a trace of these calls, without records."""
    builder = TraceBuilder()
    builder.add("TARGET_INFO_GPU", vmId=1, id=0, name=name, smCount=132, computeMajor=9, computeMinor=0)
    time = correlation = 1
    for launches in calls:
        for launch in launches:
            time, correlation = time + 1000, correlation + 1
            builder.call(time, time + 10, correlation)
            builder.kernel(
                launch.kernel, time + 100, time + 400, correlation, grid=launch.grid, block=launch.block
            )
    folder.mkdir()
    return load(builder.write(folder / "t.sqlite")).check()


def test_a_whole_trace_raises_no_alarm_and_each_part_taken_from_it_does(tmp_path: Path) -> None:
    decode = AttentionCall("vllm_triton", "batch_paged", 8, 1, 4096, 32, 8, 128, causal=True)
    prompt = replace(decode, batch=2, seqlen_q=700)
    sglang = AttentionCall("sglang_triton", "fwd_kvcache", 8, 1, 4096, 32, 8, 128)
    h100 = gpu_by_name("h100")
    three, two, other = (libraries.predict(call, h100).launches for call in (decode, prompt, sglang))
    for number, whole in enumerate(([two, *[three] * 4], [other] * 4)):
        result = trace_of(tmp_path / f"whole{number}", whole)
        assert result.failures == ()
        assert set(result.counts) == {Verdict.EXPLAINED}
        split = whole[-1]
        for part in (split[:1], split[1:]):
            inside = trace_of(tmp_path / f"inside{number}{part[0].kernel}", [*whole, part, *whole])
            assert [call.verdict for call in inside.failures] == [Verdict.UNEXPLAINED]
        begins = trace_of(tmp_path / f"begins{number}", [split[1:], *whole])
        ends = trace_of(tmp_path / f"ends{number}", [*whole, split[:1]])
        for cut in (begins, ends):
            assert cut.failures == ()
            assert cut.counts[Verdict.NOT_READ] == 1


def test_an_amd_gpu_has_waves_of_64(tmp_path: Path) -> None:
    decode = AttentionCall("vllm_triton", "batch_paged", 8, 1, 4096, 32, 8, 128, causal=True)
    launches = libraries.predict(decode, gpu_by_name("mi300x")).launches
    assert {launch.block for launch in launches} == {(256, 1, 1)}
    assert trace_of(tmp_path / "amd", [launches] * 3, "AMD Instinct MI210").failures == ()
    assert len(trace_of(tmp_path / "nvidia", [launches] * 3).failures) == 3


def test_on_amd_gpus_names_that_aiter_has_too_are_told_to_be_whose_launch_they_are(tmp_path: Path) -> None:
    """Waves and segments tell AITER's 3D from vLLM's; prompts in 2D may be of either."""
    mi300x = gpu_by_name("mi300x")
    vllms = AttentionCall("vllm_triton", "batch_paged", 1, 1, 4096, 32, 8, 128, causal=True)
    aiters = replace(vllms, library="aiter_paged", page_block_size=16)
    prompt = replace(aiters, seqlen_q=1000)
    for number, (call, version, whose) in enumerate((
        (vllms, "0.10.0", "vLLM's kernel_unified_attention_3d"),
        (replace(vllms, batch=16), "0.19.1", "vLLM's kernel_unified_attention_3d"),
        (aiters, "0.1.7", "AITER's kernel_unified_attention_3d"),
        (replace(aiters, window=(127, 0)), "0.1.7", "AITER's kernel_unified_attention_2d"),
        (prompt, "0.1.7", "AITER's or vLLM's kernel_unified_attention_2d"),
    )):  # fmt: skip
        launches = libraries.predict(call, mi300x, version).launches
        result = trace_of(tmp_path / f"amd{number}", [launches] * 3, "AMD Instinct MI300X")
        assert (set(result.counts), result.owners) == ({Verdict.EXPLAINED}, {whose: 3})
        spoilt = (replace(launches[0], block=(192, 1, 1)), *launches[1:])
        result = trace_of(tmp_path / f"spoilt{number}", [spoilt] * 3, "AMD Instinct MI300X")
        assert (set(result.counts), result.owners) == ({Verdict.UNEXPLAINED}, {})
