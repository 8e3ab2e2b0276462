"""One recorded call as a program: what it calls, with which sizes, and that it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnprof.dispatch.libraries import library
from attnprof.model import AttentionCall
from attnprof.report.profiling import ncu_words
from tests.conftest import TESTS
from tests.support.command import attnprof
from tests.support.generated_run import generated_run
from tests.support.hybrid_trace import full, hybrid_trace

QWEN = TESTS / "data" / "traces" / "torch_h100_qwen1.5-0.5b_pytorch_flash.json.gz"
STAND_IN = """
def _told(name):
    def function(*tensors, **options):
        sizes = [list(one.shape) if hasattr(one, "shape") else one for one in tensors]
        print(name, sizes, sorted((k, v.tolist() if hasattr(v, "tolist") else v) for k, v in options.items()))
    return function

flash_attn_func = _told("func")
flash_attn_varlen_func = _told("varlen")
flash_attn_with_kvcache = _told("kvcache")
"""


def run_script(path: Path, folder: Path) -> list[str]:
    """What the program prints, with functions that print what they are given."""
    (folder / "flash_attn.py").write_text(STAND_IN)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(path), "cpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_call_is_made_again_with_its_sizes_and_timed(tmp_path: Path) -> None:
    generated_run(tmp_path, range(1000, 1003))
    path = tmp_path / "again.py"
    done = attnprof("replay", "generated", "--call", "3", "-o", str(path))
    assert done.code == 0
    assert done.out.splitlines() == [
        f"python {path}",
        "ncu --kernel-name flash_fwd_splitkv_kernel --launch-skip 10 --launch-count 1 --set full "
        f"python {path}",
    ]
    printed = run_script(path, tmp_path)
    assert len(printed) == 111
    assert set(printed[:-1]) == {
        "func [[1, 1, 28, 128], [1, 1001, 4, 128], [1, 1001, 4, 128]] [('causal', True)]"
    }
    assert printed[-1].startswith("median ")
    assert printed[-1].endswith("of 100 calls on cpu")
    assert (
        "It ran flash_fwd_splitkv_kernel + flash_fwd_splitkv_combine_kernel with grid 1x8x4."
        in path.read_text()
    )


def test_a_file_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    generated_run(tmp_path, range(1000, 1002))
    path = tmp_path / "again.py"
    path.write_text("mine")
    assert attnprof("replay", "generated", "--call", "1", "-o", str(path)).code == 2
    assert path.read_text() == "mine"
    assert attnprof("replay", "generated", "--call", "1", "-o", str(path), "-f").code == 0


def test_a_call_of_torch_is_made_by_its_flash_backend_and_runs(tmp_path: Path) -> None:
    printed = attnprof("replay", str(QWEN), "--call", "26", "-o", "-")
    script = printed.out if printed.code == 0 else ""
    assert "SDPBackend.FLASH_ATTENTION" in script
    small = script.replace("559", "7").replace("randn(16", "randn(1")
    (tmp_path / "small.py").write_text(small)
    assert run_script(tmp_path / "small.py", tmp_path)[-1].endswith("on cpu")


def test_packed_and_cached_calls(tmp_path: Path) -> None:
    packed = AttentionCall(
        "flash_attn", "varlen_fwd", 2, 3, 9, 28, 4, 128, causal=True, seqlens_q=(3, 1), seqlens_k=(9, 5)
    )
    made = library("flash_attn").replay(packed)
    assert made is not None
    head = 'import torch\ndevice, dtype = "cpu", torch.float32\n'
    (tmp_path / "p.py").write_text("\n".join([head, *made.imports, *made.lines, "call()"]))
    assert run_script(tmp_path / "p.py", tmp_path) == [
        "varlen [[4, 28, 128], [14, 4, 128], [14, 4, 128], [3], [3], 3, 9] [('causal', True)]"
    ]
    cached = AttentionCall(
        "flash_attn", "fwd_kvcache", 2, 1, 64, 28, 4, 128, cache_seqlens=True, seqlens_k=(9, 5), num_splits=3
    )
    made = library("flash_attn").replay(cached)
    assert made is not None
    (tmp_path / "c.py").write_text("\n".join([head, *made.imports, *made.lines, "call()"]))
    assert run_script(tmp_path / "c.py", tmp_path) == [
        "kvcache [[2, 1, 28, 128], [2, 64, 4, 128], [2, 64, 4, 128]] "
        "[('cache_seqlens', [9, 5]), ('num_splits', 3)]"
    ]


@pytest.mark.parametrize(
    "call",
    [
        AttentionCall("flash_attn", "fwd", 1, 1, 9, 28, 4, 128, alibi=True),
        AttentionCall("flash_attn", "varlen_fwd", 2, 1, 9, 28, 4, 128),
        AttentionCall("flash_attn", "fwd_kvcache", 2, 1, 9, 28, 4, 128, cache_seqlens=True),
        AttentionCall("flash_attn", "fwd_kvcache", 2, 1, 9, 28, 4, 128, page_block_size=256),
    ],
)
def test_what_the_record_does_not_tell_is_not_made_up(call: AttentionCall) -> None:
    assert library("flash_attn").replay(call) is None


def test_a_call_without_arguments_or_of_no_such_number_is_an_error(tmp_path: Path) -> None:
    trace = hybrid_trace(tmp_path / "t.json", [full], steps=2)
    done = attnprof("replay", str(trace), "--call", "0")
    assert done.code == 2
    assert "were not recorded" in done.err
    assert attnprof("replay", str(trace), "--call", "99").code == 2
    assert not list(tmp_path.glob("replay*"))


def test_the_profiler_skips_earlier_launches_of_the_kernel() -> None:
    assert ncu_words("flash_fwd_kernel", 7, "python x.py") == (
        "ncu --kernel-name flash_fwd_kernel --launch-skip 7 --launch-count 1 --set full python x.py"
    )
