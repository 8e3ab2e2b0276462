"""A report says which backend of torch took the calls, and why no other, where arguments tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnprof.dispatch import predict
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, KernelLaunch
from attnprof.report.summary import summarise
from attnprof.runs import run_folders
from attnprof.runs.run import Run
from tests.support.build_trace import TraceBuilder

H100 = gpu_by_name("h100")
CALL = AttentionCall("torch", "fwd", 1, 512, 512, 8, 8, 128, causal=True)
EFFICIENT = (
    KernelLaunch(
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel::Params)",
        (8, 8, 1),
        (32, 4, 1),
    ),
)


def flash(version: str = "2.8.0") -> tuple[KernelLaunch, ...]:
    return predict(CALL, H100, version).launches


def record(**more: object) -> dict[str, Any]:
    sizes = [1, 8, 512, 128]
    return {
        "seq": 0, "step": None, "phase": "other", "layer": None, "library": "torch", "entry": "sdpa",
        "backend": None, "device": "cuda:0", "dtype": "bf16", "q": sizes, "k": sizes, "v": sizes,
        "causal": True, "dropout_p": 0.0, "mask": None, "enable_gqa": False, **more,
    }  # fmt: skip


def said(
    folder: Path,
    launches: tuple[KernelLaunch, ...],
    recorded: Mapping[str, Any] | None,
    version: str | None = "2.8.0",
) -> str:
    """What the report of one call says of its backend; "" where it says nothing."""
    folder /= f"{len(list(folder.iterdir()))}"
    folder.mkdir()
    made = TraceBuilder()
    made.add("TARGET_INFO_GPU", vmId=1, id=0, name=H100.name, smCount=132, computeMajor=9, computeMinor=0)
    made.domain("attnprof", 1)
    made.call(100, 200, 1)
    for launch in launches:
        made.kernel(launch.kernel, 300, 400, 1, grid=launch.grid, block=launch.block)
    made.range("attn", 50, 500, domainId=1, int64Value=0)
    path = made.write(folder / "trace.sqlite")
    if recorded is not None:
        (folder / run_folders.CALLS_JSONL).write_text(json.dumps(recorded) + "\n")
    config: dict[str, Any] = {"kind": "run"}
    if version:
        config["workload"] = {"versions": {"torch": version}}
    run = Run("made", folder=folder, trace_path=path, config=config)
    return dict(summarise(run.recording, run.check()).facts).get("backend", "")


def test_reasons_are_those_of_the_arguments(tmp_path: Path) -> None:
    told = said(tmp_path, flash(), record())
    assert told.startswith("torch's flash backend took 1 call (as torch 2.8.0 chooses; not ")
    assert "flash is asked first, and takes the call" in told
    told = said(tmp_path, EFFICIENT, record(mask=[1, 1, 512, 512]))
    assert "torch's efficient backend took 1 call" in told
    assert "flash: there is an attn_mask" in told


def test_without_arguments_the_report_says_what_was_not_recorded(tmp_path: Path) -> None:
    told = said(tmp_path, flash(), None)
    assert told == ("torch's flash backend took 1 call; why is not told: their arguments were not recorded.")


@pytest.mark.parametrize(
    ("launches", "fields", "version", "says"),
    [
        (EFFICIENT, {}, "2.8.0", "for whose arguments torch 2.8.0 takes flash: what is not recorded decided"),
        (flash(), {}, "2.3.0", "how torch 2.3.0 chooses is not known"),
        (flash(), {"q": [8, 512, 128]}, "2.8.0", "how torch 2.8.0 chooses is not known"),
        (flash(), {}, None, "a disabled backend or another version."),
        ((), {"backend": "cudnn"}, "2.8.0", "torch's cudnn backend took 1 call, for whose arguments"),
    ],
)
def test_what_cannot_be_told_is_not_made_up(
    tmp_path: Path,
    launches: tuple[KernelLaunch, ...],
    fields: dict[str, Any],
    version: str,
    says: str,
) -> None:
    assert says in said(tmp_path, launches, record(**fields), version)


def test_where_torch_did_not_run_nothing_is_said(tmp_path: Path) -> None:
    other = predict(replace(CALL, library="flash_attn"), H100, "2.8.3").launches
    assert said(tmp_path, other, None) == ""
    assert said(tmp_path, (), record(device="cpu")) == ""
