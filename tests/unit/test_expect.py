"""Gates for CI: what a user expects of the kernels, beyond the library's rules."""

from __future__ import annotations

import json

import pytest

from tests.conftest import TESTS
from tests.support.command import attnprof

QWEN = str(TESTS / "data" / "traces" / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz")
B200 = str(TESTS / "data" / "traces" / "torch_b200_vllm_eager_trtllmgen_fmha.json.gz")
TINY = str(TESTS / "data" / "traces" / "nsys2026.1_rtx3080_tiny_nonvtx.sqlite.gz")
GRAPH = str(TESTS / "data" / "traces" / "nsys2025.5_rtx3060_cuda_graph_trace.sqlite.gz")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([QWEN, "--expect", "flash"], 0),
        ([QWEN, "--expect", "nosplit", "--expect-splits", "1"], 0),
        ([QWEN, "--expect", "splitkv"], 1),
        ([QWEN, "--expect-splits", "2"], 1),
        ([QWEN, "--expect", "cudnn"], 1),
        ([B200, "--expect", "flash"], 1),
        ([TINY, "--expect", "flash"], 1),
        ([GRAPH, "--expect", "flash"], 3),
        ([QWEN, "--fail-on", "explained"], 1),
        ([QWEN, "--fail-on", "none"], 0),
        ([B200, "--fail-on", "mismatch,not-modelled"], 1),
    ],
)
def test_exit_code_of_an_expectation(arguments: list[str], code: int) -> None:
    assert attnprof("check", *arguments).code == code


def test_what_ran_instead_is_named() -> None:
    done = attnprof("check", QWEN, "--expect", "splitkv")
    assert "ran flash_fwd_kernel (pytorch-bundled-flash), not splitkv" in done.out
    assert "FAILED: 34 of 34 attention calls" in done.out


def test_json_lists_the_findings() -> None:
    done = attnprof("check", QWEN, "--expect-splits", "2", "--format", "json")
    findings = json.loads(done.out)["findings"]
    assert len(findings) == 34
    assert {finding["detail"] for finding in findings} == {"ran 1 split, not 2"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--expect", "fast"], "--expect fast is none of flash"),
        (["--phase", "warmup"], "--phase warmup is none of prefill, decode"),
        (["--fail-on", "sunday"], "--fail-on 'sunday' is no verdict"),
    ],
)
def test_unknown_words_give_one_error(arguments: list[str], says: str) -> None:
    done = attnprof("check", QWEN, *arguments)
    assert done.code == 2
    assert says in done.err
