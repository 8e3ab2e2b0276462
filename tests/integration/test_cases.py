"""Small inputs that were once read wrongly, each with what is right (tests/data/cases)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnprof import load
from tests.support.build_trace import TraceBuilder
from tests.support.command import attnprof

CASES = Path(__file__).resolve().parent.parent / "data" / "cases"


def case(name: str) -> str:
    return str(CASES / name)


def test_sglang_extend_is_prefill() -> None:
    run = load(case("F14_sglang_extend.json"))
    assert [call.phase for call in run.check().calls] == ["prefill", "decode", "decode", "decode"]
    assert " other " not in attnprof("report", case("F14_sglang_extend.json")).out


def test_an_amd_gpu_is_named_and_nothing_is_predicted_for_another() -> None:
    path = case("F1_aotriton_attn_fwd.json")
    report, doctor, check = (attnprof(command, path) for command in ("report", "doctor", "check"))
    assert (report.code, doctor.code, check.code) == (0, 0, 3)
    text = " ".join(report.out.split())
    assert "AMD Instinct MI300X, 304 CUs" in text
    assert "1 attention call ran attn_fwd: not modelled" in text
    assert "Attention is 100.0 % of its GPU time" in text
    assert "(aotriton)" in doctor.out
    for said in (report.out, doctor.out, check.out):
        assert not any(wrong in said for wrong in ("H100", "GEMM", "no GPU kernel"))


def test_a_trace_of_which_nothing_was_compared_is_no_success() -> None:
    done = attnprof("check", case("F4_unmodelled_plus_unobserved.json"))
    assert done.code == 3
    assert "nothing was compared" in done.out
    assert "OK" not in done.out


@pytest.mark.parametrize("count", ["1", "4"])
def test_a_split_count_that_cannot_be_read_is_neither_as_expected_nor_not(count: str) -> None:
    done = attnprof("check", case("F15_fa3_upstream_names.json"), "--expect-splits", count)
    assert done.code == 3
    assert "None" not in done.out
    assert "FlashAttnFwdSm90 does not show how many splits it ran" in " ".join(done.out.split())


def test_a_library_that_is_predicted_is_no_other_where_its_arguments_are_missing() -> None:
    done = attnprof("check", case("F15_fa3_upstream_names.json"))
    assert done.code == 3
    assert done.out.startswith("compared 0 of 3 calls; 3 not compared: arguments not recorded\n")
    assert "another library" not in done.out


def trace_of(tmp_path: Path, *names: str, graphs: int = 0) -> str:
    """An nsys export with these kernels, and CUDA graphs recorded whole."""
    builder = TraceBuilder()
    for number, name in enumerate(names, start=1):
        builder.call(100 * number, 100 * number + 10, number)
        builder.kernel(name, 100 * number + 20, 100 * number + 80, number)
    for number in range(graphs):
        builder.add(
            "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=9000 + number, end=9500, deviceId=0, contextId=1,
            streamId=7, correlationId=900 + number, graphId=1, graphExecId=1,
        )  # fmt: skip
    return str(builder.write(tmp_path / "trace.sqlite"))


GEMM = "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>(Params)"


@pytest.mark.parametrize(
    ("names", "graphs", "said"),
    [
        ((GEMM,), 0, "attention ran as plain GEMMs, or not at all"),
        ((GEMM,), 2, "outside the CUDA graphs, whose kernels are hidden"),
        ((GEMM, "my_company_mixer_v7"), 0, "1 kernel it cannot place may be: my_company_mixer_v7"),
    ],
)
def test_doctor_says_plain_gemms_only_where_nothing_else_can_be(
    tmp_path: Path, names: tuple[str, ...], graphs: int, said: str
) -> None:
    out = " ".join(attnprof("doctor", trace_of(tmp_path, *names, graphs=graphs)).out.split())
    assert said in out
    assert ("plain GEMMs" in out) == (said.startswith("attention ran"))


def test_ranks_without_an_attention_call_are_not_said_to_dispatch_the_same(tmp_path: Path) -> None:
    for rank in ("rank0", "rank1"):
        (tmp_path / rank).mkdir()
        path = trace_of(tmp_path / rank, GEMM)
        Path(path).rename(tmp_path / f"{rank}.sqlite")
        (tmp_path / rank).rmdir()
    out = attnprof("report", str(tmp_path)).out
    assert "no rank has an attention call: nothing to compare" in out
    assert "same on all ranks" not in out


def test_aotritons_kernel_on_an_mi300x_is_attention_that_is_not_modelled_and_no_h100() -> None:
    for command in ("report", "doctor", "check"):
        out = " ".join(attnprof(command, case("F1_aotriton_attn_fwd.json")).out.split())
        assert "H100" not in out
        assert "no GPU kernel was observed" not in out
        assert "plain GEMMs" not in out
    out = " ".join(attnprof("report", case("F1_aotriton_attn_fwd.json")).out.split())
    assert "AMD Instinct MI300X, 304 CUs" in out
    assert "Attention is 100.0 % of its GPU time" in out
    assert "1 attention call ran attn_fwd: not modelled" in out
    assert attnprof("check", case("F1_aotriton_attn_fwd.json")).code == 3


def test_two_kinds_of_layers_have_a_timeline_each_and_switch_nowhere() -> None:
    rows = json.loads(attnprof("report", case("F5_alternating_layers.json.gz"), "--format", "json").out)
    assert [(row["num_splits"], row["calls"]) for row in rows["splits"]] == [(8, 60), (16, 12)]
    both = case("F5_alternating_layers.json.gz")
    assert "switches" not in attnprof("diff", both, both).out
