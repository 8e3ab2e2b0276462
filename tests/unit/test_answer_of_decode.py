"""The answer speaks of the decode calls whose split counts are told, and of no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnprof import load
from attnprof.dispatch.names.kernel_names import short_name
from attnprof.report.summary import summarise
from tests.support.generated_run import generated_run

PAGED = "void vllm::paged_attention_v1_kernel<__half, __half, 128, 16, 128>(__half*)"


def of_another(launches: list[Any]) -> list[Any]:
    """A kernel whose name and grid tell no split count."""
    return [replace(launches[0], kernel=PAGED, grid=(28, 1, 1))]


def story(tmp_path: Path, steps: range, other: range) -> str:
    """What is said of two layers, in which the calls of these numbers run another library's kernel."""
    folder = generated_run(tmp_path, steps, spoil=dict.fromkeys(other, of_another), records=False)
    run = load(folder)
    return " ".join(summarise(run.recording, run.check()).story)


def test_all_calls_tell_a_count(tmp_path: Path) -> None:
    assert "Decode never splits the keys: it runs" in story(tmp_path, range(100, 106), range(0))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            range(100, 106),
            "decode never splits the keys",
        ),
        (range(300, 306), "decode splits the keys in 3"),
        (
            range(125, 131),
            "decode runs flash_fwd_kernel",
        ),
    ],
)
def test_calls_that_tell_none_are_not_spoken_for(tmp_path: Path, steps: range, said: str) -> None:
    told = story(tmp_path, steps, range(4))
    assert f"In the 8 of 12 decode calls that tell a split count, {said}" in told
    assert "Decode" not in told.replace("In the", "")


def test_a_kernel_called_kernel_has_its_namespace() -> None:
    gemv = "std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, __half, false>(int)"
    assert short_name(gemv) == "gemvx::kernel"
    for wrapper in ("Kernel", "Kernel2", "device_kernel"):
        named = f"void cutlass::{wrapper}<cutlass_80_tensorop_s1688f16gemm>(T1::Params)"
        assert short_name(named) == "cutlass_80_tensorop_s1688f16gemm"
    universal = "cutlass::gemm::kernel::GemmUniversal<cute::tuple<int, int, int>>"
    for wrapped in (universal, f"at::cuda::detail::enable_3x_kernel_for_sm9x<{universal}>"):
        assert short_name(f"void cutlass::device_kernel<{wrapped}>(Params)") == "GemmUniversal"
    assert short_name("kernel(int)") == "kernel"
    assert short_name("void at::native::vectorized_kernel<4>(int)") == "vectorized_kernel"
