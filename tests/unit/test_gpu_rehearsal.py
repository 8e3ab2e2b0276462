"""The rehearsal of the GPU evidence: every line that a GPU would run is run, and nothing is claimed by it."""

from __future__ import annotations

import dis
import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from benchmarks import gpu_evidence
from tests.conftest import TESTS

FOLDER = Path(gpu_evidence.__file__).parent
PACKAGES = TESTS / "support" / "packages"
# What only another machine or a fault reaches. A line of any other text must have been run.
NOT_REHEARSED: dict[str, tuple[str, ...] | None] = {
    "__main__.py": None,  # its own errors, which test_gpu_evidence makes
    "evidence.py": None,
    "flash_attn_4.py": ('evidence.skip("flash_attn_4"', "return", "continue"),
    "calls.py": ('row["cache_batch_idx"] = True',),
    "decode.py": ("raise NotImplementedError",),
    "graphs.py": (
        *("program = ", "for command in", "try:", "done = ", "except subprocess.", "if done.", "return"),
        *('evidence.add("graphs", nsys=', 'compare(evidence, "nsys_node_mode"', "replay([capture", "main()"),
    ),
    "matrix.py": ('evidence.add("matrix", other_sm_counts', "return", "evidence.add(step, cut_off=", "break"),
    "numerics.py": ('evidence.skip("numerics"', "return", "continue"),
    "package.py": (
        *("evidence.skip(", '"flash_attn", "the flash_attn package is not', "return", "def make()"),
        *("import flash_attn_interface", "options: dict[str, Any] =", 'if call.entry == "fwd_kvcache":'),
    ),
    "sm_count.py": ("return None",),
    "splitting.py": ('evidence.skip("splitting"', "return", "continue"),
    "stand_in.py": ("raise RuntimeError(call.why)", "return operator("),
    "story.py": ("raise ValueError(", 'f"{len(observed)} attention calls ran'),
    "vllm.py": ("evidence.skip(", "return", "yield \"vLLM's extension is not"),
    "trim.py": ("raise ValueError(", "return name.startswith("),
}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, dict[str, set[int]]]:
    """(exit code, folder of results, lines run by file) of a whole rehearsal with flash_attn's functions."""
    from benchmarks.gpu_evidence import __main__ as command
    from benchmarks.gpu_evidence import graphs

    out = tmp_path_factory.mktemp("rehearsal")
    run: dict[str, set[int]] = defaultdict(set)

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        run[Path(frame.f_code.co_filename).name].add(frame.f_lineno)
        return line

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        return line(frame, event, argument) if frame.f_code.co_filename.startswith(str(FOLDER)) else None

    before, path, modules = sys.gettrace(), list(sys.path), set(sys.modules)
    sys.settrace(entered)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graphs, "find_nsys", lambda: None)  # it would record a program that has no GPU
            code = command.main(["--rehearse", "--out", str(out), "--packages", str(PACKAGES)])
    finally:
        sys.settrace(before)
        sys.path[:] = path
        for name in {"flash_attn"} - modules:
            sys.modules.pop(name, None)
    return code, out, run


def test_every_line_that_a_gpu_would_run_is_run(
    rehearsal: tuple[int, Path, dict[str, set[int]]],
) -> None:
    missed = []
    for file in sorted(FOLDER.glob("*.py")):
        allowed = NOT_REHEARSED.get(file.name, ())
        source = file.read_text().splitlines()
        for number in sorted(_lines_of_functions(file) - rehearsal[2][file.name]):
            text = source[number - 1].strip()
            if allowed is not None and not text.startswith(allowed or ("\0",)):
                missed.append(f"{file.name}:{number}: {text}")
    assert missed == []


def test_it_says_that_it_is_evidence_of_nothing_and_fails_where_a_step_breaks(
    rehearsal: tuple[int, Path, dict[str, set[int]]],
) -> None:
    code, out, _ = rehearsal
    results = json.loads((out / "evidence.json").read_text())
    assert code == 0
    assert "evidence of nothing" in results["rehearsal"]
    assert results["environment"]["gpu"]["name"] == "stand-in for a rehearsal, no GPU"
    assert set(results["steps"]) >= {
        *("story", "matrix", "flash_attn", "vllm_fa3", "splitting", "graphs", "numerics", "flash_attn_4"),
    }
    assert not any("error" in step or "skipped" in step for step in results["steps"].values())
    assert results["steps"]["flash_attn"]["verdicts"]
    occupancy = results["steps"]["occupancy"]
    assert occupancy["kernels"] > 20
    assert occupancy["mismatches"] == 0
    assert results["steps"]["splitting"]["call"]["num_heads"] == 28
    assert results["steps"]["peaks"]["matmul_flops_per_s"].keys() == {"bf16", "fp16"}
    calls = calls_made(out / "observed_flash_attn.jsonl.gz")
    # What was left out of the package's build is not called.
    assert {(call["head_dim"], call["dtype"]) for call in calls} == {(128, "bf16")}
    assert {call["entry"] for call in calls} == {"fwd", "varlen_fwd", "fwd_kvcache"}
    planned = calls_made(out / "observed_vllm_flash_attn.jsonl.gz")
    assert {call.get("scheduler_metadata", False) for call in planned} == {True, False}
    assert {call.get("page_block_size") for call in planned} == {None, 16}
    assert {call["num_splits_arg"] for call in planned} == {0, 1, 32}
    assert {call["num_splits_arg"] for call in calls_made(out / "observed_flash_attn_4.jsonl.gz")} == {
        0,
        -1,
        3,
    }
    assert results["steps"]["story"]["splits_108"][1] == {"step": 104, "seqlen_k": 129, "num_splits": 2}


def calls_made(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as rows:
        return [json.loads(row)["call"] for row in rows]


def test_a_step_that_breaks_in_the_rehearsal_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu_evidence import __main__ as command
    from benchmarks.gpu_evidence import numerics

    monkeypatch.delattr(numerics, "decode_inputs")
    assert command.main(["--rehearse", "--out", str(tmp_path), "--only", "numerics"]) == 1
    found = json.loads((tmp_path / "evidence.json").read_text())["steps"]["numerics"]
    assert found["error"].startswith("NameError")


def test_torch_has_no_gpu_again_after_a_rehearsal(rehearsal: Any) -> None:
    import torch

    assert not torch.cuda.is_available()
    assert torch.zeros(2).device.type == "cpu"


def _lines_of_functions(file: Path) -> set[int]:
    """Lines with code inside functions: those outside ran when the module was imported."""
    lines: set[int] = set()

    def add(code: CodeType, inside: bool) -> None:
        if inside:
            lines.update(line for _, line in dis.findlinestarts(code) if line and line != code.co_firstlineno)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                add(constant, inside or constant.co_flags & 0x2 != 0)  # CO_NEWLOCALS: a function's body

    add(compile(file.read_text(), str(file), "exec"), False)
    return lines
