"""What a verdict says of flash_attn_3's kernels, whose names spell out how each was compiled."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from attnprof.check.check_run import Verdict, compare
from attnprof.check.observed_shape import ObservedShape
from attnprof.dispatch import predict
from attnprof.dispatch.flash_attn3.names import device_kernel
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.template import template_difference, template_fields
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch, Prediction
from tests.conftest import golden_rows
from tests.support.flash_attn3 import recorded_call

H100 = gpu_by_name("h100")
PREFILL = AttentionCall("flash_attn_3", "fwd", 2, 2048, 2048, 28, 4, 128, causal=True)
DECODE = AttentionCall(
    "flash_attn_3", "fwd_kvcache", 2, 1, 32768, 28, 4, 128, causal=True, cache_seqlens=True
)
VERSIONS = ("2.7.4", "2.8.3", "3.0.0")


def observed(prediction: Prediction, *changes: tuple[str, str]) -> ObservedShape:
    """The launches of a call as a trace has them, with texts replaced in the kernels' names."""
    launches: list[KernelLaunch] = []
    for launch in prediction.launches:
        if parse_kernel_name(launch.kernel).family != "scheduler_aux":
            kernel = launch.kernel
            for old, new in changes:
                kernel = kernel.replace(old, new)
            launches.append(replace(launch, kernel=kernel))
    return ObservedShape(tuple(launches), tuple(parse_kernel_name(launch.kernel) for launch in launches))


def as_nsys_spells(kernel: str) -> str:
    kernel = re.sub(r"(?<=[<, ])(\d+)(?=[,>])", r"(int)\1", kernel)
    kernel = re.sub(r"\b(true|false)\b", lambda found: f"(bool){int(found[0] == 'true')}", kernel)
    return kernel.replace(" >", ">")


def as_ncu_spells(kernel: str) -> str:
    kernel = re.sub(r"\b(true|false)\b", lambda found: str(int(found[0] == "true")), kernel)
    return re.sub(r"\b(?:flash|cutlass)::", "", kernel).replace(" >", ">")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("call", [PREFILL, DECODE])
def test_the_predicted_kernels_match_in_any_spelling(call: AttentionCall, version: str) -> None:
    prediction = predict(call, H100, version)
    shape = observed(prediction)
    assert compare(prediction, shape) == (Verdict.MATCH, "")
    for spelled in (as_nsys_spells, as_ncu_spells):
        launches = tuple(replace(launch, kernel=spelled(launch.kernel)) for launch in shape.launches)
        assert all(template_fields(launch.kernel) for launch in launches)
        assert compare(prediction, replace(shape, launches=launches)) == (Verdict.MATCH, "")


@pytest.mark.parametrize("version", [*VERSIONS, "617264c1"])
def test_compiled_kernels_of_other_templates_differ_and_of_the_same_do_not(version: str) -> None:
    rows = [row for row in golden_rows("fa3_kernels.jsonl.gz") if row["version"] == version]
    kernels = [device_kernel(row["functor"]) for row in rows]
    for kernel in kernels:
        assert template_fields(kernel) is not None
        assert template_difference(kernel, kernel) == ""
    for row, kernel in zip(rows, kernels, strict=True):
        for other_row, other in zip(rows, kernels, strict=True):
            fields = ("block_h", "Use_one_mma_wg")  # of the fork, not compared
            ours, theirs = (
                {k: v for k, v in r["template"].items() if k not in fields} for r in (row, other_row)
            )
            same_kernel = {**ours, "arch": 0} == {**theirs, "arch": 0} or kernel == other
            assert same_kernel or template_difference(kernel, other)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("cute::C<128>, cute::C<128>, cute::C<128>", "cute::C<128>, cute::C<176>, cute::C<128>"),
         "block_n: ran 176, predicted 128"),
        (("arch::Sm90, true, false", "arch::Sm90, false, true"),
         "Is_causal: ran False, predicted True; Is_local: ran True, predicted False"),
        (("bfloat16_t, float", "half_t, float"), "dtype: ran fp16, predicted bf16"),
        (("DynamicPersistentTileScheduler", "StaticPersistentTileScheduler"),
         "scheduler: ran StaticPersistentTileScheduler, predicted DynamicPersistentTileScheduler"),
    ],
)  # fmt: skip
def test_another_template_is_named_field_by_field(change: tuple[str, str], says: str) -> None:
    prediction = predict(PREFILL, H100, "2.8.3")
    assert compare(prediction, observed(prediction, change)) == (
        Verdict.WRONG_TEMPLATE,
        f"FlashAttnFwdSm90: {says}",
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("C<128> >, 5, 256", "C<128> >, 6, 256"), "log_max_splits: ran 6, predicted 5"),
        (("false, false, cutlass::bfloat16_t, float", "false, false, float, float"),
         "dtype: ran fp32, predicted bf16"),
        (("false, false, cutlass::bfloat16_t, float", "false, false, cutlass::float_e4m3_t, float"),
         "dtype: ran fp8, predicted bf16"),
    ],
)  # fmt: skip
def test_another_combine_kernel_is_named(change: tuple[str, str], says: str) -> None:
    prediction = predict(DECODE, H100, "2.8.3")
    verdict, detail = compare(prediction, observed(prediction, change))
    assert (verdict, detail) == (Verdict.WRONG_TEMPLATE, f"FlashAttnFwdCombine: {says}")


def test_another_version_shows_in_what_its_templates_name() -> None:
    ran = observed(predict(DECODE, H100, "3.0.0"))
    verdict, detail = compare(predict(DECODE, H100, "2.8.3"), ran)
    assert verdict is Verdict.WRONG_TEMPLATE
    assert "Sort: ran True, predicted None" in detail


def test_the_guard_that_changed_its_name_after_3_0_is_no_difference() -> None:
    prediction = predict(PREFILL, H100, "3.0.0")
    ran = observed(prediction, ("flash::enable_sm90_or_later<", "flash::enable_sm90<"))
    assert compare(prediction, ran) == (Verdict.MATCH, "")


@pytest.mark.parametrize(
    "cut",
    [
        lambda name: name[:90] + "…",
        lambda name: name[: name.index("CollectiveEpilogue")],
        lambda name: name.replace("arch::Sm90, ", "arch::Sm90, true, true, "),
        lambda name: name.replace("cute::C<128>, cute::C<128>, cute::C<128>", "cute::C<128>, cute::C<128>"),
    ],
)
def test_names_that_are_cut_or_of_no_known_version_are_not_compared(cut: Any) -> None:
    prediction = predict(PREFILL, H100, "2.8.3")
    shape = observed(prediction)
    launches = tuple(replace(launch, kernel=cut(launch.kernel)) for launch in shape.launches)
    verdict, detail = compare(prediction, replace(shape, launches=launches))
    assert verdict is Verdict.NOT_READ
    assert "the template arguments of FlashAttnFwdSm90 cannot be read" in detail


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cute::C<128>", f"cute::C<{'9' * 5000}>", f"ran {'9' * 40}…, predicted 128"),
        ("bfloat16_t", "float_e5m2_t", "ran float_e5m2_t, predicted bfloat16_t"),
        (" float,", " cutlass::half_t,", "ran half_t, predicted float"),
    ],
)
def test_a_whole_name_with_an_argument_of_no_known_version_is_not_the_predicted_one(
    old: str, new: str, said: str
) -> None:
    prediction = predict(PREFILL, H100, "2.8.3")
    verdict, detail = compare(prediction, observed(prediction, (old, new)))
    assert verdict is Verdict.WRONG_TEMPLATE
    assert said in detail


def test_every_recorded_call_matches_its_own_prediction() -> None:
    for version in VERSIONS:
        for row in golden_rows(f"fa3_host_{version}.jsonl.gz"):
            prediction = predict(*recorded_call(row))
            if prediction.launches:
                assert compare(prediction, observed(prediction)) == (Verdict.MATCH, "")
